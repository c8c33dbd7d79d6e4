"""A NATS server that lies: one thread, scripted by the test, on a port of its own."""

import contextlib
import json
import re
import selectors
import socket
import threading
import time

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self


_MSG = re.compile(rb"H?PUB (\S+) (?:(\S+) )?(?:(\d+) )?(\d+)\Z")


class Published(NamedTuple):
    """One message that a client published."""

    subject: str
    reply: str
    header: bytes
    body: bytes


class Client:
    """One client's connection, on the server's thread."""

    def __init__(self, server: "FakeNats", peer: socket.socket) -> None:
        self._server = server
        self._peer = peer
        self._unread = b""
        self._subscriptions: list[tuple[re.Pattern[str], str]] = []

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        with contextlib.suppress(OSError):
            self._peer.sendall(data)

    def deliver(self, subject: str, body: bytes, header: bytes = b"") -> None:
        """Send a message to whoever of this client subscribed to *subject*."""
        for pattern, sid in self._subscriptions:
            if not pattern.fullmatch(subject):
                continue
            size = len(header) + len(body)
            if header:
                line = f"HMSG {subject} {sid} {len(header)} {size}\r\n"
            else:
                line = f"MSG {subject} {sid} {size}\r\n"
            self.send(line.encode() + header + body + b"\r\n")

    def close(self) -> None:
        """End the connection."""
        self._server._drop(self._peer)

    def _read(self) -> bool:
        """Return whether there is more to come."""
        try:
            data = self._peer.recv(65536)
        except OSError:
            return False
        self._server.received += data
        self._unread += data
        while (end := self._unread.find(b"\r\n")) >= 0:
            line = self._unread[:end]
            rest = self._unread[end + 2 :]
            found = _MSG.match(line)
            if found is None:
                self._unread = rest
                self._command(line)
                continue
            size, header = int(found[4]), int(found[3] or 0)
            if len(rest) < size + 2:
                break
            self._unread = rest[size + 2 :]
            message = Published(
                found[1].decode(),
                (found[2] or b"").decode(),
                rest[:header],
                rest[header:size],
            )
            self._server.published.append(message)
            self._server.on_publish(self, message)
        return bool(data)

    def _command(self, line: bytes) -> None:
        if line.startswith(b"PING"):
            self._server.on_ping(self)
        elif line.startswith(b"SUB "):
            _, subject, *_, sid = line.decode().split()
            escaped = re.escape(subject).replace(r"\*", r"[^.]+").replace(">", ".+")
            self._subscriptions.append((re.compile(escaped), sid))
            self._server.on_subscribe(self, subject)


class FakeNats:
    """
    Speaks enough of the protocol to be believed; ``with`` starts and ends it.

    Args:
        info: what its INFO says beside or instead of the usual.

    Attributes:
        on_connect, on_ping, on_subscribe, on_publish: what it does then; to be replaced.
        connections: when each client came, on ``time.monotonic``.
        received: all bytes from all clients.
        published: all messages from all clients.
    """

    def __init__(self, **info: Any) -> None:
        self.info = info
        self.on_connect: Callable[[Client], None] = self.send_info
        self.on_ping: Callable[[Client], None] = lambda client: client.send(b"PONG\r\n")
        self.on_subscribe: Callable[[Client, str], None] = lambda client, subject: None
        self.on_publish: Callable[[Client, Published], None] = acknowledge
        self.connections: list[float] = []
        self.received = b""
        self.published: list[Published] = []
        self._clients: dict[socket.socket, Client] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waker, self._wake = socket.socketpair()
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="fake-nats")

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where it listens, as a URL."""
        return f"nats://127.0.0.1:{self.port}"

    def send_info(self, client: Client) -> None:
        """Greet as a server does."""
        info = {
            "server_id": "FAKE",
            "version": "2.15.0",
            "headers": True,
            "max_payload": 1_048_576,
            "port": self.port,
            **self.info,
        }
        client.send(f"INFO {json.dumps(info)}\r\n".encode())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wake.send(b"x")
        self._thread.join()
        self._wake.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._waker:
                    self._end()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    client = self._clients.get(key.fileobj)
                    if client is not None and not client._read():
                        self._drop(key.fileobj)

    def _accept(self) -> None:
        peer, _ = self._listener.accept()
        peer.settimeout(5)
        self.connections.append(time.monotonic())
        client = self._clients[peer] = Client(self, peer)
        self._selector.register(peer, selectors.EVENT_READ)
        self.on_connect(client)

    def _drop(self, peer: socket.socket) -> None:
        if self._clients.pop(peer, None) is not None:
            self._selector.unregister(peer)
            peer.close()

    def _end(self) -> None:
        for peer in list(self._clients):
            self._drop(peer)
        self._listener.close()
        self._waker.close()
        self._selector.close()


def acknowledge(client: Client, message: Published) -> None:
    """Answer as JetStream does to a message that it stored."""
    count = len(client._server.published)
    ack = {"stream": "FAKE", "seq": count}
    client.deliver(message.reply, json.dumps(ack).encode())
