"""``publish_mode="batch"`` on a real nats-server: every event keeps its own outcome."""

from collections.abc import Iterator
from typing import Any

import pytest

from conformance.suite import envelope, order_kept, publish_all, read
from nats.js.api import DiscardPolicy
from support.eventually import eventually
from support.jetstream import (
    MakeBus,
    buses,
    delete_stream,
    make_stream,
    stream_config,
    unique_stream,
)

from eventbus_sync import EventBus, Outcome, PublishResult
from eventbus_sync.backends.nats import batches
from eventbus_sync.errors import (
    BrokerFull,
    MessageRefused,
    NotAuthorized,
    StreamInvalid,
)
from eventbus_sync.testing import NatsServer
from eventbus_sync.testing.readback import read_nats_stream


pytestmark = pytest.mark.nats

COUNT = 2000


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


def batching(
    make: MakeBus, server: NatsServer, stream: str, **settings: Any
) -> EventBus:
    """Return a bus that sends batches to *stream*, which it has reached."""
    bus = make(server, stream=stream, publish_mode="batch", **settings)
    bus.start(10)
    return bus


def burst(server: NatsServer, bus: EventBus, topics: list[str]) -> None:
    """Publish while the server stands still, so that much goes out together."""
    server.freeze()
    for number, topic in enumerate(topics):
        bus.publish_envelope(topic, envelope(number, f"order-{number % 30}"))
    server.resume()


def stored(server: NatsServer, stream: str) -> list[tuple[str, str, bytes]]:
    """Return what the stream holds: id, aggregate and body."""
    found = read_nats_stream(server.url, stream)
    return [(event.event_id, event.aggregate_id, event.value) for event in found]


def in_batches(results: list[PublishResult]) -> int:
    """Return how many of them were acknowledged as parts of a batch."""
    return sum(result.success and result.sequence is None for result in results)


def check(server: NatsServer, stream: str, results: list[PublishResult]) -> None:
    """Acked is stored, once and in order, and what is rejected is not stored."""
    found = stored(server, stream)
    ids = [event_id for event_id, _, _ in found]
    assert len(ids) == len(set(ids))
    assert {r.event_id for r in results if r.outcome is Outcome.ACKED} == set(ids)
    assert {r.outcome for r in results} <= {Outcome.ACKED, Outcome.REJECTED}
    assert order_kept(found)


