"""
The promises on memory: what the conformance suite cannot reach from outside.

Each was seen to fail with the code broken on purpose; ``tests/breakages`` repeats that.
"""

import contextlib
import math
import queue
import threading
import time
import types

from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from conformance import test_kafka, test_memory, test_nats
from conformance.suite import BackendConformance
from support.eventually import eventually
from support.interrupt import InterruptedWaiter
from support.patience import SLACK

import eventbus_sync.bus

from eventbus_sync import (
    BackendBusy,
    BusClosed,
    ChannelFull,
    Envelope,
    MemoryConfig,
    Outcome,
    PublishResult,
    ResultChannelClosed,
    Stats,
    _inflight,
)
from eventbus_sync._event import InFlightEvent, Waiter
from eventbus_sync._inflight import InFlight
from eventbus_sync._runtime import Runtime
from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Ack, Delivery, OutgoingMessage
from eventbus_sync.errors import BrokerFull, DeliveryTimedOut
from eventbus_sync.testing import MemoryBus


# What must not wait is given so long, and what it would wait for, if it did, comes later
# than that. With the code broken on purpose the slack is short.
AT_ONCE, LATER = SLACK, 2 * SLACK


def event(number: int = 0, **more: Any) -> Envelope:
    """Return some event."""
    return Envelope("order-1", "OrderCreated", 1, {"n": number}, **more)


@pytest.fixture
def make() -> Iterator[Callable[..., MemoryBus]]:
    """A function that makes a bus with some settings; it is closed with the test."""
    made: list[MemoryBus] = []

    def make(**settings: Any) -> MemoryBus:
        made.append(bus := MemoryBus(MemoryConfig(**settings)))
        return bus

    yield make
    for bus in made:
        bus.broker.resume()
        bus.close(1)


@pytest.fixture
def bus(make: Callable[..., MemoryBus]) -> MemoryBus:
    """A bus that runs."""
    bus = make()
    bus.start()
    return bus


def runtime_of(bus: MemoryBus) -> Runtime:
    """Return the running half of a bus that was used."""
    runtime = bus._runtime
    assert runtime is not None
    return runtime


