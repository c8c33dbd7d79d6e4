"""
One connection to NATS: one nats-py client with an inbox of its own, used once.

nats-py's own reconnect is off. It would flush its buffer, the newer messages, before
anybody could send the unanswered ones again; and after some errors a client stays
closed for good. So a connection that is lost is thrown away and a fresh one is made.
Lives on the loop thread.
"""

import asyncio
import time

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import nats.errors

from eventbus_sync.backends.nats.client import OneClient
from eventbus_sync.backends.nats.errors import (
    INBOX,
    PROTOCOL,
    PUBLISH,
    api_denied,
    connection_error,
    inbox_denied,
    sort_error_text,
)
from eventbus_sync.backends.nats.login import connect_options
from eventbus_sync.backends.nats.parser import NumberedAck
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import ConnectionLost, EventBusError


if TYPE_CHECKING:
    from nats.aio.msg import Msg

T = TypeVar("T")

#: Seconds that a server gets to take what is written when a connection is closed.
CLOSE_SECONDS = 1.0

_NO_RESPONDERS = b"NATS/1.0 503"
_MAX_DIGITS = 19


class Listener(Protocol):
    """What a connection tells its owner, always on the loop thread."""

    def answered(self, token: int, data: bytes, status: str | None) -> None:
        """An answer came for the message with *token*; "503": no stream took it."""

    def acknowledged(self, acks: Sequence[NumberedAck]) -> None:
        """Answers without a status came, each for the message with its number."""

    def batched(self, name: bytes, data: bytes, status: str | None) -> None:
        """An answer came that goes by a longer *name*: see ``batches.py``."""

    def lost(self, connection: "Connection", error: EventBusError) -> None:
        """The connection is of no more use; told once."""

    def refused(self, subject: str, error: Exception) -> None:
        """The server does not let us publish to *subject*; told for each message."""


