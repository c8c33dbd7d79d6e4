"""
Apache Kafka itself, in KRaft mode, for what no stand-in can show.

Elections, replication, transactions' and idempotence's state over restarts, ACLs, SASL
and TLS behave here as they do in production. A node needs some seconds to start.
"""

import concurrent.futures
import time

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import confluent_kafka

from support.kafka_jars import availability, find_jars
from support.kafka_settings import sasl_settings
from support.kafka_tls import write_pem_files

from eventbus_sync.testing._kafka_metadata import ask_metadata
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing.apache_kafka import ApacheKafkaServer, node_settings
from eventbus_sync.testing.broker_errors import BrokerStartFailed
from eventbus_sync.testing.proxy import TcpProxy


__all__ = ["ApacheKafka", "ApacheKafkaCluster", "availability"]


class ClusterPlan(NamedTuple):
    """What the nodes of one cluster agree on: its id, and node id → controller port."""

    cluster_id: str
    controllers: Mapping[int, int]


class ApacheKafka(ApacheKafkaServer):
    """
    One node, broker and controller in one; nothing runs before ``start()`` or ``with``.

    Data survives ``restart()`` as well as ``kill()`` and ``start()``. Verbs, threads and
    ``fork()``: see ``Server``.

    Args:
        properties: more server properties; they win over ours.
        auto_create_topics: whether a topic appears when somebody asks for it.
        users: name → password. Opens a second listener, SASL_SSL, on which they log in
            with PLAIN or SCRAM-SHA-256; the unprotected one stays for the test itself.
        folder: where log and data are kept; by default a temporary one.
        start_timeout: seconds until it must answer.
        node_id: number of this node, in a cluster.
        plan: the cluster it is part of; by default one of its own.
        ports: client port, controller port, and with ``users`` the SASL_SSL port.
        proxy: the network before its unprotected listener; not in a cluster, whose
            nodes would talk through it.

    ``start()`` raises BrokerNotInstalled as well, for whatever ``availability()`` tells.
    """

    def __init__(
        self,
        *,
        properties: Mapping[str, str] | None = None,
        auto_create_topics: bool = True,
        users: Mapping[str, str] | None = None,
        folder: Path | None = None,
        start_timeout: float = 60.0,
        node_id: int = 1,
        plan: ClusterPlan | None = None,
        ports: Sequence[int] = (),
        proxy: TcpProxy | None = None,
    ) -> None:
        super().__init__(
            Path(),
            properties=properties,
            ports=ports,
            folder=folder,
            start_timeout=start_timeout,
            proxy=proxy,
        )
        self.node_id = node_id
        self._auto_create_topics = auto_create_topics
        self._users = dict(users or {})
        self._plan = plan
        if plan is not None:
            self.identity = plan.cluster_id

    @property
    def sasl_bootstrap_servers(self) -> str:
        """``127.0.0.1:PORT`` of the SASL_SSL listener that ``users`` opened."""
        assert self._users, "no users, no SASL listener"
        assert self.port  # else started first
        return f"{HOST}:{self._ports[2]}"

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that signed the SASL_SSL listener's."""
        return self._folder() / "ca.pem"

    def _choose_ports(self) -> tuple[int, ...]:
        return tuple(free_port() for _ in range(3 if self._users else 2))

    def _jars(self) -> Path:
        return find_jars()

    def _command(self, folder: Path) -> Sequence[str]:
        if self._users and not self.ca_file.exists():
            write_pem_files(folder)
        return super()._command(folder)

    def _format_options(self) -> Sequence[str]:
        options: list[str] = []
        for name, password in self._users.items():
            options += [
                "--add-scram",
                f"SCRAM-SHA-256=[name={name},password={password}]",
            ]
        return options

    def _settings(self, folder: Path) -> Iterable[tuple[str, str]]:
        client, controller, *sasl = self._ports
        listeners = {"PLAINTEXT": client} | ({"SASL_SSL": sasl[0]} if sasl else {})
        plan = self._plan or ClusterPlan(self.identity, {self.node_id: controller})
        settings = node_settings(
            self.node_id, listeners, plan.controllers, data=folder / "data"
        )
        if self.proxy is not None:
            settings["advertised.listeners"] = f"PLAINTEXT://{self.bootstrap_servers}"
        if sasl:
            settings |= sasl_settings(self._users, folder / "server.pem")
        settings["auto.create.topics.enable"] = str(self._auto_create_topics).lower()
        return (settings | self._properties).items()

    def _answers(self) -> bool:
        metadata = ask_metadata(self.port)
        return (
            metadata is not None
            and metadata.cluster_id == self.identity
            and self.node_id in metadata.node_ids
        )


