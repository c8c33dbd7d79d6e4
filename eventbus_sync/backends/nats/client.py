"""
nats-py's client as one connection needs it: used once, watched closely.

All use of nats-py's inside is here, and why: its public API loses the subject of a
permission error (it lowers the text), may go on with a reader that has died, offers TLS
only where the server asks for it, waits for the peer when it closes, stumbles over the
answer to a PING that was given up, and spends more time on a message than the server
does. ``tests/integration`` holds it to that.
"""

import asyncio

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import nats.errors

from nats.aio.client import PING_PROTO, Client

from eventbus_sync.backends.nats.parser import AckParser, NumberedAck


class OneClient(Client):
    """
    A client that tells its owner more, and is thrown away when it is lost.

    Args:
        tls: whether nothing may be sent unencrypted.
        on_broken: told when what the server sent cannot be understood.
        on_error_text: told the text of each ``-ERR``, as the server wrote it.
        on_answer: told subject, body and header of what comes to ``inbox``,
        on_acks: but of acknowledgements, as most of that is, their numbers and bodies.
    """

    def __init__(
        self,
        *,
        tls: bool,
        on_broken: Callable[[Exception], None],
        on_error_text: Callable[[str], None],
        on_answer: Callable[[bytes, bytes, bytes], None],
        on_acks: Callable[[Sequence[NumberedAck]], None],
    ) -> None:
        super().__init__()
        self._parser = self._ps = AckParser(self, on_broken, on_acks)
        self._tls_wanted = tls
        self._on_error_text = on_error_text
        self._on_answer = on_answer
        # Those PINGs in nats-py's own list that are fences, and who is told of them.
        self._fences: deque[tuple[asyncio.Future[bool], Callable[[], None]]] = deque()
        # The subscription whose messages go to ``on_answer``.
        self._inbox: int | None = None
        #: ``host:port`` of the cluster's servers, as this one named them last.
        self.peers: list[object] = []

    def verify(self) -> None:
        """
        Raise unless ``connect`` has really ended in a connection to a fit server.

        Raises:
            nats.errors.ProtocolError: it is no NATS server, or one without headers.
        """
        numbered = isinstance(self._max_payload, int)
        if not (self.is_connected and numbered and self._server_info.get("headers")):
            raise nats.errors.ProtocolError

    def expect_answers(self, inbox: str, subscription: int) -> None:
        """What comes to this subscription of *inbox* are answers from now on."""
        self._inbox = subscription
        self._parser.expect(inbox, subscription)

    @property
    def server_id(self) -> str:
        """The server's name for itself, a new one each time it is started."""
        return str(self._server_info.get("server_id"))

    @property
    def clustered(self) -> bool:
        """Whether the server is one of a cluster."""
        return bool(self._server_info.get("cluster"))

    @property
    def usable(self) -> bool:
        """Whether what is written now may reach the server."""
        return bool(self.is_connected) and not self._writer.transport.is_closing()

    def write(self, parts: Iterable[bytes]) -> None:
        """Put complete protocol messages behind what is written already."""
        self._writer.writelines(parts)

    def fence(self, passed: Callable[[], None]) -> bytes:
        """
        Return a PING, to be written before anybody writes another one.

        *passed* is called when its answer comes, and before what comes behind that is
        looked at; a callback of the future would be too late.
        """
        pong = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._fences.append((pong, passed))
        return PING_PROTO

    async def drained(self) -> None:
        """
        Return when there is room for more.

        Raises:
            OSError: the connection is lost.
        """
        await self._writer.drain()

    async def round_trip(self, seconds: float) -> None:
        """
        Return when the server has read everything that was sent before.

        Raises:
            Exception: it did not in time, or the connection is lost.
        """
        # nats-py writes its PING before what waits in its own buffer, such as a
        # subscription; only the second one comes after that.
        for _ in range(2):
            await self.flush(seconds)  # type: ignore[arg-type]  # it takes floats

    def abort(self) -> None:
        """
        Drop the connection now, whatever the server has not read yet.

        nats-py's ``close`` would wait until it has, and where it stumbles it leaves
        tasks behind.
        """
        if self._transport:
            self._writer.transport.abort()
        tasks = [self._reading_task, self._ping_interval_task, self._flusher_task]
        tasks += [sub._wait_for_msgs_task for sub in self._subs.values()]  # noqa: SLF001
        for task in tasks:
            if task is not None:
                task.cancel()

    @property
    def _writer(self) -> Any:
        transport: Any = self._transport
        return transport._io_writer  # noqa: SLF001 - nothing public writes a batch

    # -- where nats-py asks us ---------------------------------------------------------

    def _connect_command(self) -> bytes:
        if self._tls_wanted and self._writer.get_extra_info("ssl_object") is None:
            # The server did not ask for TLS, and what follows holds the password.
            raise nats.errors.SecureConnWantedError
        command: bytes = super()._connect_command()
        return command

    async def _process_info(
        self,
        info: dict[str, Any],
        initial_connection: bool = False,  # noqa: FBT001, FBT002 - nats-py's signature
    ) -> None:
        del initial_connection
        if self._tls_wanted and info.get("tls_available"):
            info["tls_required"] = True  # where both can, nats-py would not
        peers = info.get("connect_urls")
        if isinstance(peers, list):
            self.peers = peers
        if isinstance(info.get("max_payload"), int):
            self._max_payload = info["max_payload"]  # it changes with a reload
        # Not nats-py's own: it would only fill a pool of servers that is never used.

    async def _process_err(self, err_msg: str) -> None:
        # The parser has lowered the text; but it still has the line.
        line, _, _ = self._ps.buf.partition(b"\r\n")
        text = line.decode(errors="replace").removeprefix("-ERR").strip().strip("'")
        if text.lower() != err_msg.strip("'"):
            text = err_msg.strip("'")
        # Not nats-py's own: it would close in a task that nobody waits for.
        self._on_error_text(text)

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].cancelled():
            # Nobody waits for it any more; nats-py would stumble over that.
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()
        if self._fences and self._fences[0][0].done():
            self._fences.popleft()[1]()

    async def _process_msg(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        headers: bytes,
    ) -> None:
        if sid == self._inbox:
            # The short way: no object, no queue and no task per acknowledgement.
            self._on_answer(subject, data, headers)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)
