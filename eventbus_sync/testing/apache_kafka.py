"""Apache Kafka itself: one node in KRaft mode, from a folder of yours with its jars."""

import os
import re
import shutil
import subprocess

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eventbus_sync.testing._kafka_metadata import ask_metadata
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing._server import Server
from eventbus_sync.testing.broker_errors import BrokerNotInstalled, BrokerStartFailed
from eventbus_sync.testing.proxy import TcpProxy


_OLDEST_JAVA = 17  # what Kafka 4 brokers are compiled for

_JAVA_OPTIONS = (
    "-Xms64m",
    "-Xmx384m",
    # Made for a short life on few cores: quick to start rather than fast at last.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
)

_LOG4J2 = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""

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


def find_java() -> str:
    """
    The java of JAVA_HOME or PATH.

    Raises:
        BrokerNotInstalled: there is none, or one too old.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        message = "Apache Kafka needs Java: no java in JAVA_HOME or on PATH"
        raise BrokerNotInstalled(message)
    said = subprocess.run(  # noqa: S603 - the user's own Java
        [java, "-version"], capture_output=True, text=True, check=False, timeout=60
    ).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < _OLDEST_JAVA:
        message = f"Apache Kafka needs Java {_OLDEST_JAVA}; {java} says: {said.strip()}"
        raise BrokerNotInstalled(message)
    return java


def find_jars(home: Path) -> Path:
    """
    The folder with the jars: ``libs`` of an unpacked Apache Kafka, or *home* itself.

    Raises:
        BrokerNotInstalled: there are none.
    """
    for folder in (home / "libs", home):
        if any(folder.glob("kafka_*.jar")):
            return folder.resolve()
    message = (
        f"{home} holds no Apache Kafka: unpack a download of it, and name that folder"
    )
    raise BrokerNotInstalled(message)


class ApacheKafkaServer(Server):
    """
    One node, broker and controller in one; nothing runs before ``start()`` or ``with``.

    Data survives ``restart()`` as well as ``kill()`` and ``start()``. It takes some
    seconds to start. Verbs, threads and ``fork()``: see ``Server``.

    Args:
        home: an unpacked Apache Kafka 4, or a folder with its jars.
        properties: more server properties; they win over ours.
        ports: client port and controller port; free ones by default.
        folder: where log and data are kept; by default a temporary one.
        start_timeout: seconds until it must answer.
        proxy: a network that breaks on command; ``bootstrap_servers`` is then its
            address.

    ``start()`` raises BrokerNotInstalled as well, without Java or jars.
    """

    name = "apache-kafka"

    def __init__(  # noqa: PLR0913 - settings by name
        self,
        home: Path,
        *,
        properties: Mapping[str, str] | None = None,
        ports: Sequence[int] = (),
        folder: Path | None = None,
        start_timeout: float = 60.0,
        proxy: TcpProxy | None = None,
    ) -> None:
        super().__init__(
            ports=ports,
            folder=folder,
            start_timeout=start_timeout,
            stop_timeout=8.0,
            proxy=proxy,
        )
        self._home = home
        self._properties = dict(properties or {})

    @property
    def bootstrap_servers(self) -> str:
        """``127.0.0.1:PORT`` where clients find it, the same for life."""
        return f"{HOST}:{self.public_port}"

    def _choose_ports(self) -> tuple[int, ...]:
        return free_port(), free_port()

    def _jars(self) -> Path:
        return find_jars(self._home)

    def _command(self, folder: Path) -> Sequence[str]:
        java = [find_java(), *_JAVA_OPTIONS, "-cp", f"{self._jars()}/*"]
        log4j2 = folder / "log4j2.properties"
        log4j2.write_text(_LOG4J2)
        java.append(f"-Dlog4j2.configurationFile={log4j2}")
        settings = folder / "server.properties"
        settings.write_text("".join(f"{k}={v}\n" for k, v in self._settings(folder)))
        if not (folder / "data" / "meta.properties").exists():
            self._format(java, settings)
        return [*java, "kafka.Kafka", str(settings)]

    def _format(self, java: Sequence[str], settings: Path) -> None:
        command = [*java, "kafka.tools.StorageTool", "format", "-c", str(settings)]
        command += ["--cluster-id", self.identity, *self._format_options()]
        done = subprocess.run(  # noqa: S603 - the user's own Kafka
            command, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            message = f"kafka-storage format failed: {done.stdout}{done.stderr}"
            raise BrokerStartFailed(message)

    def _format_options(self) -> Sequence[str]:
        return ()

    def _settings(self, folder: Path) -> Iterable[tuple[str, str]]:
        client, controller = self._ports
        settings = node_settings(
            1, {"PLAINTEXT": client}, {1: controller}, data=folder / "data"
        )
        # Clients go where it tells them to go, whatever address they came by.
        settings["advertised.listeners"] = f"PLAINTEXT://{self.bootstrap_servers}"
        return (settings | self._properties).items()

    def _answers(self) -> bool:
        metadata = ask_metadata(self.port)
        return metadata is not None and metadata.cluster_id == self.identity


def node_settings(
    node_id: int,
    listeners: Mapping[str, int],
    controllers: Mapping[int, int],
    *,
    data: Path,
) -> dict[str, str]:
    """
    Properties of a node that is broker and controller: quiet, small, quick to recover.

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
