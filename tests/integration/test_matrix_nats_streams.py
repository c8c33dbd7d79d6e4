"""
The fault matrix, NATS: what befalls the stream while four threads publish to it.

Each line ends with the books: what was acked is stored once, what was rejected is not.
"""

import asyncio
import contextlib
import threading

from collections.abc import Iterator
from typing import Any, Self

import nats
import nats.errors
import pytest

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy
from support.eventually import eventually
from support.jetstream import (
    MakeBus,
    ask_jetstream,
    buses,
    delete_stream,
    make_stream,
    stream_config,
    unique_stream,
)
from support.load import Load, in_the_order_of_publishing
from support.patience import let_pass

from eventbus_sync import Outcome
from eventbus_sync.errors import (
    BrokerFull,
    DestinationNotFound,
    MessageRefused,
    PublishUnknown,
)
from eventbus_sync.testing import NatsServer, TcpProxy
from eventbus_sync.testing.readback import StoredEvent, read_nats_stream


pytestmark = pytest.mark.nats

#: Where the sequences of a stream that was made anew begin.
ANEW = 1_000_000


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


def change_stream(server: NatsServer, stream: str, **settings: Any) -> None:
    """The stream has other settings."""
    changed = stream_config(server.url, stream).evolve(**settings)

    async def update(js: JetStreamContext) -> None:
        await js.update_stream(changed)

    ask_jetstream(server.url, update)


