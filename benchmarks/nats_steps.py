"""What the NATS loop does for one event: written, and its acknowledgement taken."""

import asyncio
import time

from typing import Any, Final

from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.handover import HandOver
from eventbus_sync.backends.nats.pump import Pump
from eventbus_sync.backends.nats.readiness import Readiness
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.config import NatsConfig


_INBOX: Final = "_INBOX.benchmark"
_SUBSCRIPTION: Final = 1
#: As much as one read of the driver's brings.
_READ: Final = 32 * 1024
_LARGEST: Final = 1 << 20
_LATER: Final = 1e9


class _Nobody:
    """A sink that takes what it is told; and a delivery that waits for nothing."""

    accepted_at = 0.0

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def costs(count: int, size: int) -> list[float]:
    """Return the microseconds of both steps, for one event with a body of *size*."""
    return asyncio.run(_costs(count, size))


async def _costs(count: int, size: int) -> list[float]:
    handover, nobody = HandOver(), _Nobody()
    handover.attach(asyncio.get_running_loop())
    chunks: list[Any] = []
    config = NatsConfig()
    pump = Pump(config, nobody, handover, Readiness(), chunks.append)
    connection = Connection(config, config.servers[0], pump)
    client: Any = connection.client
    client._max_payload = _LARGEST  # noqa: SLF001 - as a server would have said
    connection.reply_prefix = f"{_INBOX}."
    client.expect_answers(_INBOX, _SUBSCRIPTION)
    headers = [("X-Event-ID", "order-1:OrderCreated:1"), ("X-Aggregate-ID", "order-1")]
    body = b"x" * size
    for number in range(count):
        event_id = f"order-1:OrderCreated:1:{number}"
        message = OutgoingMessage("s", "order-1", body, headers, event_id, size)
        handover.events.append(Record(message, nobody, _LATER))
    began = time.thread_time()
    while handover.events:
        pump._sender.next_parts(connection)  # noqa: SLF001 - what the loop calls
    written = time.thread_time()
    reads = _acknowledgements(count)
    acked = time.thread_time()
    for data in reads:
        await client._ps.parse(data)  # noqa: SLF001 - what the driver calls
        pump._answers.flush()  # noqa: SLF001 - what the loop calls
    ended = time.thread_time()
    if sum(map(len, chunks)) != count:
        msg = f"{sum(map(len, chunks))} of {count} acknowledgements arrived"
        raise RuntimeError(msg)
    return [(written - began) / count * 1e6, (ended - acked) / count * 1e6]


def _acknowledgements(count: int) -> list[bytes]:
    """Return what a server sends, as reads would cut it."""
    bodies = (
        b'{"stream":"ORDERS","seq":%d}' % number for number in range(1, count + 1)
    )
    inbox = _INBOX.encode()
    stream = b"".join(
        b"MSG %s.%d %d %d\r\n%s\r\n" % (inbox, token, _SUBSCRIPTION, len(body), body)
        for token, body in enumerate(bodies)
    )
    return [stream[at : at + _READ] for at in range(0, len(stream), _READ)]
