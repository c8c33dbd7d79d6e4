"""Whole runs of the demo on memory: what is published, broken, noticed and reported."""

import io
import threading
import time

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.patience import SLACK, let_pass

from eventbus_sync import Envelope, MemoryConfig, PublishResult, ResultChannelClosed
from eventbus_sync.demo import embedded, measure, workload
from eventbus_sync.demo.embedded import memory_target
from eventbus_sync.demo.faults import Fault, Schedule
from eventbus_sync.demo.figures import Figures
from eventbus_sync.demo.own import own
from eventbus_sync.demo.plan import Plan, Target
from eventbus_sync.demo.progress import Progress
from eventbus_sync.demo.run import INTERRUPTED, OK, UNBALANCED, run
from eventbus_sync.demo.workload import Hold, Workload
from eventbus_sync.errors import (
    BrokerFull,
    BrokerUnreachable,
    ConfigError,
    IllegalTopic,
    PublishRejected,
)
from eventbus_sync.testing.memory import MemoryBroker, MemoryBus
from eventbus_sync.testing.readback import ReadBackFailed, StoredEvent


PLAN = Plan(backends=("memory",), events=400, threads=3)


def target(**settings: Any) -> Target:
    """Return a target in memory."""
    return memory_target(MemoryConfig(**settings), broken=False)


def broker_of(target: Target) -> MemoryBroker:
    """Return the broker of a target in memory."""
    assert isinstance(target.bus, MemoryBus)
    return target.bus.broker


def measured(target: Target, plan: Plan = PLAN) -> Figures:
    """Return the figures of a run that nobody watches; its threads have ended."""
    before = threading.active_count()
    figures = measure.measure(target, plan, Progress(io.StringIO()))
    eventually(lambda: threading.active_count() <= before)
    return figures


def kinds(figures: Figures) -> dict[str, int]:
    """Return what violations were found, and how often."""
    return {violation.kind: violation.count for violation in figures.violations}


def fault(**changed: Any) -> Fault:
    """Return a short fault that does nothing."""
    settings: dict[str, Any] = {
        "at": 0.4,
        "seconds": 0.05,
        "done": "frozen",
        "undone": "resumed",
        "strike": lambda: None,
        "repair": lambda: None,
    }
    return Fault(**(settings | changed))


# -- a run -----------------------------------------------------------------------------


def test_a_run_in_which_all_goes_well() -> None:
    figures = measured(target())
    assert figures.balanced
    assert (figures.accepted, figures.acked, figures.stored) == (400, 400, 400)
    assert (figures.threads, figures.waited, figures.repeats) == (3, 0, 0)
    assert figures.call.p50 is not None
    assert figures.latency.p99 is not None
    assert figures.rate > 0


@pytest.mark.parametrize(("events", "threads"), [(1, 1), (1, 4), (5, 3), (1500, 2)])
def test_events_are_shared_out(events: int, threads: int) -> None:
    figures = measured(target(), Plan(events=events, threads=threads))
    assert (figures.accepted, figures.stored, figures.balanced) == (
        events,
        events,
        True,
    )


def test_rejected_events_balance_too() -> None:
    memory = target()
    broker_of(memory).reject(BrokerFull(), times=150)
    figures = measured(memory)
    assert (figures.acked, figures.rejected, figures.stored) == (250, 150, 250)
    assert figures.codes == {"full": 150}
    assert figures.balanced


def test_unknown_events_balance_whether_stored_or_not() -> None:
    memory = target(delivery_timeout=0.3)
    broker_of(memory).drop_acks(times=7)
    figures = measured(memory)
    assert (figures.unknown, figures.acked, figures.stored) == (7, 393, 400)
    assert figures.codes == {"timed_out": 7}
    assert figures.balanced


def test_a_full_bus_makes_publishers_wait_and_try_again() -> None:
    memory = target(max_in_flight=10, publish_timeout=0.0, latency=0.01)
    figures = measured(memory)
    assert figures.waited > 0
    assert (figures.accepted, figures.balanced) == (400, True)