def test_promises_1_2_and_5_the_stream_is_deleted_and_made_anew(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """What the old one acknowledged was in it, and what the new one did is in the new."""
    stream, subject = unique_stream()
    url = nats_server.url
    make_stream(url, stream, subject)
    bus = make(nats_server, stream=stream, subjects=[subject])
    with Load(bus, subject) as load:
        load.goes_on()
        old = read_nats_stream(url, stream)
        delete_stream(url, stream)
        eventually(lambda: bus.stats().in_flight > 100)
        # So that each acknowledgement tells which of the two it is from.
        make_stream(url, stream, subject, first_seq=ANEW)
        load.goes_on()
    assert load.outcomes() == {Outcome.ACKED}
    sequences = {r.event_id: r.sequence or 0 for r in load.results}
    held = {event.event_id: event.sequence for event in old}
    # Read before the end: the old stream went on to take some more.
    for event_id, sequence in sequences.items():
        if sequence <= len(held):
            assert held[event_id] == sequence
    stored = read_nats_stream(url, stream)
    new = {event.event_id: event.sequence for event in stored}
    assert len(new) == len(stored)
    # On a busy machine one may be sent again before the old stream's answer is read.
    assert {e: s for e, s in sequences.items() if s >= ANEW}.items() <= new.items()
    assert set(new) <= set(sequences)
    assert in_the_order_of_publishing(old)
    load.check_outcomes(subject)
    assert bus.health().reconnects == 0


def test_promises_1_2_and_5_the_stream_is_full(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Refused at once while it is; what comes when there is room again is stored."""
    stream, subject = unique_stream()
    make_stream(
        nats_server.url, stream, subject, max_msgs=500, discard=DiscardPolicy.NEW
    )
    bus = make(nats_server, stream=stream, subjects=[subject])
    with Load(bus, subject) as load:
        eventually(lambda: bus.stats().rejected > 500, 30)
        change_stream(nats_server, stream, max_msgs=1_000_000)
        load.goes_on()
    refused = [r for r in load.results if not r.success]
    assert {type(r.error) for r in refused} == {BrokerFull}
    assert {r.outcome for r in refused} == {Outcome.REJECTED}
    # A refused one is passed by those behind it, and never stored: no order is broken.
    load.check(read_nats_stream(nats_server.url, stream))


def test_promises_1_2_and_5_messages_larger_than_the_stream_takes(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Every tenth is refused for good, for its own size; the others are stored."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, subject, max_msg_size=2000)
    bus = make(nats_server, stream=stream, subjects=[subject])

    def payload(number: int) -> bytes:
        return b'"%s"' % (b"x" * (2000 if number % 10 == 7 else 10))

    with Load(bus, subject, payload=payload) as load:
        load.settles(2000)
    for result in load.results:
        large = result.event_id.endswith("7")
        assert result.success is not large
        if large:
            assert isinstance(result.error, MessageRefused)
            assert result.outcome is Outcome.REJECTED
            assert not result.error.retriable
    load.check(read_nats_stream(nats_server.url, stream))


@pytest.mark.slow
def test_promises_1_2_5_and_6_no_stream_takes_one_of_two_subjects(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Rejected at delivery_timeout, and the other subject never waits for it."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, subject)
    bus = make(nats_server, delivery_timeout=2.0)
    nobodys = f"nobodys-{subject}"
    with Load(bus, subject, nobodys) as load:
        eventually(lambda: bus.stats().rejected > 300, 30)
        load.goes_on()
    assert load.outcomes(subject) == {Outcome.ACKED}
    lost = [r for r in load.results if r.topic == nobodys]
    assert {r.outcome for r in lost} == {Outcome.REJECTED}
    assert {type(r.error) for r in lost} == {DestinationNotFound}
    load.check(read_nats_stream(nats_server.url, stream), subject)
    load.check([], nobodys)


@pytest.mark.slow
def test_promises_1_2_and_5_the_stream_forgets_soon(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """A duplicate window shorter than the outage: unknown rather than stored twice."""
    server = fresh_nats_server
    make_stream(server.url, "SHORT", "short", duplicate_window=1)
    bus = make(
        server,
        stream="SHORT",
        subjects=["short"],
        delivery_timeout=3.0,
        ack_wait=0.3,
        connect_timeout=0.3,
    )
    with Load(bus, "short") as load:
        load.goes_on()
        server.freeze()
        eventually(lambda: bus.stats().unknown > 0, 30)
        server.resume()
        load.goes_on()
    assert Outcome.UNKNOWN in load.outcomes()
    # Some of them are stored, and their retry would have been a second copy.
    load.check(read_nats_stream(server.url, "SHORT"), in_order=False)


class _Consumer:
    """Takes messages out of a work queue while the block lasts, whatever the server does."""

    def __init__(self, url: str, stream: str, subject: str) -> None:
        self.taken: dict[tuple[str, int], StoredEvent] = {}
        self._url, self._stream, self._subject = url, stream, subject
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def has(self, event_ids: set[str]) -> bool:
        """Whether each of these events has been taken."""
        return event_ids <= {event_id for event_id, _ in [*self.taken]}

    async def _run(self) -> None:
        while not self._stop.is_set():
            # The server is away, or JetStream is not ready yet.
            with contextlib.suppress(OSError, nats.errors.Error):
                client = await nats.connect(
                    self._url, allow_reconnect=False, connect_timeout=1
                )
                try:
                    await self._take(client)
                finally:
                    await client.close()
            await asyncio.sleep(0.1)

    async def _take(self, client: Client) -> None:
        js = client.jetstream(timeout=1)
        queue = await js.pull_subscribe(self._subject, "worker", stream=self._stream)
        while client.is_connected and not self._stop.is_set():
            with contextlib.suppress(nats.errors.TimeoutError):
                for message in await queue.fetch(200, timeout=0.3):
                    event_id = (message.headers or {})["X-Event-ID"]
                    sequence = message.metadata.sequence.stream
                    # Delivered again after a restart it has the same sequence.
                    self.taken[event_id, sequence] = StoredEvent(
                        event_id, "", message.subject, 0, sequence, message.data
                    )
                    await message.ack()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "cut"])
def test_promises_1_2_and_5_a_work_queue_forgets_what_was_consumed(
    make: MakeBus, end: str
) -> None:
    """
    Consumed before its ack came: after a restart unknown rather than stored twice.

    The same run of the server recognises it, and there everything is acked.
    """
    with TcpProxy() as proxy, NatsServer(proxy=proxy) as server:
        direct = f"nats://127.0.0.1:{server.port}"
        make_stream(direct, "Q", "q", retention=RetentionPolicy.WORK_QUEUE)
        bus = make(server, stream="Q", subjects=["q"], ack_wait=1.0)
        with _Consumer(direct, "Q", "q") as consumer:
            with Load(bus, "q") as load:
                for _ in range(3):
                    load.goes_on()
                    # Stored and consumed, and not yet acked to us.
                    proxy.slow(delay=0.15)
                    let_pass(0.8)
                    if end == "kill":
                        server.kill()
                        server.start()
                    else:
                        proxy.cut()
                    proxy.heal()
                load.goes_on()
            acked = load.with_outcome("q", Outcome.ACKED)
            eventually(lambda: consumer.has(acked), 30)
        assert bus.health().reconnects >= 3
        unknown = [r.error for r in load.results if r.outcome is Outcome.UNKNOWN]
        assert bool(unknown) is (end == "kill")
        assert {type(error) for error in unknown} <= {PublishUnknown}
        assert all("retention 'workqueue'" in str(error) for error in unknown)
        assert load.outcomes() <= {Outcome.ACKED, Outcome.UNKNOWN}
        # In the order of publishing but for what is published again.
        load.check(list(consumer.taken.values()), in_order=False)
