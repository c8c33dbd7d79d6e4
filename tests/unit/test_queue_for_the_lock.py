"""
Publishers that queue for the table's lock step aside, so that the queue dissolves.

Without that, four publishing threads were three times slower than one: see
``InFlight.register``.
"""

import itertools
import threading

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from eventbus_sync import BusClosed, Envelope, _inflight, _runtime
from eventbus_sync._event import InFlightEvent
from eventbus_sync._inflight import MOST_STEPS, QUEUED, STEP_ASIDE, InFlight
from eventbus_sync._threads import Deadline
from eventbus_sync.results import PublishResultChannel
from eventbus_sync.testing import MemoryBus


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    """A bus that runs."""
    with MemoryBus() as bus:
        bus.start()
        yield bus


def table() -> InFlight:
    """Return an empty table with room for everything."""
    return InFlight(
        PublishResultChannel(1000),
        max_events=1000,
        max_bytes=1_000_000,
        delivery_timeout=30.0,
        reserve=False,
        on_results=lambda results, dropped: None,
    )


def event() -> InFlightEvent:
    """Return an event that nobody has accepted."""
    return InFlightEvent("orders", "id", "o-1", "OrderCreated", 0, 100)


def clock_of(*steps: float) -> SimpleNamespace:
    """Return a stand-in for ``time`` whose clock goes on by *steps*, then no more."""
    moments: Iterator[float] = itertools.accumulate(
        itertools.chain(steps, itertools.repeat(0.0)), initial=1000.0
    )
    return SimpleNamespace(monotonic=lambda: next(moments))


def registered(
    waiting: InFlight, monkeypatch: pytest.MonkeyPatch, took: float
) -> float:
    """Register one event for whose lock the thread waited *took* seconds."""
    monkeypatch.setattr(_inflight, "time", clock_of(took))
    waiting._publisher = -1  # another thread
    return waiting.register(event(), Deadline(2000.0))


def test_who_finds_the_lock_free_goes_on_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert registered(table(), monkeypatch, QUEUED / 2) == 0.0


def test_each_that_queued_steps_aside_longer_than_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = table()
    delays = [registered(waiting, monkeypatch, 2 * QUEUED) for _ in range(3)]
    assert delays == pytest.approx([STEP_ASIDE, 2 * STEP_ASIDE, 3 * STEP_ASIDE])


def test_nobody_steps_aside_for_longer_than_some_milliseconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = table()
    delays = [registered(waiting, monkeypatch, 1.0) for _ in range(MOST_STEPS + 10)]
    assert max(delays) == pytest.approx(MOST_STEPS * STEP_ASIDE)
    assert max(delays) < 0.01


def test_a_free_lock_ends_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = table()
    registered(waiting, monkeypatch, 1.0)
    registered(waiting, monkeypatch, 1.0)
    registered(waiting, monkeypatch, 0.0)
    assert registered(waiting, monkeypatch, 1.0) == pytest.approx(STEP_ASIDE)


def test_one_thread_alone_is_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = table()
    registered(waiting, monkeypatch, 1.0)
    monkeypatch.setattr(_inflight, "time", clock_of(1.0))
    assert waiting.register(event(), Deadline(2000.0)) == 0.0


def test_a_thread_that_had_to_wait_for_the_lock_is_told_so() -> None:
    waiting, delays = table(), []
    came = threading.Event()

    def publish() -> None:
        came.set()
        delays.append(waiting.register(event(), Deadline.after(10)))

    publisher = threading.Thread(target=publish)
    with waiting._lock:
        publisher.start()
        came.wait()
        # It is at the lock, or will be, and cannot have it.
        publisher.join(0.05)
    publisher.join()
    assert delays == [STEP_ASIDE]


def test_an_event_is_on_its_way_before_its_publisher_steps_aside(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = InFlight.register
    slept: list[tuple[float, int]] = []

    def queued(self: InFlight, event: InFlightEvent, deadline: Deadline) -> float:
        register(self, event, deadline)
        return 0.004

    def sleep(seconds: float) -> None:
        bus.flush()
        slept.append((seconds, bus.stats().acked))

    monkeypatch.setattr(InFlight, "register", queued)
    monkeypatch.setattr(_runtime, "time", SimpleNamespace(sleep=sleep))
    bus.publish_envelope("orders", Envelope("o-1", "OrderCreated", 1, {}))
    assert slept == [(0.004, 1)]


def test_who_published_nothing_does_not_step_aside(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:

    def closed(self: InFlight, event: InFlightEvent, deadline: Deadline) -> float:
        raise BusClosed

    def sleep(seconds: float) -> None:
        pytest.fail(f"slept {seconds} s")

    monkeypatch.setattr(InFlight, "register", closed)
    monkeypatch.setattr(_runtime, "time", SimpleNamespace(sleep=sleep))
    with pytest.raises(BusClosed):
        bus.publish_envelope("orders", Envelope("o-1", "OrderCreated", 1, {}))