def test_dropped_results_are_shown_and_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = target(result_capacity=5)
    release = threading.Event()
    channel = memory.bus.get_publish_result_channel()
    get_many = channel.get_many

    def late(
        max_items: int = 1000, timeout: float | None = None
    ) -> list[PublishResult]:
        release.wait(10)
        return get_many(max_items, timeout)

    monkeypatch.setattr(channel, "get_many", late)
    threading.Timer(0.5, release.set).start()
    figures = measured(memory)
    assert (figures.acked, figures.dropped, figures.balanced) == (400, 395, True)


# -- what must not go unnoticed --------------------------------------------------------


def changed(
    memory: Target, change: Callable[[list[StoredEvent]], Sequence[StoredEvent]]
) -> Target:
    """Return a target whose broker tells something else than the truth."""

    def read_back(timeout: float) -> list[StoredEvent]:
        return list(change(memory.read_back(timeout)))

    return attrs.evolve(memory, read_back=read_back)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda stored: stored[:-2], {"lost": 2}),
        (lambda stored: [*stored, stored[0]], {"twice": 1}),
        (
            lambda stored: [*stored, StoredEvent("ghost", "a", "demo", 0, 9999)],
            {"phantom": 1},
        ),
        (lambda stored: stored[::-1], {"disordered": 1000}),
    ],
)
def test_a_broker_that_keeps_no_promise(change: Any, found: dict[str, int]) -> None:
    plan = Plan(events=2000, threads=1)  # each aggregate twice
    figures = measured(changed(target(), change), plan)
    assert kinds(figures) == found
    assert not figures.balanced


def test_a_rejected_event_that_is_stored_all_the_same() -> None:
    memory = target()
    broker = broker_of(memory)
    broker.reject(PublishRejected("liar"), times=1)

    def lie(stored: list[StoredEvent]) -> list[StoredEvent]:
        rejected = figures_of_ids(memory) - {event.event_id for event in stored}
        return [*stored, StoredEvent(rejected.pop(), "x", "demo", 0, 9999)]

    seen: set[str] = set()
    memory.bus.register_publish_callback(lambda result: seen.add(result.event_id))

    def figures_of_ids(_: Target) -> set[str]:
        eventually(lambda: len(seen) == 400)
        return set(seen)

    figures = measured(changed(memory, lie))
    assert (kinds(figures), figures.rejected) == ({"phantom": 1}, 1)


def test_stored_events_that_cannot_be_read_back() -> None:
    def fail(timeout: float) -> list[StoredEvent]:
        msg = f"nothing within {timeout:g} s"
        raise ReadBackFailed(msg)

    figures = measured(attrs.evolve(target(), read_back=fail))
    assert figures.stored is None
    assert figures.failures == ("nothing within 30.08 s",)
    assert not figures.balanced


def test_outcomes_that_are_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not wait longer than promise 1 allows, and says so."""
    monkeypatch.setattr(measure, "GRACE", 0.2)
    monkeypatch.setattr(measure, "EARLY_CLOSE", 0.3)
    memory = attrs.evolve(target(), delivery_timeout=0.1)
    broker_of(memory).drop_acks(times=3)
    figures = measured(memory)
    assert figures.failures == ("3 events had no outcome 0.2 s after delivery_timeout",)
    assert figures.unknown == 3
    assert not figures.balanced


def test_a_publisher_that_cannot_go_on_ends_the_run() -> None:
    figures = measured(attrs.evolve(target(), topic="not a topic"))
    assert figures.accepted == 0
    assert figures.failures[0].startswith("thread demo-publisher-")
    assert "not a topic" in figures.failures[0]
    assert not figures.balanced


def test_a_bus_that_somebody_closes_ends_the_run() -> None:
    memory = target(latency=0.01, max_in_flight=10)
    memory.bus.register_publish_callback(
        lambda _: threading.Thread(target=memory.bus.close).start()
    )
    figures = measured(memory)
    assert figures.accepted < 400
    assert "closed" in figures.failures[0]


def test_a_defect_in_a_thread_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Envelope:
        raise ZeroDivisionError

    monkeypatch.setattr(workload, "Envelope", broken)
    figures = measured(target())
    assert "ZeroDivisionError()" in figures.failures[0]


def test_a_thread_that_does_not_end_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_JOIN", 0.1)
    memory = target()
    release = threading.Event()
    channel = memory.bus.get_publish_result_channel()

    def stuck(*_: object) -> list[PublishResult]:
        release.wait(10)
        raise ResultChannelClosed

    monkeypatch.setattr(channel, "get_many", stuck)
    figures = measure.measure(memory, PLAN, Progress(io.StringIO()))
    assert "thread demo-reader did not end" in figures.failures
    release.set()


def test_a_broker_out_of_reach() -> None:
    memory = target()
    broker_of(memory).freeze()
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable):
        measured_within(memory, 0.2)
    assert time.monotonic() - started < 5 + SLACK


def measured_within(memory: Target, seconds: float) -> None:
    """Run with less patience for the first connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "CONNECT_TIMEOUT", seconds)
        measured(memory)


