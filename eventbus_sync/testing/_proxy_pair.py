"""One connection through the proxy: two sockets, and what is on its way between them."""

import contextlib
import os
import selectors
import socket
import struct

from collections import deque

import attrs


#: Bytes of one direction that may wait; more stay with their sender, as on a real line.
ROOM = 4_000_000
#: Bytes that are read at once.
_CHUNK = 262_144
#: Seconds of a slow line that are written at once.
_PORTION = 0.02

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_NOTHING_NOW = (BlockingIOError, InterruptedError)
_RESET = struct.pack("ii", 1, 0)


@attrs.frozen(kw_only=True)
class Line:
    """
    What the network is like.

    Attributes:
        up: whether there is one; without it connections are refused.
        deaf: bytes are taken from both sides and thrown away.
        mute: bytes are taken from the server and thrown away.
        delay: seconds that bytes need, each way.
        bytes_per_second: each way and for each connection; None for no limit.
    """

    up: bool = True
    deaf: bool = False
    mute: bool = False
    delay: float = 0.0
    bytes_per_second: float | None = None


class Direction:
    """Bytes on their way from one socket to another."""

    __slots__ = (
        "_back",
        "_free_at",
        "_size",
        "_waiting",
        "ended",
        "source",
        "swallowed",
        "target",
        "told",
    )

    def __init__(
        self, source: socket.socket, target: socket.socket, *, back: bool = False
    ) -> None:
        self.source, self.target = source, target
        #: Bytes that a mute line has thrown away.
        self.swallowed = 0
        self._back = back
        #: Whether the source has sent its last byte.
        self.ended = False
        #: Whether the target knows that.
        self.told = False
        self._waiting: deque[tuple[float, memoryview]] = deque()
        self._size = 0
        self._free_at = 0.0

    @property
    def takes_more(self) -> bool:
        """Whether the source may be read."""
        return not self.ended and self._size < ROOM

    def due(self) -> float | None:
        """Return when something can be written, or None while there is nothing."""
        if not self._waiting:
            return None
        return max(self._waiting[0][0], self._free_at)

    def read(self, now: float, line: Line) -> None:
        """Take from the source what it has, if it has something."""
        with contextlib.suppress(*_NOTHING_NOW):
            data = self.source.recv(_CHUNK)
            if not data:
                self.ended = True
            elif line.mute and self._back:
                self.swallowed += len(data)
            elif not line.deaf:
                self._waiting.append((now + line.delay, memoryview(data)))
                self._size += len(data)

    def write(self, now: float, line: Line) -> None:
        """Give the target what is due, as much as it takes."""
        with contextlib.suppress(*_NOTHING_NOW):
            while (due := self.due()) is not None and due <= now:
                at, data = self._waiting.popleft()
                portion = data
                if line.bytes_per_second is not None:
                    portion = data[: max(1, int(line.bytes_per_second * _PORTION))]
                sent = 0
                try:
                    sent = self.target.send(portion)
                finally:
                    if sent < len(data):
                        self._waiting.appendleft((at, data[sent:]))
                    self._size -= sent
                if line.bytes_per_second is not None:
                    self._free_at = now + sent / line.bytes_per_second
                elif sent < len(portion):
                    return

    def tell_the_end(self) -> None:
        """The target has seen the end, once it has everything before it."""
        if self.ended and not self.told and not self._waiting:
            self.told = True
            with contextlib.suppress(OSError):  # it may be gone already
                self.target.shutdown(socket.SHUT_WR)

    def swallow(self) -> None:
        """What is on its way is lost, and counted."""
        self.swallowed += self._size
        self.forget()

    def forget(self) -> None:
        """What is on its way is lost."""
        self._waiting.clear()
        self._size = 0


class Pair:
    """
    A client, and the server that it thinks it talks to; on the proxy's thread only.

    Args:
        selector: of that thread.
        client: the accepted socket.
        address: of the server, or None if the line is deaf: nothing gets there.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        client: socket.socket,
        address: tuple[str, int] | None,
    ) -> None:
        self._selector = selector
        self._sockets = [client]
        self._directions: list[Direction] = []
        self._connecting: socket.socket | None = None
        #: Whether bytes of both sides were thrown away.
        self.deafened = address is None
        self._muted = False
        client.setblocking(False)  # noqa: FBT003 - there is no other way
        server = socket.socket()
        server.setblocking(False)  # noqa: FBT003
        if address is None:
            # Never connected: what it would get is thrown away.
            server.close()
        else:
            self._sockets.append(server)
            self._connecting = server
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.connect_ex(address)  # how it went is asked when it is writable
        self._directions = [
            Direction(client, server),
            Direction(server, client, back=True),
        ]

    def deafen(self) -> None:
        """What is on its way is lost, and so is the connection when the line is back."""
        self.deafened = True
        for direction in self._directions:
            direction.forget()

    def mute(self) -> None:
        """Answers that are on their way are lost, and so is the connection later."""
        self._muted = True
        self._directions[1].swallow()

    @property
    def swallowed(self) -> int:
        """Bytes of the server that a mute line has thrown away."""
        return self._directions[1].swallowed

    @property
    def spoilt(self) -> bool:
        """Whether bytes were thrown away, so that nothing sensible can follow."""
        return self.deafened or self._muted

    def step(self, now: float, line: Line) -> float | None:
        """
        Move what can be moved.

        Returns:
            When to come back even if no socket has anything to say, or None.

        Raises:
            EOFError: both sides have ended, and know it of each other.
            OSError: the connection is lost.
        """
        if self._connecting is not None:
            if not _connected(self._connecting):
                self._listen({self._connecting: _WRITE})
                return None
            self._connecting = None
        for direction in self._directions:
            if direction.takes_more and direction.source.fileno() >= 0:
                direction.read(now, line)
            direction.write(now, line)
            if not line.deaf:
                direction.tell_the_end()
        if line.deaf:
            self._wait_deaf()
            return None
        if all(direction.told for direction in self._directions):
            raise EOFError
        return self._wait(now)

    def close(self) -> None:
        """The connection is gone; what the kernel still has to send is sent."""
        for one in self._sockets:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(one)
            # Ends it even if a forked child has a copy of the socket.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def drop(self) -> None:
        """Both sides have lost the connection; they see a reset."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def _wait(self, now: float) -> float | None:
        wanted: dict[socket.socket, int] = {}
        later = []
        for direction in self._directions:
            if direction.takes_more:
                wanted[direction.source] = wanted.get(direction.source, 0) | _READ
            due = direction.due()
            if due is None:
                continue
            if due <= now:
                wanted[direction.target] = wanted.get(direction.target, 0) | _WRITE
            else:
                later.append(due)
        self._listen(wanted)
        return min(later, default=None)

    def _wait_deaf(self) -> None:
        # The end of one side is not told to the other: nobody hears it.
        self._listen(
            {
                direction.source: _READ
                for direction in self._directions
                if not direction.ended and direction.source.fileno() >= 0
            }
        )

    def _listen(self, wanted: dict[socket.socket, int]) -> None:
        known = self._selector.get_map()
        for one in self._sockets:
            mask = wanted.get(one, 0)
            if one not in known:
                if mask:
                    self._selector.register(one, mask)
            elif not mask:
                self._selector.unregister(one)
            elif known[one].events != mask:
                self._selector.modify(one, mask)


def _connected(server: socket.socket) -> bool:
    """Return whether it is, or raise the reason why it never will be."""
    code = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    try:
        server.getpeername()
    except OSError:
        return False
    return True
