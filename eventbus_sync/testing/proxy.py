"""A network that breaks on command: a TCP proxy in front of a server."""

import contextlib
import os
import selectors
import socket
import threading
import time
import types

from collections import deque
from collections.abc import Callable
from typing import Self

from eventbus_sync._threads import Deadline, spawn
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing._proxy_pair import Line, Pair


#: Seconds that a verb may take, and the thread to end.
_PATIENCE = 10.0
_PORT_ATTEMPTS = 50


class TcpProxy:
    """
    Passes bytes on to a server until it is told not to; ``with`` starts and ends it.

    Each verb describes the whole network from now on: ``slow()`` after ``cut()`` is a
    slow network. When a verb returns, it is so; OSError if somebody has taken the port
    while it was cut.

    Give it to a server, which then is where clients look for it::

        with TcpProxy() as proxy, NatsServer(proxy=proxy) as server:
            bus = EventBus(NatsConfig(servers=server.url))
            proxy.cut()

    or put it in front of one that runs already: ``TcpProxy(server.port)``. A Kafka
    client goes where the broker tells it to go, so a broker has to know its proxy.

    One thread, which never blocks. Verbs may be called from any thread. After ``fork()``
    it belongs to the parent: ``close()`` does nothing in the child, the other verbs
    raise RuntimeError.

    Args:
        port: where the server listens; ``lead_to`` says it later.
        host: on which machine.
    """

    def __init__(self, port: int | None = None, *, host: str = HOST) -> None:
        self._address = None if port is None else (host, port)
        self._owner = os.getpid()
        self._line = Line()
        self._pairs: set[Pair] = set()
        self._accepted = 0
        self._swallowed = 0
        self._port = 0
        self._listener: socket.socket | None = None
        self._orders: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._ending = False

    @property
    def port(self) -> int:
        """
        Where it listens on 127.0.0.1, the same for life.

        Raises:
            RuntimeError: not started yet.
        """
        if not self._port:
            message = "the proxy has no port before its start()"
            raise RuntimeError(message)
        return self._port

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``; raises what ``port`` raises."""
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and not closed."""
        return self._thread is not None and not self._ending

    @property
    def connections(self) -> int:
        """How many connections it has now."""
        return len(self._pairs)

    @property
    def accepted(self) -> int:
        """How many connections it has taken so far."""
        return self._accepted

    @property
    def swallowed(self) -> int:
        """How many bytes of servers it has thrown away while it was ``mute()``."""
        return sum(pair.swallowed for pair in list(self._pairs)) + self._swallowed

    def start(self) -> None:
        """It listens; one that does already is left as it is."""
        if self._thread is not None:
            return
        self._listen_somewhere()
        self._selector = selectors.DefaultSelector()
        self._waker, self._bell = socket.socketpair()
        self._waker.setblocking(False)  # noqa: FBT003 - there is no other way
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._follow_the_line()
        self._thread = spawn("tcp-proxy", self._run)

    def lead_to(self, port: int, host: str = HOST) -> None:
        """New connections go to that server."""
        self._address = (host, port)

    def cut(self) -> None:
        """Every connection is reset, and new ones are refused."""
        self._order(Line(up=False))

    def deaf(self) -> None:
        """
        Connections stand and new ones are taken, but nothing gets through, either way.

        What is sent is thrown away. So ``heal()`` resets every connection of this time:
        both sides learn what one has after a router was replaced.
        """
        self._order(Line(deaf=True))

    def mute(self) -> None:
        """
        The server hears what is said to it, and nothing that it says gets through.

        So it stores what it is told to store, and nobody knows; see ``swallowed``. As
        answers are thrown away, ``heal()`` resets every connection of this time.
        """
        self._order(Line(mute=True))

    def slow(self, delay: float = 0.0, bytes_per_second: float | None = None) -> None:
        """
        Bytes get through late, or few at a time, or both.

        Args:
            delay: seconds that each byte needs, each way.
            bytes_per_second: how many, each way and for each connection.
        """
        if delay < 0 or (bytes_per_second is not None and bytes_per_second <= 0):
            message = "delay must not be negative, and bytes_per_second not zero"
            raise ValueError(message)
        self._order(Line(delay=delay, bytes_per_second=bytes_per_second))

    def heal(self) -> None:
        """Everything gets through at once, as in the beginning."""
        self._order(Line())

    def close(self) -> None:
        """Its connections are reset, its port is free. Calling it again does nothing."""
        thread = self._thread
        if self._owner != os.getpid() or thread is None or self._ending:
            return
        self._ending = True
        self._ring()
        thread.join(_PATIENCE)
        self._bell.close()

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

    # -- verbs, on the caller's thread -------------------------------------------------

    def _order(self, line: Line) -> None:
        if self._owner != os.getpid():
            message = f"this proxy belongs to process {self._owner}, not to this one"
            raise RuntimeError(message)
        if not self.running:
            message = "the proxy does not run"
            raise RuntimeError(message)
        done = threading.Event()
        errors: list[OSError] = []

        def change() -> None:
            try:
                self._become(line)
            except OSError as error:
                errors.append(error)
            finally:
                done.set()

        self._orders.append(change)
        self._ring()
        if not done.wait(_PATIENCE):  # pragma: no cover - the thread never blocks
            message = "the proxy's thread does not answer"
            raise RuntimeError(message)
        if errors:  # somebody took our port meanwhile
            raise errors[0]

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it has just been closed
            self._bell.send(b"x")

    # -- on the proxy's thread ---------------------------------------------------------

    def _run(self) -> None:
        again: float | None = None
        while not self._ending:
            wait = None if again is None else max(0.0, again - time.monotonic())
            for key, _ in self._selector.select(wait):
                if key.fileobj is self._waker:
                    with contextlib.suppress(BlockingIOError):
                        self._waker.recv(4096)
                elif key.fileobj is self._listener:
                    self._accept()
            while self._orders:
                self._orders.popleft()()
            again = self._step()
        self._become(Line(up=False))
        self._selector.close()
        self._waker.close()

    def _step(self) -> float | None:
        now, again = time.monotonic(), []
        for pair in list(self._pairs):
            try:
                due = pair.step(now, self._line)
            except EOFError:
                self._forget(pair)
                pair.close()
            except OSError:
                self._drop(pair)
            else:
                if due is not None:
                    again.append(due)
        return min(again, default=None)

    def _accept(self) -> None:
        assert self._listener is not None  # noqa: S101 - it had something to say
        try:
            client, _ = self._listener.accept()
        except OSError:  # pragma: no cover - it has gone again
            return
        self._accepted += 1
        address = None if self._line.deaf else self._address
        if address is None and not self._line.deaf:
            client.close()  # there is no server yet
            return
        try:
            pair = Pair(self._selector, client, address)
        except OSError:  # pragma: no cover - it has gone again, or out of sockets
            client.close()
            return
        self._pairs.add(pair)
        if self._line.mute:
            pair.mute()

    def _drop(self, pair: Pair) -> None:
        self._forget(pair)
        pair.drop()

    def _forget(self, pair: Pair) -> None:
        self._pairs.discard(pair)
        self._swallowed += pair.swallowed

    def _become(self, line: Line) -> None:
        self._line = line
        for pair in list(self._pairs):
            if line.deaf:
                pair.deafen()
            elif line.mute and not pair.deafened:
                pair.mute()
            elif pair.spoilt or not line.up:
                self._drop(pair)
        self._follow_the_line()

    def _follow_the_line(self) -> None:
        """Listen if the line is up, and do not if it is not."""
        if self._line.up:
            listener = self._listener or _listening_on(self._port)
            if self._listener is None or listener not in self._selector.get_map():
                self._listener = listener
                self._selector.register(listener, selectors.EVENT_READ)
        elif self._listener is not None:
            self._selector.unregister(self._listener)
            # Ends the listening even if a forked child has a copy of the socket.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _listen_somewhere(self) -> None:
        for attempts_left in reversed(range(_PORT_ATTEMPTS)):
            port = free_port()
            try:
                self._listener = _listening_on(port, patience=0.0)
            except OSError:  # somebody was faster
                if not attempts_left:
                    raise
            else:
                self._port = port
                return


def _listening_on(port: int, patience: float = 1.0) -> socket.socket:
    deadline = Deadline.after(patience)
    while True:
        try:
            listener = socket.create_server((HOST, port), backlog=512)
        except OSError:
            if deadline.expired():
                raise
            time.sleep(0.01)
        else:
            listener.setblocking(False)  # noqa: FBT003 - there is no other way
            return listener
