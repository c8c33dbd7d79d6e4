"""
Faults on command: freeze, kill, cut, mute, deafen, slow down, reject; each is undone.

``pytest_plugin`` has them as fixtures; everywhere else make a ``Faults`` of your own.
"""

import contextlib
import math
import threading
import types

from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

from eventbus_sync.backends.memory import MemoryBroker
from eventbus_sync.errors import BrokerFull, PublishError
from eventbus_sync.testing import _stream_full
from eventbus_sync.testing._in_force import Act, impose
from eventbus_sync.testing._mock_cluster import ApiKey, MockKafkaCluster
from eventbus_sync.testing.broker_errors import NotPossibleHere
from eventbus_sync.testing.memory import MemoryBus
from eventbus_sync.testing.nats_server import NatsServer
from eventbus_sync.testing.proxy import TcpProxy


#: Requests that the mock cluster is told to refuse: more than any test makes.
_REQUESTS = 10_000
#: What it says: TOPIC_AUTHORIZATION_FAILED, for which no producer tries again.
_NOT_ALLOWED = 29


@runtime_checkable
class Process(Protocol):
    """A server in a process of its own: ``NatsServer``, ``KafkaServer``, or yours."""

    @property
    def running(self) -> bool:
        """Whether the process exists."""

    def start(self) -> None:
        """It answers."""

    def kill(self) -> None:
        """It is dead."""

    def freeze(self) -> None:
        """It stands still."""

    def resume(self) -> None:
        """It runs on."""


class BehindProxy(Protocol):
    """A server that was made with ``proxy=TcpProxy()``."""

    @property
    def proxy(self) -> TcpProxy | None:
        """The network before it."""


class Fault:
    """
    Something that was done, and is undone once: by ``undo()`` or by the end of ``with``.

    Args:
        undo: how.
        seconds: when, if nothing else does before; None for never.
    """

    def __init__(self, undo: Callable[[], None], seconds: float | None = None) -> None:
        self._undo = undo
        self._lock = threading.Lock()
        self._undone = False
        self._timer: threading.Timer | None = None
        if seconds is not None:
            self._timer = threading.Timer(seconds, self._undo_once)
            self._timer.daemon = True
            self._timer.start()

    def undo(self) -> None:
        """It is as it was; raises what cannot be undone."""
        self._undo_once()
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def wait(self) -> None:
        """Return when its seconds are over and it was undone."""
        if self._timer is not None:
            self._timer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.undo()

    def _undo_once(self) -> None:
        # Under the lock, so that whoever comes second returns when it is done.
        with self._lock:
            if not self._undone:
                self._undo()
                self._undone = True