def test_promise_1_and_6_a_burst_goes_in_batches(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """Each event is acked, stored once and in order; a lone one names its sequence."""
    stream, subject = unique_stream()
    bus = batching(make, fresh_nats_server, stream)
    burst(fresh_nats_server, bus, [subject] * COUNT)
    results = read(bus, COUNT)
    check(fresh_nats_server, stream, results)
    assert in_batches(results) > COUNT / 2
    assert {result.stream for result in results} == {stream}
    alone = bus.publish_envelope_sync(subject, envelope(COUNT))
    assert alone.sequence == COUNT + 1
    again = bus.publish_envelope_sync(subject, envelope(COUNT, event_id=alone.event_id))
    assert (again.duplicate, again.sequence) == (True, COUNT + 1)
    assert stream_config(fresh_nats_server.url, stream).allow_batched


def test_a_stream_that_takes_no_batches_is_named(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """start() fails, the stream stays as it is, and events go one by one."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, subject)
    bus = make(nats_server, stream=stream, subjects=[subject], publish_mode="batch")
    with pytest.raises(StreamInvalid, match=r"allow_batched.*2\.14.*single"):
        bus.start(10)
    publish_all(bus, subject, [envelope(number) for number in range(100)])
    results = read(bus, 100)
    check(nats_server, stream, results)
    assert not in_batches(results)
    assert not stream_config(nats_server.url, stream).allow_batched


def test_topics_of_other_streams_go_one_by_one(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """A batch belongs to one stream; nothing is lost where topics are mixed."""
    (mine, subject), (other, elsewhere) = unique_stream(), unique_stream()
    make_stream(fresh_nats_server.url, other, elsewhere, allow_batched=True)
    bus = batching(make, fresh_nats_server, mine)
    burst(fresh_nats_server, bus, [subject, elsewhere] * 200)
    results = read(bus, 400)
    assert {result.outcome for result in results} == {Outcome.ACKED}
    assert len(stored(fresh_nats_server, mine)) == 200
    assert len(stored(fresh_nats_server, other)) == 200
    assert not in_batches(results)


def test_promise_1_and_6_one_event_too_large_for_the_stream(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """It alone is rejected; what the server passed over goes again, in order."""
    stream, subject = unique_stream()
    make_stream(
        fresh_nats_server.url, stream, subject, max_msg_size=2000, allow_batched=True
    )
    bus = batching(make, fresh_nats_server, stream, subjects=[subject])
    fresh_nats_server.freeze()
    large = {50, 51, 130, 255, 256, COUNT - 1}
    for number in range(COUNT):
        note = "x" * 3000 if number in large else ""
        event = envelope(number, f"order-{number % 30}", trace_id=note)
        bus.publish_envelope(subject, event)
    fresh_nats_server.resume()
    results = read(bus, COUNT)
    check(fresh_nats_server, stream, results)
    refused = [result for result in results if not result.success]
    assert len(refused) == len(large)
    assert {type(result.error) for result in refused} == {MessageRefused}
    assert in_batches(results)


def test_promise_1_full_stream(make: MakeBus, fresh_nats_server: NatsServer) -> None:
    """What has room is acked, each of the others is rejected as full, and soon."""
    stream, subject = unique_stream()
    make_stream(
        fresh_nats_server.url,
        stream,
        subject,
        max_msgs=700,
        discard=DiscardPolicy.NEW,
        allow_batched=True,
    )
    bus = batching(make, fresh_nats_server, stream, subjects=[subject])
    burst(fresh_nats_server, bus, [subject] * COUNT)
    results = read(bus, COUNT)
    check(fresh_nats_server, stream, results)
    assert sum(result.success for result in results) == 700
    errors = [result.error for result in results if not result.success]
    assert {type(error) for error in errors} == {BrokerFull}
    assert in_batches(results)


@pytest.mark.parametrize("last", [True, False])
def test_promise_1_subjects_that_are_not_permitted(make: MakeBus, last: bool) -> None:
    """They are rejected by their subject; the others are stored."""
    config = """authorization { users = [{ user: bus, password: x,
        permissions: { publish: { deny: ["s.no.*"] } } }] }"""
    with NatsServer(config=config) as server:
        bus = batching(make, server, "S", user="bus", password="x")
        topics = ["s.yes", "s.no.1", "s.yes", "s.no.2"] * 200
        burst(server, bus, topics if last else [*topics, "s.yes"])
        results = read(bus, len(topics) + (not last))
        for result in results:
            assert result.success is (result.topic == "s.yes")
            if not result.success:
                assert result.outcome is Outcome.REJECTED
                assert isinstance(result.error, NotAuthorized)
                assert result.topic in str(result.error)
        bus.close(5)
        login = f"nats://bus:x@127.0.0.1:{server.port}"
        assert len(read_nats_stream(login, "S")) == 400 + (not last)


def test_promise_1_stream_deleted_and_made_again(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """Events of batches wait for it like any other, and are stored once, in order."""
    stream, subject = unique_stream()
    bus = batching(make, fresh_nats_server, stream, subjects=[subject])
    burst(fresh_nats_server, bus, [subject] * 500)
    assert in_batches(read(bus, 500))
    delete_stream(fresh_nats_server.url, stream)
    burst(fresh_nats_server, bus, [subject] * 500)
    pump = bus._runtime.backend._pump  # type: ignore[union-attr]
    eventually(lambda: len(pump._gates) == 1)
    make_stream(fresh_nats_server.url, stream, subject, allow_batched=True)
    check(fresh_nats_server, stream, read(bus, 500))


def test_batches_that_are_switched_off(
    make: MakeBus, fresh_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server refuses as a batch goes one by one, and is acked."""
    monkeypatch.setattr(batches, "REST_SECONDS", 0.0)
    stream, subject = unique_stream()
    bus = batching(make, fresh_nats_server, stream, subjects=[subject])
    bus._runtime.backend._pump._stream.look_now()  # type: ignore[union-attr]
    delete_stream(fresh_nats_server.url, stream)
    make_stream(fresh_nats_server.url, stream, subject)
    burst(fresh_nats_server, bus, [subject] * COUNT)
    results = read(bus, COUNT)
    check(fresh_nats_server, stream, results)
    assert not in_batches(results)


@pytest.mark.slow
def test_promise_5_and_6_killed_and_restarted(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """What a killed server left unanswered goes again: once, in order."""
    stream, subject = unique_stream()
    bus = batching(make, fresh_nats_server, stream)
    burst(fresh_nats_server, bus, [subject] * 20_000)
    eventually(lambda: bus.stats().acked > 1000, interval=0.001)
    fresh_nats_server.kill()
    assert bus.stats().in_flight
    fresh_nats_server.start()
    results = read(bus, 20_000)
    check(fresh_nats_server, stream, results)
    assert {result.outcome for result in results} == {Outcome.ACKED}
    assert in_batches(results)
    assert bus.health().reconnects == 1


def test_promise_5_and_6_frozen_for_longer_than_ack_wait(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """The batch that was on its way is sent again, and stored once."""
    stream, subject = unique_stream()
    bus = batching(make, fresh_nats_server, stream, ack_wait=0.3)
    fresh_nats_server.freeze()
    publish_all(bus, subject, [envelope(n, f"order-{n % 30}") for n in range(COUNT)])
    eventually(lambda: bus.health().connected is False)
    fresh_nats_server.resume()
    results = read(bus, COUNT)
    check(fresh_nats_server, stream, results)
    assert {result.outcome for result in results} == {Outcome.ACKED}
    assert bus.health().reconnects


def test_promise_9_close_ends_what_waits_behind_a_batch(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """What was accepted before close() is stored, although batches wait in line."""
    stream, subject = unique_stream()
    bus = batching(make, fresh_nats_server, stream)
    publish_all(bus, subject, [envelope(n, f"order-{n % 30}") for n in range(COUNT)])
    bus.close(10)
    assert bus.stats().acked == COUNT
    assert len(stored(fresh_nats_server, stream)) == COUNT