def forget_everything(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the back end loses what it is given."""
    monkeypatch.setattr(runtime_of(bus).backend, "send", lambda *_: None)


class Timer:
    """How many seconds a block took."""

    seconds = math.inf

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started


class Background:
    """A call on a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as exc:  # noqa: BLE001 - the test looks at it
            self.error = exc

    def returned(self, timeout: float = 10.0) -> bool:
        """Whether the call ended within *timeout* seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


def waits_for_room(bus: MemoryBus) -> bool:
    """Whether a publisher waits for room just now."""
    return len(runtime_of(bus).in_flight._room) > 0


# -- promise 1: two roads --------------------------------------------------------------


def test_promise_1_a_second_outcome_is_only_counted(bus: MemoryBus) -> None:
    """Whatever a back end says again of an event, its first outcome stays the one."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    table = runtime_of(bus).in_flight
    accepted = table._order[0]
    table.settle([(accepted, BrokerFull()), (accepted, Ack(0, 1))])
    table.settle([(accepted, Ack(0, 1))])

    (result,) = bus.get_publish_result_channel().get_many(timeout=10)
    assert result.outcome is Outcome.REJECTED
    bus.broker.resume()
    eventually(lambda: bus.stats().late_outcomes == 3)
    stats = bus.stats()
    assert (stats.accepted, stats.rejected, stats.acked) == (1, 1, 0)
    assert stats.balanced


def test_promise_1_a_failed_hand_over_was_never_accepted(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call raises, so the event is in no book and nothing comes of it."""

    def send(*_: object) -> None:
        raise BackendBusy

    monkeypatch.setattr(runtime_of(bus).backend, "send", send)
    with pytest.raises(BackendBusy):
        bus.publish_envelope("orders", event())
    monkeypatch.undo()

    assert bus.stats() == Stats(capacity=bus.stats().capacity)
    assert bus.flush(0) == 0
    assert bus.publish_envelope_sync("orders", event(), timeout=0).success


def test_promise_1_a_failed_hand_over_leaves_its_room_to_others(
    make: Callable[..., MemoryBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the room of an event that is taken back goes on at once."""
    bus = make(max_in_flight=1)
    bus.start()
    backend, fail = runtime_of(bus).backend, threading.Event()
    send = backend.send

    def fail_later(*_: object) -> None:
        monkeypatch.setattr(backend, "send", send)
        fail.wait(10)
        raise BackendBusy

    monkeypatch.setattr(backend, "send", fail_later)
    first = Background(lambda: bus.publish_envelope("orders", event(1)))
    eventually(lambda: bus.stats().in_flight == 1)
    second = Background(lambda: bus.publish_envelope("orders", event(2), timeout=LATER))
    eventually(lambda: waits_for_room(bus))
    fail.set()

    assert second.returned(AT_ONCE)
    assert second.error is None
    assert first.returned()
    assert isinstance(first.error, BackendBusy)
    assert bus.get_publish_result_channel().get(timeout=10).success


def test_promise_1_settled_while_the_hand_over_failed(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that has its outcome was accepted, though the back end raised."""

    def send(_: OutgoingMessage, delivery: Delivery, __: Deadline) -> None:
        runtime_of(bus).settle([(delivery, BrokerFull())])
        raise BusClosed

    monkeypatch.setattr(runtime_of(bus).backend, "send", send)
    event_id = bus.publish_envelope("orders", event())

    assert bus.get_publish_result_channel().get(timeout=10).event_id == event_id
    assert bus.stats().balanced


def test_promise_1_a_forgotten_event_ends_within_two_seconds(
    make: Callable[..., MemoryBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the back end never answers ends as unknown: no event is lost in silence."""
    now = [1000.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    bus = make(delivery_timeout=30.0)
    bus.start()
    forget_everything(bus, monkeypatch)
    monkeypatch.setattr(_inflight, "time", clock)
    bus.publish_envelope("orders", event())
    runtime_of(bus).expire()
    now[0] += 30.0
    runtime_of(bus).expire()
    assert bus.stats().in_flight == 1
    # Back ends look a few times a second.
    now[0] += 1.7
    (result,) = bus.get_publish_result_channel().get_many(timeout=LATER)
    assert result.outcome is Outcome.UNKNOWN
    assert isinstance(result.error, DeliveryTimedOut)
    assert result.latency == pytest.approx(31.7)


def test_promise_1_close_settles_what_the_back_end_forgot(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event of which the back end knows nothing has its outcome after close."""
    forget_everything(bus, monkeypatch)
    bus.publish_envelope("orders", event())
    bus.close(0.1)

    (result,) = bus.get_publish_result_channel()
    assert result.outcome is Outcome.UNKNOWN
    assert bus.stats().in_flight == 0
    assert bus.stats().balanced


def test_promise_1_close_ends_the_wait_for_room(make: Callable[..., MemoryBus]) -> None:
    """A publisher without room gets BusClosed at once, and was not accepted."""
    bus = make(max_in_flight=1)
    bus.start()
    bus.broker.freeze()
    bus.publish_envelope("orders", event(1))
    waiter = Background(lambda: bus.publish_envelope("orders", event(2), timeout=LATER))
    eventually(lambda: waits_for_room(bus))
    closer = Background(lambda: bus.close(2 * LATER))

    assert waiter.returned(AT_ONCE)
    assert isinstance(waiter.error, BusClosed)
    bus.broker.resume()
    assert closer.returned()
    assert len(list(bus.get_publish_result_channel())) == bus.stats().accepted == 1


def test_promise_1_sync_gets_its_own_outcome(make: Callable[..., MemoryBus]) -> None:
    """Many waiting publishers of one event id: each gets one outcome, nobody two."""
    bus = make(latency=0.05)
    results: list[PublishResult] = []

    def publish() -> None:
        results.append(bus.publish_envelope_sync("orders", event(event_id="same")))

    calls = [Background(publish) for _ in range(8)]
    assert all(call.returned() for call in calls)
    assert all(result.success for result in results)
    assert sum(not result.duplicate for result in results) == 1
    assert len(results) == bus.stats().returned == 8
    assert bus.get_publish_result_channel().qsize() == 0


def test_promise_1_an_interrupted_wait_leaves_its_outcome_to_the_channel(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while publish_envelope_sync waits: the outcome is not lost with it."""
    bus.broker.freeze()
    monkeypatch.setattr(eventbus_sync.bus, "Waiter", InterruptedWaiter)
    with pytest.raises(KeyboardInterrupt):
        bus.publish_envelope_sync("orders", event())
    monkeypatch.undo()
    bus.broker.resume()
    assert bus.flush(10) == 0
    assert bus.get_publish_result_channel().get_nowait().success
    assert bus.stats().returned == 0


def test_promise_1_a_callback_that_raises_costs_the_others_nothing(
    bus: MemoryBus,
) -> None:
    """Every callback sees every result, whatever another one raises."""
    seen: list[str] = []

    def fail(result: PublishResult) -> None:
        raise ValueError(result.event_id)

    bus.register_publish_callback(fail)
    bus.register_publish_callback(lambda result: seen.append(result.event_id))
    bus.broker.freeze()
    ids = [bus.publish_envelope("orders", event(number)) for number in range(3)]
    bus.broker.resume()
    bus.close(10)
    assert seen == ids
    assert bus.stats().callback_errors == 3
    assert bus.stats().acked == 3


def test_promise_1_each_result_has_an_error_of_its_own(bus: MemoryBus) -> None:
    """An outage ends many events alike; whoever raises one error changes no other."""
    bus.broker.reject(BrokerFull("no room"), times=2)
    first, second = (bus.publish_envelope_sync("orders", event()) for _ in range(2))
    assert first.error is not None
    assert second.error is not None
    assert first.error is not second.error
    assert str(first.error) == str(second.error) == "no room"
    with pytest.raises(BrokerFull):
        raise first.error
    assert first.error.__traceback__ is not None
    assert second.error.__traceback__ is None


# -- promise 2: the books balance ------------------------------------------------------


def test_promise_2_each_outcome_is_in_one_book(make: Callable[..., MemoryBus]) -> None:
    """Acked, rejected or unknown; and queued, taken, dropped or returned."""
    bus = make(result_capacity=4, delivery_timeout=0.2)
    bus.broker.reject(BrokerFull(), topic="full", times=math.inf)
    assert bus.publish_envelope_sync("orders", event(1)).success
    assert bus.publish_envelope_sync("full", event(2)).error
    for topic in ("orders", "full", "orders", "orders", "full"):
        bus.publish_envelope(topic, event(3))
        assert bus.flush(10) == 0
    bus.get_publish_result_channel().get_nowait()
    bus.get_publish_result_channel().get_many(2)
    bus.broker.drop_acks()
    bus.publish_envelope("orders", event(4))
    assert bus.flush(10) == 0
    bus.broker.freeze()
    bus.publish_envelope("orders", event(5))

    stats = bus.stats()
    assert (stats.acked, stats.rejected, stats.unknown) == (4, 3, 1)
    assert (stats.accepted, stats.in_flight) == (9, 1)
    assert stats.in_flight_bytes > 0
    assert (stats.queued, stats.taken, stats.dropped) == (2, 3, 1)
    assert stats.returned == 2
    assert stats.balanced


def test_promise_2_settling_and_queueing_are_one_step(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No snapshot shows an event that is settled and in no book of the channel."""
    channel = bus.get_publish_result_channel()
    offer, seen = channel._offer, list[Stats]()
    looked: list[Background] = []

    def offer_late(results: list[PublishResult]) -> int:
        looked.append(Background(lambda: seen.append(bus.stats())))
        looked[0].returned(0.2)
        return offer(results)

    monkeypatch.setattr(channel, "_offer", offer_late)
    bus.publish_envelope("orders", event())
    assert bus.flush(10) == 0
    assert looked[0].returned()
    assert [stats.balanced for stats in seen] == [True]


def test_promise_2_a_snapshot_is_one_reading(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is settled between the two halves of a snapshot."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    channel, table = bus.get_publish_result_channel(), runtime_of(bus).in_flight
    counts, settling = channel._counts, list[Background]()

    def counts_and_wait() -> object:
        read = counts()
        settling.append(Background(table.abandon))
        settling[0].returned(0.2)
        return read

    monkeypatch.setattr(channel, "_counts", counts_and_wait)
    assert bus.stats().balanced
    monkeypatch.undo()
    assert settling[0].returned()
    assert bus.stats().unknown == 1


def test_promise_2_reserve_bounds_what_is_in_flight_and_unread(
    make: Callable[..., MemoryBus],
) -> None:
    """With overflow="reserve" both together never exceed the capacity."""
    bus = make(result_capacity=3, overflow="reserve")
    bus.start()
    for frozen in (0, 1, 2, 3):
        for number in range(3 - frozen):
            bus.publish_envelope("orders", event(number), timeout=0)
        assert bus.flush(10) == 0
        bus.broker.freeze()
        for number in range(frozen):
            bus.publish_envelope("orders", event(number), timeout=0)
        with pytest.raises(ChannelFull):
            bus.publish_envelope("orders", event(), timeout=0)
        stats = bus.stats()
        assert (stats.in_flight, stats.queued) == (frozen, 3 - frozen)
        bus.broker.resume()
        assert bus.flush(10) == 0
        assert len(bus.get_publish_result_channel().get_many(9)) == 3
    assert bus.stats().dropped == 0


# -- promise 3: the caller never waits for a broker ------------------------------------


def test_promise_3_the_first_use_waits_for_no_broker(
    make: Callable[..., MemoryBus],
) -> None:
    """A broker that answers nothing does not delay the call which starts the bus."""
    bus = make(publish_timeout=LATER)
    bus.broker.freeze()
    with Timer() as first:
        bus.publish_envelope("orders", event(1))
    assert first.seconds < AT_ONCE
    with Timer() as others:
        bus.publish_envelope("orders", event(2))
        bus.publish("orders", b"plain")
    assert others.seconds < AT_ONCE
    assert bus.stats().in_flight == 2


def test_promise_3_the_wait_for_room_ends_at_publish_timeout(
    make: Callable[..., MemoryBus],
) -> None:
    """Without room the caller is back after publish_timeout, with BackendBusy."""
    bus = make(max_in_flight=1, publish_timeout=0.1)
    bus.broker.freeze()
    bus.publish_envelope("orders", event(1))
    waiter = Background(lambda: bus.publish_envelope("orders", event(2)))
    assert waiter.returned(AT_ONCE)
    assert isinstance(waiter.error, BackendBusy)


def test_promise_3_room_is_taken_as_soon_as_it_is_there(
    make: Callable[..., MemoryBus],
) -> None:
    """Settled events leave their room to the publishers that wait, all of them."""
    bus = make(max_in_flight=2)
    bus.start()
    bus.broker.freeze()
    for number in range(2):
        bus.publish_envelope("orders", event(number))
    table = runtime_of(bus).in_flight
    waiters = [
        Background(lambda: bus.publish_envelope("orders", event(), timeout=LATER))
        for _ in range(2)
    ]
    eventually(lambda: len(table._room) == 2)
    table.settle([(one, Ack(0, 1)) for one in list(table._order)])
    assert all(waiter.returned(AT_ONCE) for waiter in waiters)
    assert [waiter.error for waiter in waiters] == [None, None]


# -- promise 4: the ack side never blocks ----------------------------------------------


def test_promise_4_a_full_channel_holds_up_no_ack(
    make: Callable[..., MemoryBus],
) -> None:
    """With nobody reading, the last of many outcomes is counted at once."""
    bus = make(result_capacity=1)
    bus.start()
    with Timer() as timer:
        for number in range(5):
            bus.publish_envelope("orders", event(number))
            assert bus.flush(2 * LATER) == 0
    assert timer.seconds < AT_ONCE
    stats = bus.stats()
    assert (stats.acked, stats.queued, stats.dropped) == (5, 1, 4)


def test_promise_4_the_oldest_results_stay(make: Callable[..., MemoryBus]) -> None:
    """A full channel drops what comes, not what a reader was promised already."""
    bus = make(result_capacity=2)
    ids = []
    for number in range(4):
        ids.append(bus.publish_envelope("orders", event(number)))
        assert bus.flush(10) == 0
    kept = bus.get_publish_result_channel().get_many(9)
    assert [result.event_id for result in kept] == ids[:2]


def test_promise_4_a_callback_that_blocks_holds_up_no_ack(bus: MemoryBus) -> None:
    """User code runs on a thread on which no outcome depends."""
    release, threads = threading.Event(), list[str]()

    def callback(_: PublishResult) -> None:
        threads.append(threading.current_thread().name)
        release.wait(AT_ONCE)

    bus.register_publish_callback(callback)
    with Timer() as timer:
        for number in range(2):
            bus.publish_envelope("orders", event(number))
            assert bus.flush(2 * LATER) == 0
    release.set()
    assert timer.seconds < AT_ONCE
    eventually(lambda: len(threads) == 2)
    assert set(threads) == {"eventbus-callbacks"}


def test_promise_4_drops_are_said(
    make: Callable[..., MemoryBus], caplog: pytest.LogCaptureFixture
) -> None:
    """Dropped results are counted, logged and reported: the first at once, the rest together."""
    bus = make(result_capacity=1)
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    for number in range(5):
        bus.publish_envelope("orders", event(number))
        assert bus.flush(10) == 0
    bus.close(1)
    assert bus.stats().dropped == 4
    assert [type(error).__name__ for error in errors] == ["ResultsDropped"] * 2
    assert caplog.text.count("the result channel is full") == 2


@pytest.mark.parametrize("how", ["get", "get_many"])
def test_promise_4_reserve_a_read_result_is_room(
    make: Callable[..., MemoryBus], how: str
) -> None:
    """Taking a result lets a waiting publisher go on at once."""
    bus = make(result_capacity=1, overflow="reserve")
    bus.publish_envelope("orders", event(1))
    assert bus.flush(10) == 0
    waiter = Background(lambda: bus.publish_envelope("orders", event(2), timeout=LATER))
    eventually(lambda: waits_for_room(bus))
    channel = bus.get_publish_result_channel()
    assert channel.get() if how == "get" else channel.get_many()
    assert waiter.returned(AT_ONCE)
    assert waiter.error is None


# -- promises 5 and 6: stored once, in order -------------------------------------------


def test_promise_5_a_repeat_is_stored_once(make: Callable[..., MemoryBus]) -> None:
    """The same event again, in flight and after its outcome, is not stored again."""
    bus = make(latency=0.02)
    once = event()
    for _ in range(3):
        bus.publish_envelope("orders", once)
    assert bus.flush(10) == 0
    assert bus.publish_envelope_sync("orders", once).duplicate
    assert len(bus.broker.messages("orders")) == 1
    assert bus.stats().acked == 4


# -- promise 7: the same contract on every back end ------------------------------------


def test_promise_7_one_suite_runs_on_every_back_end() -> None:
    """Memory, Kafka and NATS run the whole suite; none changes or leaves out a test."""
    modules = (test_memory, test_kafka, test_nats)
    suites = {
        name: suite
        for module in modules
        for name, suite in vars(module).items()
        if name.startswith("Test") and issubclass(suite, BackendConformance)
    }
    assert set(suites) >= {"TestMemory", "TestEmbeddedKafka", "TestNats"}
    for suite in suites.values():
        assert not [name for name in vars(suite) if name.startswith("test")]
    for number in (1, 2, 3, 4, 5, 6, 9, 10):
        assert [t for t in dir(BackendConformance) if f"promise_{number}_" in t]


# -- promise 9: clean exit -------------------------------------------------------------


def test_promise_9_close_keeps_its_deadline_as_a_whole(bus: MemoryBus) -> None:
    """A frozen broker and a callback that blocks share one deadline."""
    release = threading.Event()
    bus.register_publish_callback(lambda _: release.wait(2 * LATER))
    assert bus.publish_envelope_sync("orders", event(1)).success
    bus.broker.freeze()
    bus.publish_envelope("orders", event(2))
    with Timer() as timer:
        bus.close(0.5)
    release.set()
    assert timer.seconds < AT_ONCE
    assert bus.health().state == "closed"
    assert bus.stats().unknown == 1


def test_promise_9_closed_is_final(bus: MemoryBus) -> None:
    """Nothing is accepted any more, nothing starts, and the channel ends."""
    bus.publish_envelope("orders", event())
    bus.close(10)
    before = bus.stats()
    for call in (
        lambda: bus.publish_envelope("orders", event()),
        lambda: bus.publish_envelope_sync("orders", event()),
        lambda: bus.publish("orders", b"x"),
        lambda: bus.start(1),
    ):
        with pytest.raises(BusClosed):
            call()
    bus.close(10)
    assert bus.stats() == before
    channel = bus.get_publish_result_channel()
    assert channel.get(timeout=1).success
    with pytest.raises(ResultChannelClosed):
        channel.get(timeout=1)
    with pytest.raises(ResultChannelClosed):
        channel.get_many(timeout=1)


def test_promise_9_close_wakes_a_reader(bus: MemoryBus) -> None:
    """A reader that waits without a timeout is told the end."""
    channel = bus.get_publish_result_channel()
    reader = Background(channel.get)
    eventually(lambda: channel._waiting)
    bus.close(1)
    woken = reader.returned(AT_ONCE)
    channel._end()
    assert woken
    assert isinstance(reader.error, ResultChannelClosed)


def test_promise_9_with_closes() -> None:
    """The end of a with block is a close, also when the block raises."""
    before = set(threading.enumerate())
    bus = MemoryBus()
    with contextlib.suppress(ZeroDivisionError), bus:
        bus.publish_envelope("orders", event())
        raise ZeroDivisionError
    state, left = bus.health().state, set(threading.enumerate()) - before
    bus.close(1)
    assert state == "closed"
    assert left == set()
    assert bus.stats().acked == 1


def test_promise_9_close_leaves_no_thread() -> None:
    """Neither the worker nor the callback thread outlives a close in good order."""
    before = set(threading.enumerate())
    bus = MemoryBus()
    assert bus.publish_envelope_sync("orders", event()).success
    assert len(set(threading.enumerate()) - before) == 2
    bus.close(1)
    assert set(threading.enumerate()) <= before


def test_promise_9_close_waits_for_outcomes(make: Callable[..., MemoryBus]) -> None:
    """What the broker answers in time is acked, not abandoned."""
    bus = make(latency=0.2)
    for number in range(5):
        bus.publish_envelope("orders", event(number))
    bus.close(10)
    assert bus.stats().acked == 5


def test_promise_9_nothing_is_accepted_during_close(bus: MemoryBus) -> None:
    """From the call of close on publishers are refused, while outcomes still come."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event(1))
    closer = Background(lambda: bus.close(10))
    eventually(lambda: bus.health().state == "draining")
    with pytest.raises(BusClosed):
        bus.publish_envelope("orders", event(2), timeout=10)
    with pytest.raises(BusClosed):
        bus.publish("orders", b"x")
    bus.broker.resume()
    assert closer.returned()
    (result,) = bus.get_publish_result_channel()
    assert result.success


def test_promise_9_exit_gives_close_exit_timeout(
    make: Callable[..., MemoryBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the beginning of the exit, which all buses share."""
    bus = make(exit_timeout=7.0)
    bus.start()
    deadlines: list[Deadline] = []
    monkeypatch.setattr(bus, "_close", deadlines.append)
    bus._at_exit(1000.0)
    assert [deadline.at for deadline in deadlines] == [1007.0]
    monkeypatch.undo()


def test_promise_9_a_second_closer_waits_for_the_first(bus: MemoryBus) -> None:
    """When any close returns, the bus is closed."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    first = Background(lambda: bus.close(10))
    eventually(lambda: bus.health().state == "draining")
    states: list[str] = []

    def close_too() -> None:
        bus.close(10)
        states.append(bus.health().state)

    second = Background(close_too)
    assert not second.returned(0.1)
    bus.broker.resume()
    assert second.returned()
    assert first.returned()
    assert states == ["closed"]


def test_promise_9_a_closer_without_time_says_that_another_one_closes(
    bus: MemoryBus, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not wait, and the bus is not closed yet: that is not kept quiet."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    first = Background(lambda: bus.close(10))
    eventually(lambda: bus.health().state == "draining")
    bus.close(0)
    assert bus.health().state == "draining"
    assert "another thread still closes it" in caplog.text
    bus.broker.resume()
    assert first.returned()


def test_promise_9_an_interrupted_close_is_taken_up_where_it_stopped(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its back end may be gone: nothing is left to wait for, only to be settled."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    backend = runtime_of(bus).backend

    def interrupted(deadline: Deadline) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backend, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bus.close(0.1)
    waited: list[Deadline] = []
    monkeypatch.setattr(InFlight, "wait_settled", lambda _, by: waited.append(by))
    bus.close(10)
    assert waited == []
    assert bus.health().state == "closed"
    assert bus.stats().unknown == 1


def test_promise_2_a_late_interruption_with_a_full_channel(
    make: Callable[..., MemoryBus],
) -> None:
    """The outcome was there, its waiter is gone, no room: dropped, counted and said."""
    bus = make(result_capacity=1)
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    bus.publish_envelope("orders", event())
    assert bus.flush(10) == 0
    result = bus.publish_envelope_sync("orders", event())
    waiter = Waiter()
    waiter.result = result
    runtime_of(bus).in_flight.forget_waiter(waiter)
    stats = bus.stats()
    assert stats.balanced
    assert (stats.queued, stats.dropped, stats.returned) == (1, 1, 0)
    bus.close(5)
    assert len(errors) == 1


def test_promise_2_results_on_their_way_are_in_the_books(
    make: Callable[..., MemoryBus],
) -> None:
    """Who settled them was interrupted; the next one who settles or closes helps."""
    bus = make(result_capacity=1)
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    results = [bus.publish_envelope_sync("orders", event()) for _ in range(2)]
    table = runtime_of(bus).in_flight
    table._returned = 0
    table._handing_over += results
    stats = bus.stats()
    assert stats.balanced
    assert stats.queued == 2
    bus.close(5)
    stats = bus.stats()
    assert stats.balanced
    assert (stats.queued, stats.dropped) == (1, 1)
    assert len(errors) == 1
    assert "dropped 1 results" in str(errors[0])


# -- promise 10: an outbox loses nothing -----------------------------------------------


def test_promise_10_a_repeat_after_an_unknown_outcome_is_recognised(
    make: Callable[..., MemoryBus],
) -> None:
    """Unknown says "publish again", and that is stored once."""
    bus = make(delivery_timeout=0.2)
    bus.broker.drop_acks()
    once = event()
    result = bus.publish_envelope_sync("orders", once)
    assert result.outcome is Outcome.UNKNOWN
    assert result.error is not None
    assert result.error.retriable
    assert result.error.maybe_delivered
    again = bus.publish_envelope_sync("orders", once)
    assert again.success
    assert again.duplicate
    (stored,) = bus.broker.messages("orders")
    assert stored.event_id == once.event_id


def test_promise_10_a_repeat_after_a_dropped_result_is_recognised(
    make: Callable[..., MemoryBus],
) -> None:
    """An event whose result found no room can be published again, and is stored once."""
    bus = make(result_capacity=1)
    events = [event(0), event(1)]
    for one in events:
        bus.publish_envelope("orders", one)
        assert bus.flush(10) == 0
    channel = bus.get_publish_result_channel()
    assert channel.get_nowait().event_id == events[0].event_id
    with pytest.raises(queue.Empty):
        channel.get_nowait()

    bus.publish_envelope("orders", events[1])
    again = channel.get(timeout=10)
    assert again.event_id == events[1].event_id
    assert again.duplicate
    stored = [message.event_id for message in bus.broker.messages("orders")]
    assert stored == [one.event_id for one in events]


# -- the table of events in flight, where time and order decide ------------------------


def accepted(table: InFlight, count: int) -> list[InFlightEvent]:
    """Return so many events that *table* has accepted."""
    events = [InFlightEvent("t", str(n), "a", "E", 0, 1) for n in range(count)]
    for one in events:
        table.register(one, Deadline(0.0))
    return events


def test_flush_does_not_wait_for_what_came_later(bus: MemoryBus) -> None:
    """A flush returns when the events before it are settled, whatever comes after."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event(1))
    table = runtime_of(bus).in_flight
    flushed: list[int] = []
    flush = Background(lambda: flushed.append(bus.flush(2 * LATER)))
    eventually(lambda: len(table._progress) == 1)
    bus.publish_envelope("orders", event(2))
    table.settle([(table._order[0], Ack(0, 1))])
    assert flush.returned(AT_ONCE)
    assert flushed == [0]
    assert bus.flush(0) == 1


def test_settled_events_are_not_kept(bus: MemoryBus) -> None:
    """One event that stays does not keep those behind it in memory."""
    table = runtime_of(bus).in_flight
    accepted(table, 1)
    for _ in range(5):
        table.settle([(one, Ack(0, 1)) for one in accepted(table, 1000)])
    assert bus.stats().in_flight == 1
    assert len(table._order) < 2000
    assert table.abandon() == 1