class Faults:
    """
    Every fault can be used in three ways; at the latest ``undo()`` of this undoes it::

        with faults.freeze(server):       # until the end of the block
            ...
        faults.freeze(server, seconds=2)  # for so long, while the test goes on
        fault = faults.freeze(server)     # until fault.undo()

    Several on one server or network: the newest counts, and when it ends the one before
    it is in force again. But a server that is frozen cannot be killed meanwhile.

    Verbs may be called from any thread. They raise NotPossibleHere for what cannot be
    broken so.
    """

    def __init__(self) -> None:
        self._done: list[Fault] = []

    def freeze(self, server: Process, *, seconds: float | None = None) -> Fault:
        """The server takes connections and bytes, and answers nothing; then it runs on."""
        _check_process(server)
        undo = impose(
            "freeze",
            server,
            server.freeze,
            again=lambda: None,  # it stands still until the last one has ended
            heal=lambda: _resume(server),
        )
        return self._noted(undo, seconds)

    def kill(self, server: Process, *, seconds: float | None = None) -> Fault:
        """The server is dead by SIGKILL; then it is started again on its port."""
        _check_process(server)
        undo = impose(
            "kill",
            server,
            server.kill,
            again=lambda: None,
            heal=lambda: _start(server),
        )
        return self._noted(undo, seconds)

    def cut(
        self, network: TcpProxy | BehindProxy, *, seconds: float | None = None
    ) -> Fault:
        """Connections are reset and new ones refused; then the network is whole."""
        proxy = _proxy(network)
        return self._noted(_on_the_way(proxy, proxy.cut), seconds)

    def mute(
        self, network: TcpProxy | BehindProxy, *, seconds: float | None = None
    ) -> Fault:
        """The server hears all and is not heard; then connections are reset."""
        proxy = _proxy(network)
        return self._noted(_on_the_way(proxy, proxy.mute), seconds)

    def deaf(
        self, network: TcpProxy | BehindProxy, *, seconds: float | None = None
    ) -> Fault:
        """Connections stand, but nothing gets through; then they are reset."""
        proxy = _proxy(network)
        return self._noted(_on_the_way(proxy, proxy.deaf), seconds)

    def slow(
        self,
        network: TcpProxy | BehindProxy,
        delay: float = 0.0,
        bytes_per_second: float | None = None,
        *,
        seconds: float | None = None,
    ) -> Fault:
        """Bytes get through late or few at a time, see ``TcpProxy.slow``."""
        proxy = _proxy(network)
        undo = _on_the_way(proxy, lambda: proxy.slow(delay, bytes_per_second))
        return self._noted(undo, seconds)

    def reject(
        self,
        broker: MemoryBus | MemoryBroker | MockKafkaCluster | NatsServer,
        error: PublishError | int | None = None,
        *,
        stream: str | None = None,
        seconds: float | None = None,
    ) -> Fault:
        """
        The broker refuses every event that comes; then it takes them again.

        Args:
            broker: memory refuses with *error*, by default ``BrokerFull``; the mock
                cluster with Kafka's error code *error*, by default "not authorized"; a
                NATS server says that *stream* is full.
            error: see there.
            stream: an existing one of the NATS server.
            seconds: how long, unless it is undone before.

        Raises:
            NotPossibleHere: this broker cannot be told to refuse.
            TypeError: arguments for another kind of broker.
        """
        if isinstance(broker, NatsServer):
            if stream is None or error is not None:
                message = "a NATS server needs to know the stream, and says itself why"
                raise TypeError(message)
            return self._noted(_stream_full.fill(broker.url, stream), seconds)
        if isinstance(broker, MockKafkaCluster):
            code = _NOT_ALLOWED if error is None else error
            if not isinstance(code, int):
                message = "the mock cluster refuses with a code of Kafka's, a number"
                raise TypeError(message)
            broker.push_request_errors(ApiKey.PRODUCE, *[code] * _REQUESTS)
            return self._noted(
                lambda: broker.clear_request_errors(ApiKey.PRODUCE), seconds
            )
        memory = broker.broker if isinstance(broker, MemoryBus) else broker
        if not isinstance(memory, MemoryBroker):
            message = f"{broker!r} cannot be told to refuse"
            raise NotPossibleHere(message)
        if isinstance(error, int):
            message = "memory refuses with a PublishError"
            raise TypeError(message)
        memory.reject(error or BrokerFull("refused on purpose"), times=math.inf)
        return self._noted(memory.accept, seconds)

    def undo(self) -> None:
        """Everything is as it was, the last fault undone first; the first error raises."""
        with contextlib.ExitStack() as stack:
            for fault in self._done:
                stack.callback(fault.undo)
            self._done = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.undo()

    def _noted(self, undo: Callable[[], None], seconds: float | None) -> Fault:
        fault = Fault(undo, seconds)
        self._done.append(fault)
        return fault


def _resume(server: Process) -> None:
    # It may have been killed meanwhile; whoever did that starts it again.
    if server.running:
        server.resume()


def _start(server: Process) -> None:
    # What was closed for good is not broken any more.
    if not getattr(server, "closed", False):
        server.start()


def _on_the_way(proxy: TcpProxy, verb: Act) -> Act:
    """Break the network; every verb says how all of it is, so they may follow."""

    def unless_closed(act: Act) -> None:
        if proxy.running:
            act()

    return impose(
        "network",
        proxy,
        verb,
        again=lambda: unless_closed(verb),
        heal=lambda: unless_closed(proxy.heal),
    )


def _check_process(server: object) -> None:
    if not isinstance(server, Process):
        message = f"{server!r} is no process that can be broken, see NatsServer"
        raise NotPossibleHere(message)


def _proxy(network: TcpProxy | BehindProxy) -> TcpProxy:
    if isinstance(network, TcpProxy):
        return network
    # A URL, for example, has none either.
    proxy: TcpProxy | None = getattr(network, "proxy", None)
    if proxy is None:
        message = (
            f"there is no TcpProxy before {network!r}; make it with proxy=TcpProxy()"
        )
        raise NotPossibleHere(message)
    return proxy