class ApacheKafkaCluster:
    """
    Nodes that replicate everything to each other; nothing runs before ``start()``.

    Replication factor is the size, min.insync.replicas 2 (properties win). Break single
    nodes by ``nodes[i].kill()``, ``.freeze()`` and so on.

    Args:
        size: number of nodes, each broker and controller.
        properties: more server properties, for every node.
        auto_create_topics: whether a topic appears when somebody asks for it.
        start_timeout: seconds until every node must know every other.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        properties: Mapping[str, str] | None = None,
        auto_create_topics: bool = True,
        start_timeout: float = 120.0,
    ) -> None:
        self._size = size
        self._properties = properties
        self._auto_create_topics = auto_create_topics
        self._start_timeout = start_timeout
        self.nodes = self._new_nodes()

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` of every node, comma-separated."""
        return ",".join(node.bootstrap_servers for node in self.nodes)

    def start(self) -> None:
        """Every node runs and knows every other; BrokerStartFailed if not in time."""
        for attempts_left in (2, 1, 0):
            try:
                self._start_nodes()
            except BrokerStartFailed as error:
                self.close()
                if not (error.port_taken and attempts_left):
                    raise
                self.nodes = self._new_nodes()
            else:
                return

    def stop(self) -> None:
        """
        Every node has ended; ``start()`` finds everything again.

        The last ones after some seconds and by force: a node whose cluster has lost its
        majority would wait five minutes for leave to end.
        """
        self._everywhere(ApacheKafka.stop)

    def close(self) -> None:
        """Every node has ended and its temporary folder is gone."""
        self._everywhere(ApacheKafka.close)

    def in_sync(self, topic: str) -> bool:
        """Whether every node holds every partition of the topic up to date, just now."""
        settings = {"bootstrap.servers": self.bootstrap_servers, "log_level": 0}
        with confluent_kafka.Producer(settings) as client:
            partitions = client.list_topics(topic, timeout=5).topics[topic].partitions
        return all(len(p.isrs) == self._size for p in partitions.values())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new_nodes(self) -> tuple[ApacheKafka, ...]:
        ids = range(1, self._size + 1)
        ports = {node_id: (free_port(), free_port()) for node_id in ids}
        cluster_id = f"eventbus-{ports[1][0]}-{time.monotonic_ns()}"
        plan = ClusterPlan(cluster_id, {n: ports[n][1] for n in ids})
        return tuple(
            ApacheKafka(
                properties=self._properties,
                auto_create_topics=self._auto_create_topics,
                start_timeout=self._start_timeout,
                node_id=node_id,
                plan=plan,
                ports=ports[node_id],
            )
            for node_id in ids
        )

    def _start_nodes(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        # All at once: the first answers only when it has found a majority.
        self._everywhere(ApacheKafka.start)
        while not all(self._knows_all(node) for node in self.nodes):
            if time.monotonic() > deadline:
                message = f"the nodes did not find each other: {self.nodes[0].log}"
                raise BrokerStartFailed(message)
            time.sleep(0.05)

    def _knows_all(self, node: ApacheKafka) -> bool:
        metadata = ask_metadata(node.port)
        return metadata is not None and len(metadata.node_ids) == self._size

    def _everywhere(self, verb: Callable[[ApacheKafka], None]) -> None:
        with concurrent.futures.ThreadPoolExecutor(self._size) as pool:
            for done in [pool.submit(verb, node) for node in self.nodes]:
                done.result()