# -- faults ----------------------------------------------------------------------------


def test_a_frozen_broker_catches_events_in_flight() -> None:
    memory = target()
    broker = broker_of(memory)
    faults = [
        fault(strike=broker.freeze, repair=broker.resume, at=0.3),
        fault(strike=broker.freeze, repair=broker.resume, at=0.6, done="killed"),
    ]
    figures = measured(attrs.evolve(memory, faults=faults), Plan(events=4000))
    assert figures.balanced
    assert [struck.fault.done for struck in figures.struck] == ["frozen", "killed"]
    for struck in figures.struck:
        assert struck.waiting > 0
        assert struck.seconds >= 0.05


@pytest.mark.parametrize("events", [1, 2, 3, 7])
def test_faults_and_hardly_any_events(events: int) -> None:
    memory = target()
    broker = broker_of(memory)
    faults = [
        fault(strike=broker.freeze, repair=broker.resume, at=at) for at in (0.4, 0.7)
    ]
    plan = Plan(events=events, threads=4)
    figures = measured(attrs.evolve(memory, faults=faults), plan)
    assert (figures.balanced, figures.accepted) == (True, events)


def test_a_fault_that_cannot_be_done() -> None:
    def fail() -> None:
        msg = "no such process"
        raise RuntimeError(msg)

    figures = measured(attrs.evolve(target(), faults=[fault(strike=fail)]))
    assert figures.failures == (
        "the broker could not be broken as planned: no such process",
    )
    assert figures.accepted == 400
    assert not figures.balanced


def test_a_fault_is_undone_when_the_run_stops() -> None:
    done: list[str] = []
    schedule = Schedule(
        [
            fault(
                at=0.0,
                seconds=60.0,
                strike=lambda: done.append("strike"),
                repair=lambda: done.append("repair"),
            )
        ],
        events=10,
    )
    schedule.start(MemoryBus().stats)
    eventually(lambda: schedule.now == "frozen…")
    schedule.stop()
    assert done == ["strike", "repair"]
    assert (schedule.now, len(schedule.struck)) == ("", 1)


def test_a_fault_whose_time_never_comes() -> None:
    schedule = Schedule([fault(at=0.9)], events=10)
    schedule.start(MemoryBus().stats)
    schedule.stop()
    assert schedule.struck == []
    assert all(hold.opened.is_set() for hold in schedule.holds)


def test_publishers_stop_at_a_hold() -> None:
    bus, hold = MemoryBus(), Hold(0.5)
    work = Workload(bus, "orders", events=100, threads=2, holds=[hold])
    with bus:
        work.start()
        eventually(lambda: work.journal.accepted == 50)
        let_pass(0.05)
        assert work.journal.accepted == 50
        hold.opened.set()
        eventually(lambda: not work.publishing)
    work.join(5)
    assert work.journal.accepted == 100


def test_publishers_trickle_at_a_hold_but_not_for_ever() -> None:
    bus, hold = MemoryBus(), Hold(0.5, trickle=True)
    work = Workload(bus, "orders", events=40, threads=2, holds=[hold])
    with bus:
        work.start()
        eventually(lambda: work.journal.accepted == 40)
        assert work.publishing
        hold.opened.set()
        eventually(lambda: not work.publishing)
    work.join(5)
    assert work.journal.accepted == 40


# -- Ctrl-C ----------------------------------------------------------------------------


class Impatient(Progress):
    """A user who presses Ctrl-C when the run is at *at* results."""

    def __init__(self, stream: io.StringIO, at: int) -> None:
        super().__init__(stream)
        self.at = at

    def show(self, name: str, settled: int, *rest: Any) -> None:
        super().show(name, settled, *rest)
        if settled >= self.at:
            raise KeyboardInterrupt


