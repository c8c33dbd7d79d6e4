"""ResultConsumer: batches for a handler, and the same one again if it fails."""

import threading

from collections.abc import Iterator

import pytest

from support.eventually import eventually
from support.patience import SLACK

from eventbus_sync import ConfigError, Envelope, MemoryConfig, PublishResult
from eventbus_sync.outbox import ResultConsumer
from eventbus_sync.testing import MemoryBus


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    with MemoryBus(MemoryConfig(delivery_timeout=5, close_timeout=1)) as bus:
        yield bus


def publish(bus: MemoryBus, count: int) -> set[str]:
    return {bus.publish_envelope("t", Envelope("a", "E", 1, n)) for n in range(count)}


def test_every_result_is_handed_over_in_batches(bus: MemoryBus) -> None:
    batches: list[list[PublishResult]] = []
    ids = publish(bus, 250)
    bus.flush(5)
    with ResultConsumer(bus, batches.append, max_items=100, name="eventbus-c"):
        eventually(lambda: sum(map(len, batches)) == 250)
    assert {len(batch) for batch in batches} == {100, 50}
    assert {result.event_id for batch in batches for result in batch} == ids


def test_a_handler_that_fails_gets_the_same_batch_again(bus: MemoryBus) -> None:
    calls: list[list[str]] = []

    def handler(batch: list[PublishResult]) -> None:
        calls.append([result.event_id for result in batch])
        batch.clear()  # what it does to its list changes nothing
        if len(calls) == 1:
            raise ValueError
        if len(calls) == 2:
            raise SystemExit

    publish(bus, 3)
    bus.flush(5)
    consumer = ResultConsumer(bus, handler, name="eventbus-c")
    consumer.start()
    eventually(lambda: len(calls) == 3)
    assert calls[0] == calls[1] == calls[2]
    eventually(lambda: consumer.unhandled == [])
    assert consumer.last_error is not None
    assert consumer.stop()


def test_what_a_handler_did_not_take_is_kept_for_the_next_start(bus: MemoryBus) -> None:
    handled: list[PublishResult] = []
    broken = threading.Event()
    broken.set()

    def handler(batch: list[PublishResult]) -> None:
        if broken.is_set():
            raise ValueError
        handled.extend(batch)

    ids = publish(bus, 3)
    bus.flush(5)
    consumer = ResultConsumer(bus, handler, name="eventbus-c")
    consumer.start()
    eventually(lambda: consumer.last_error is not None)
    assert consumer.stop()
    assert {result.event_id for result in consumer.unhandled} == ids
    broken.clear()
    consumer.start()
    eventually(lambda: {result.event_id for result in handled} == ids)
    assert consumer.stop()


def test_it_ends_with_the_stream(bus: MemoryBus) -> None:
    handled: list[PublishResult] = []
    consumer = ResultConsumer(
        bus.get_publish_result_channel(), handled.extend, timeout=60, name="eventbus-c"
    )
    consumer.start()
    publish(bus, 5)
    bus.close()
    assert consumer.join(10)
    assert len(handled) == 5
    assert consumer.finished


def test_stop_is_quick_also_while_it_waits_after_a_failure(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.outbox.consumer.FIRST_BACKOFF", 600.0)
    monkeypatch.setattr("eventbus_sync.outbox.consumer.LONGEST_BACKOFF", 600.0)

    def handler(batch: list[PublishResult]) -> None:
        raise ValueError

    publish(bus, 1)
    consumer = ResultConsumer(bus, handler, timeout=0.1, name="eventbus-c")
    assert consumer.stop()  # before the start, too
    consumer.start()
    consumer.start()
    eventually(lambda: consumer.last_error is not None, SLACK)
    assert consumer.stop(SLACK)


def test_who_reads_beside_a_consumer_is_told(bus: MemoryBus) -> None:
    """Until it has ended; then whoever likes."""
    channel = bus.get_publish_result_channel()
    with (
        ResultConsumer(bus, print, timeout=0.1, name="eventbus-c"),
        pytest.raises(ConfigError, match="read by 'eventbus-c'"),
    ):
        channel.get_nowait()
    publish(bus, 1)
    assert channel.get(timeout=SLACK).success


def test_what_is_refused(bus: MemoryBus) -> None:
    with pytest.raises(ConfigError, match="handler must be callable"):
        ResultConsumer(bus, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_items must be"):
        ResultConsumer(bus, print, max_items=0)
    with pytest.raises(ConfigError, match="not from str"):
        ResultConsumer("memory://", print)  # type: ignore[arg-type]
    first = ResultConsumer(bus, print, name="first")
    with pytest.raises(ConfigError, match="read by 'first' already"):
        ResultConsumer(bus, print, name="second")
    with pytest.raises(TypeError, match="cannot be pickled"):
        first.__reduce__()