class Connection:
    """
    A connection that is up until it is lost; then it stays lost.

    Args:
        config: how to connect.
        server: the one server to try.
        listener: is told of answers and of the loss.
        tls_name: the name that the server's certificate is for, if not its host.

    Attributes:
        lost: whether it is of no more use.
        opened_at: since when it was up, on ``time.monotonic``.
        ended_by_server: whether it was the server that ended it, or its network.
        protocol_error: what the server said when it closed the connection because of
            something that was written to it; else "".
    """

    def __init__(
        self,
        config: NatsConfig,
        server: str,
        listener: Listener,
        tls_name: str | None = None,
    ) -> None:
        self.server = server
        self.tls_name = tls_name
        self.client = OneClient(
            tls=config.tls,
            on_broken=self._on_broken,
            on_error_text=self._on_error_text,
            on_answer=self._on_answer,
            on_acks=listener.acknowledged,
        )
        self.lost = False
        self.opened_at = 0.0
        self.ended_by_server = False
        self.protocol_error = ""
        self.reply_prefix = ""
        self._config = config
        self._listener = listener
        self._open = False
        self._ended: EventBusError | None = None
        self._last_error: Exception | None = None
        # What waits for an answer, until something makes that pointless.
        self._waiting: set[asyncio.Future[EventBusError]] = set()

    async def open(self) -> None:
        """
        Connect and subscribe to the inbox.

        Raises:
            EventBusError: AuthenticationFailed, BrokerUnreachable, … with the cause.
        """
        try:
            options = connect_options(self._config, self.server, self.tls_name)
            # nats-py bounds each step; this bounds them all.
            async with asyncio.timeout(4 * self._config.connect_timeout + 1):
                await self.client.connect(
                    error_cb=self._on_error, closed_cb=self._on_closed, **options
                )
                self.client.verify()
                if self._config.jetstream:
                    await self._subscribe()
                # A refusal comes as an error of its own; after this it has come.
                await self.ask(self.client.round_trip(self._config.connect_timeout))
        except EventBusError:
            await self.discard()
            raise
        except Exception as exc:
            await self.discard()
            # "No servers" only says that each was tried; the reason came before.
            if isinstance(exc, nats.errors.NoServersError) and self._last_error:
                exc = self._last_error
            raise connection_error(exc, self.server) from exc
        except BaseException:  # we are being stopped
            await self.discard()
            raise
        self._open = True
        self.opened_at = time.monotonic()

    # -- while it is up ----------------------------------------------------------------

    @property
    def server_id(self) -> str:
        """The server's name for itself, a new one each time it is started."""
        return self.client.server_id

    @property
    def run(self) -> str:
        """
        Which run of which server keeps the streams; "" if that cannot be said.

        In a cluster, or behind a leaf node, the one that keeps the stream may be another
        one than the one we are connected to, and be restarted without our noticing.
        """
        alone = not self.client.clustered and self._config.js_domain is None
        return self.server_id if alone else ""

    @property
    def max_payload(self) -> int:
        """The server's limit for header and body together, in bytes."""
        return int(self.client.max_payload)

    async def write(self, parts: Sequence[bytes]) -> None:
        """
        Write complete protocol messages, and return when there is room for more.

        Where that fails the connection is lost.
        """
        try:
            if not self.client.usable:
                raise nats.errors.ConnectionClosedError  # noqa: TRY301 - sorted below
            self.client.write(parts)
            await self.client.drained()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the connection is done
            self.abandon(connection_error(exc, self.server), by_server=True)

    def fence(self, passed: Callable[[], None]) -> bytes:
        """
        Return what is to be written at once, and nothing before it.

        *passed* is called when the server has read all that came before, and has told
        everything that it finds fault with; and before anything else is told.
        """
        return self.client.fence(passed)

    async def round_trip(self, seconds: float) -> bool:
        """Return whether the server has read all that was written; it is lost if not."""
        try:
            async with asyncio.timeout(seconds):
                await self.ask(self.client.round_trip(seconds))
        except EventBusError:
            return False  # it is lost, and its owner knows
        except Exception as exc:  # noqa: BLE001 - whatever it is, the connection is done
            self.abandon(connection_error(exc, self.server))
            return False
        return True

    async def ask(self, request: Coroutine[Any, Any, T]) -> T:
        """
        Return what *request* to the server brings.

        Raises:
            EventBusError: the connection was lost, or the server forbids to ask.
            Exception: what *request* raises.
        """
        if self._ended is not None:
            request.close()
            raise self._ended
        hindrance = asyncio.get_running_loop().create_future()
        self._waiting.add(hindrance)
        task = asyncio.ensure_future(request)
        try:
            await asyncio.wait({task, hindrance}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise hindrance.result()
            return task.result()
        finally:
            task.cancel()
            self._waiting.discard(hindrance)

    # -- its end -----------------------------------------------------------------------

    def abandon(self, error: EventBusError, *, by_server: bool = False) -> None:
        """Give the connection up: no more is written, its owner is told."""
        if self.lost:
            return
        self.lost = True
        self.ended_by_server = by_server
        self._ended = error
        # Without this a frozen server would hold us for ever: both drain() and
        # wait_closed() wait until it has read what we wrote.
        self.client.abort()
        self._hinder(error)
        if self._open:
            self._listener.lost(self, error)

    def check(self) -> None:
        """Notice a client that died without a word."""
        if self._open and not self.client.usable:
            self.abandon(
                connection_error(_last_words(self.client), self.server), by_server=True
            )

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Send what is written, if the server takes it in time, and disconnect."""
        if not self.lost and self._open:
            await self.round_trip(seconds)
        await self.discard()

    async def discard(self) -> None:
        """Release socket and tasks; waits for nobody."""
        if not self.lost:
            self.lost = True
            self._ended = ConnectionLost(f"the connection to {self.server} was closed")
            self._hinder(self._ended)
        self.client.abort()
        # The loop closes sockets and ends tasks in its next rounds.
        for _ in range(3):
            await asyncio.sleep(0)

    # -- what nats-py tells ------------------------------------------------------------

    async def _subscribe(self) -> None:
        inbox = self.client.new_inbox()
        self.reply_prefix = f"{inbox}."

        async def on_message(msg: "Msg") -> None:
            # The long way, for a nats-py that no longer knows the short one.
            status = (msg.headers or {}).get("Status")
            header = f"NATS/1.0 {status}".encode() if status else b""
            self._on_answer(msg.subject.encode(), msg.data, header)

        # No limits: what comes here is bounded by what is in flight, and nats-py
        # drops what exceeds a limit.
        all_names = ">" if self._config.publish_mode == "batch" else "*"
        subscription = await self.client.subscribe(
            f"{inbox}.{all_names}",
            cb=on_message,
            pending_msgs_limit=0,
            pending_bytes_limit=0,
        )
        # nats-py keeps the number to itself.
        self.client.expect_answers(inbox, subscription._id)  # noqa: SLF001

    def _on_answer(self, subject: bytes, data: bytes, header: bytes) -> None:
        token = subject[len(self.reply_prefix) :]
        no_stream = not data and bool(header) and header.startswith(_NO_RESPONDERS)
        status = "503" if no_stream else None
        if token.isdigit() and len(token) <= _MAX_DIGITS:
            self._listener.answered(int(token), data, status)
        else:
            self._listener.batched(token, data, status)

    def _on_broken(self, exc: Exception) -> None:
        error = ConnectionLost(f"{self.server} sent what is no NATS protocol: {exc!r}")
        error.__cause__ = exc
        self.abandon(error, by_server=True)

    def _on_error_text(self, text: str) -> None:
        exc = nats.errors.Error(f"nats: {text}")
        refusal = sort_error_text(text)
        if refusal.kind == PUBLISH and refusal.subject.startswith("$JS."):
            self._hinder(api_denied(refusal.subject, exc))
        elif refusal.kind == PUBLISH:
            self._listener.refused(refusal.subject, exc)
        elif refusal.kind == INBOX:
            self.abandon(inbox_denied(refusal.subject, exc))
        else:
            if refusal.kind == PROTOCOL:
                self.protocol_error = text
            self.abandon(connection_error(exc, self.server), by_server=True)

    async def _on_error(self, exc: Exception) -> None:
        self._last_error = exc
        lost = isinstance(exc, (OSError, nats.errors.StaleConnectionError))
        if self._open and lost:
            # nats-py says so before it tidies up, and may stumble over that.
            self.abandon(connection_error(exc, self.server), by_server=True)

    async def _on_closed(self) -> None:
        self.abandon(
            connection_error(_last_words(self.client), self.server), by_server=True
        )

    def _hinder(self, error: EventBusError) -> None:
        while self._waiting:
            self._waiting.pop().set_result(error)


def _last_words(client: OneClient) -> Exception:
    last: Exception | None = client.last_error
    return nats.errors.ConnectionClosedError() if last is None else last
