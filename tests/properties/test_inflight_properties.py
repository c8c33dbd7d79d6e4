"""The in-flight table against a model: accepted once, settled once, books balance."""

import pytest

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from eventbus_sync import _inflight
from eventbus_sync._event import InFlightEvent, Waiter
from eventbus_sync._inflight import InFlight
from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Ack
from eventbus_sync.errors import (
    BackendBusy,
    BrokerFull,
    BusClosed,
    ChannelFull,
    DeliveryTimedOut,
    PublishError,
)
from eventbus_sync.results import Outcome, PublishResult, PublishResultChannel


SAID = st.sampled_from([Ack(0, 1), BrokerFull(), DeliveryTimedOut()])
NOW = Deadline(0.0)


class Clock:
    """A monotonic clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class InFlightMachine(RuleBasedStateMachine):
    """Everything that can happen to events, in any order and with repeats."""

    events = Bundle("events")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_inflight, "time", self.clock)
        self.open: dict[int, InFlightEvent] = {}
        self.outcomes: dict[int, list[Outcome]] = {}
        self.results: list[PublishResult] = []
        self.accepted = self.returned = self.late_forgotten = 0
        self.closed = False
        # The model knows events by id(): none may be freed and its id given again.
        self.kept: list[InFlightEvent] = []

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(
        capacity=st.integers(1, 6),
        max_events=st.integers(1, 6),
        max_bytes=st.integers(1, 30),
        reserve=st.booleans(),
    )
    def make(
        self, capacity: int, max_events: int, max_bytes: int, *, reserve: bool
    ) -> None:
        """Start empty, with some limits."""
        self.channel = PublishResultChannel(capacity)
        self.limits = (max_events, max_bytes)
        self.reserve = reserve
        self.table = InFlight(
            self.channel,
            max_events=max_events,
            max_bytes=max_bytes,
            delivery_timeout=30.0,
            reserve=reserve,
            on_results=lambda results, _: self.results.extend(results),
        )

    @rule(target=events, size=st.integers(1, 12), sync=st.booleans())
    def register(self, size: int, *, sync: bool) -> InFlightEvent:
        """Accepted exactly if there is room and the table is open."""
        waiter = Waiter() if sync else None
        event = InFlightEvent("t", "same id for all", "a", "E", 0, size, waiter)
        self.kept.append(event)
        max_events, max_bytes = self.limits
        used = sum(e.size for e in self.open.values())
        queued = self.channel.qsize()
        full = len(self.open) >= max_events or (
            bool(self.open) and used + size > max_bytes
        )
        no_place = self.reserve and len(self.open) + queued >= self.channel.maxsize
        if self.closed:
            with pytest.raises(BusClosed):
                self.table.register(event, NOW)
        elif full:
            with pytest.raises(BackendBusy):
                self.table.register(event, NOW)
        elif no_place:
            with pytest.raises(ChannelFull):
                self.table.register(event, NOW)
        else:
            self.table.register(event, NOW)
            self.accepted += 1
            self.open[id(event)] = event
        return event

    @rule(chunk=st.lists(st.tuples(events, SAID), max_size=5))
    def settle(self, chunk: list[tuple[InFlightEvent, Ack | PublishError]]) -> None:
        """The first outcome of an event in flight counts, all others are ignored."""
        self.table.settle(chunk)
        for event, said in chunk:
            self.note(event, said)

    @rule(event=consumes(events))
    def withdraw(self, event: InFlightEvent) -> None:
        """A withdrawn event was never accepted; a settled one stays accepted."""
        was_open = id(event) in self.open
        assert self.table.withdraw(event) is was_open
        if was_open:
            del self.open[id(event)]
            self.accepted -= 1

    @rule(event=events)
    def forget_waiter(self, event: InFlightEvent) -> None:
        """An interrupted waiter leaves the outcome to the channel."""
        waiter = event.waiter
        if waiter is None:
            return
        was_returned = waiter.result is not None
        self.table.forget_waiter(waiter)
        assert waiter.result is None
        if was_returned:
            # Its place in the channel may be taken since it was settled.
            self.returned -= 1
            self.late_forgotten += 1

    @rule(seconds=st.sampled_from([0.1, 10.0, 31.4, 31.6]))
    def time_passes(self, seconds: float) -> None:
        """What is older than the timeout and the grace ends as unknown."""
        self.clock.now += seconds
        self.table.expire()
        for event in list(self.open.values()):
            if self.clock.now - event.accepted_at >= 31.5:
                self.note(event, DeliveryTimedOut())

    @rule(count=st.integers(1, 4))
    def read(self, count: int) -> None:
        """A reader takes results."""
        self.channel.get_many(count, timeout=0)

    @rule()
    def flush(self) -> None:
        """Flush without time returns what is in flight."""
        assert self.table.wait_settled(NOW) == len(self.open)

    @rule()
    def close(self) -> None:
        """Close refuses what is new."""
        self.table.close()
        self.closed = True

    @rule()
    def abandon(self) -> None:
        """Abandon settles everything as unknown and says how many that were."""
        assert self.table.abandon() == len(self.open)
        for event in list(self.open.values()):
            self.note(event, DeliveryTimedOut())

    def note(self, event: InFlightEvent, said: Ack | PublishError) -> None:
        """Mirror one outcome in the model."""
        if self.open.pop(id(event), None) is None:
            return
        outcome = Outcome.ACKED
        if isinstance(said, PublishError):
            outcome = Outcome.UNKNOWN if said.maybe_delivered else Outcome.REJECTED
        self.outcomes.setdefault(id(event), []).append(outcome)
        if event.waiter is not None and not event.waiter.gone:
            self.returned += 1
            assert not event.waiter.done.locked()
            assert event.waiter.result is not None
            assert event.waiter.result.outcome is outcome

    @invariant()
    def books_balance(self) -> None:
        """Both equations of promise 2 hold, and the numbers are the model's."""
        if not hasattr(self, "table"):
            return
        counts = self.table.counts()
        ended = [o for outcomes in self.outcomes.values() for o in outcomes]
        assert counts.accepted == self.accepted == len(ended) + len(self.open)
        assert counts.in_flight == len(self.open)
        assert counts.in_flight_bytes == sum(e.size for e in self.open.values())
        assert counts.acked == ended.count(Outcome.ACKED)
        assert counts.rejected == ended.count(Outcome.REJECTED)
        assert counts.unknown == ended.count(Outcome.UNKNOWN)
        assert counts.returned == self.returned
        assert len(ended) == (
            counts.queued + counts.taken + counts.dropped + counts.returned
        )
        assert len(self.results) == len(ended)
        if self.reserve:
            assert counts.dropped <= self.late_forgotten
            assert counts.in_flight + counts.queued <= (
                self.channel.maxsize + self.late_forgotten
            )

    @invariant()
    def each_event_ended_once(self) -> None:
        """No event has two outcomes, though all carry the same event id."""
        assert all(len(outcomes) == 1 for outcomes in self.outcomes.values())


TestInFlight = InFlightMachine.TestCase