def test_ctrl_c_ends_the_publishing_but_not_the_books() -> None:
    memory = target(latency=0.05, max_in_flight=10, publish_timeout=0.01)
    before = threading.active_count()
    figures = measure.measure(memory, PLAN, Impatient(io.StringIO(), 1))
    eventually(lambda: threading.active_count() <= before)
    assert figures.interrupted
    assert 0 < figures.accepted < 400
    assert figures.accepted == figures.acked == figures.stored
    assert figures.balanced


def test_an_early_end_is_not_followed_by_hours_of_reading_back() -> None:
    """The time for it goes by what was published, not by what was planned."""
    memory, times = target(latency=0.05, max_in_flight=10), []

    def read_back(timeout: float) -> list[StoredEvent]:
        times.append(timeout)
        return memory.read_back(timeout)

    plan = attrs.evolve(PLAN, events=100_000_000)
    watched = attrs.evolve(memory, read_back=read_back)
    figures = measure.measure(watched, plan, Impatient(io.StringIO(), 1))
    assert figures.balanced
    assert max(times) <= 30 + figures.accepted / 5000


def test_ctrl_c_while_publishers_wait_for_room() -> None:
    memory = target(max_in_flight=1, publish_timeout=30.0)
    broker = broker_of(memory)
    faults = [fault(strike=broker.freeze, repair=broker.resume, at=0.0, seconds=30)]
    memory = attrs.evolve(memory, faults=faults)
    figures = measure.measure(memory, PLAN, Impatient(io.StringIO(), 0))
    assert figures.interrupted
    assert figures.balanced


# -- one broker after the other --------------------------------------------------------


def test_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    assert run(PLAN, out, err) == OK
    assert "the books balance on memory" in out.getvalue()
    assert "reading back" in err.getvalue()

    lying = changed(target(), lambda stored: stored[1:])
    monkeypatch.setattr(embedded, "memory_target", lambda *_, **__: lying)
    out = io.StringIO()
    assert run(PLAN, out, err) == UNBALANCED
    last = out.getvalue().splitlines()[-1]
    assert last.startswith(
        "THE BOOKS DO NOT BALANCE on memory: memory: 1 acked, but not"
    )


def test_ctrl_c_ends_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "eventbus_sync.demo.run.Progress", lambda stream: Impatient(stream, 0)
    )
    out = io.StringIO()
    plan = attrs.evolve(PLAN, backends=("memory", "memory"))
    assert run(plan, out, io.StringIO()) == INTERRUPTED
    assert out.getvalue().count("memory (no broker)") == 1
    assert "interrupted; the books balance on memory" in out.getvalue()


def test_ctrl_c_before_anything_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> Target:
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "memory_target", interrupt)
    out = io.StringIO()
    assert run(PLAN, out, io.StringIO()) == INTERRUPTED
    assert out.getvalue() == "interrupted; there are no books to balance\n"


def test_several_runs_have_one_verdict() -> None:
    out = io.StringIO()
    plan = attrs.evolve(PLAN, backends=("memory", "memory"))
    assert run(plan, out, io.StringIO()) == OK
    assert out.getvalue().count("\nthe books balance on memory and memory") == 1


def test_a_url_of_memory() -> None:
    out = io.StringIO()
    plan = attrs.evolve(PLAN, backends=("",), url="memory://?max_in_flight=20")
    assert run(plan, out, io.StringIO()) == OK


def test_a_url_without_jetstream() -> None:
    with (
        pytest.raises(ConfigError, match="needs JetStream"),
        own("nats://localhost?jetstream=false", print),
    ):
        pass


def test_what_a_memory_broker_stored_under_another_topic_is_not_ours() -> None:
    memory = target()
    with memory.bus as bus:
        bus.publish_envelope("elsewhere", Envelope("a", "E", 1, {}))
        bus.flush(5)
    assert memory.read_back(1.0) == []


def test_an_illegal_topic_is_an_outcome_like_any_other() -> None:
    memory = target()
    broker_of(memory).reject(IllegalTopic(), times=1)
    assert measured(memory).codes == {"illegal_topic": 1}
