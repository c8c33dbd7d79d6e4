"""Server properties of Apache Kafka nodes that are quiet, small and quick to recover."""

from collections.abc import Mapping
from pathlib import Path

from eventbus_sync.testing._ports import HOST


_QUIET_AND_QUICK = {
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A killed node may come back only when its old session is over.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # A frozen controller takes connections: the brokers leave it for its successor only
    # when a request times out, and meanwhile allot no producer ids and mend no ISR.
    "request.timeout.ms": "3000",
    "controller.socket.timeout.ms": "3000",
}

_INTERNAL_TOPICS = (
    "offsets.topic",
    "transaction.state.log",
    "share.coordinator.state.topic",
)


def node_settings(
    node_id: int,
    listeners: Mapping[str, int],
    controllers: Mapping[int, int],
    *,
    data: Path,
) -> dict[str, str]:
    """
    Settings of a node that is broker and controller.

    Args:
        node_id: this node.
        listeners: security protocol → port, for clients; PLAINTEXT is the brokers' own.
        controllers: node id → controller port, of every node of the cluster.
        data: folder of the logs.
    """
    size = len(controllers)
    enough = str(min(2, size))
    advertised = ",".join(f"{n}://{HOST}:{p}" for n, p in listeners.items())
    voters = ",".join(f"{node}@{HOST}:{port}" for node, port in controllers.items())
    return {
        "process.roles": "broker,controller",
        "node.id": str(node_id),
        "controller.quorum.voters": voters,
        "listeners": f"{advertised},CONTROLLER://{HOST}:{controllers[node_id]}",
        "advertised.listeners": advertised,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL"
        ),
        "log.dirs": str(data),
        "default.replication.factor": str(size),
        "min.insync.replicas": enough,
        **{f"{topic}.replication.factor": str(size) for topic in _INTERNAL_TOPICS},
        **{f"{topic}.min.isr": enough for topic in _INTERNAL_TOPICS[1:]},
        **_QUIET_AND_QUICK,
    }


def sasl_settings(users: Mapping[str, str], certificate: Path) -> dict[str, str]:
    """Settings of a SASL_SSL listener: name → password, and key and chain in one PEM."""
    modules = "org.apache.kafka.common.security"
    accounts = "".join(f' user_{n}="{p}"' for n, p in users.items())
    listener = "listener.name.sasl_ssl"
    return {
        f"{listener}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
        f"{listener}.plain.sasl.jaas.config": (
            f"{modules}.plain.PlainLoginModule required{accounts};"
        ),
        f"{listener}.scram-sha-256.sasl.jaas.config": (
            f"{modules}.scram.ScramLoginModule required;"
        ),
        f"{listener}.ssl.keystore.type": "PEM",
        f"{listener}.ssl.keystore.location": str(certificate),
    }
