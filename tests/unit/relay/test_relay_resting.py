"""When the claim thread looks, purges and rests: on a clock of the test's own."""

from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.patience import SLACK
from support.relay_store import MemoryStore

from eventbus_sync import Envelope
from eventbus_sync._threads import Deadline
from eventbus_sync.errors import BrokerFull
from eventbus_sync.outbox import OutboxRelay, RetryPolicy
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.claiming import Claimer
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.lines import Counts
from eventbus_sync.outbox.publishing import Publisher
from eventbus_sync.outbox.record import Claim, OutboxRecord, RowState
from eventbus_sync.outbox.settings import Settings
from eventbus_sync.outbox.topics import Topics
from eventbus_sync.outbox.trouble import Trouble
from eventbus_sync.testing import MemoryBus


class Scripted(MemoryStore):
    """Answers claims as told; every call takes its time on the clock."""

    def __init__(self, *, notifies: bool) -> None:
        super().__init__(notifies=notifies)
        self.now = 1000.0
        self.answers: list[Claim] = []
        self.claim_takes = 0.0
        self.purge_takes = 0.0
        self.purgeable = 0
        self.purged_at: list[float] = []
        #: How long the relay wanted to wait.
        self.waits: list[float] = []

    def claim(self, *_: Any, **__: Any) -> Claim:
        self.now += self.claim_takes
        return self.answers.pop(0)

    def purge(self, *, older_than: float, limit: int) -> int:  # noqa: ARG002
        self.purged_at.append(self.now)
        self.now += self.purge_takes
        done = min(limit, self.purgeable)
        self.purgeable -= done
        return done

    def wait(self, deadline: Deadline) -> bool:
        self.waits.append(deadline.remaining())
        return self.notifies


@attrs.frozen
class Rig:
    store: Scripted
    held: HeldRows
    claimer: Claimer


def rig(bus: MemoryBus, store: Scripted, **settings: Any) -> Rig:
    chosen: dict[str, Any] = {
        "name": "eventbus-relay",
        "retry": RetryPolicy(),
        "batch_size": 10,
        "lease": 6.0,
        "ordering": "aggregate",
        "on_dead": "hold",
        "poll_interval": 1.0,
        "purge_after": None,
        "purge_batch": 10,
        "delivery_timeout": 1.0,
        **settings,
    }
    trouble = Trouble("eventbus-relay")
    held = HeldRows("aggregate", "hold", 4.0, Counts())
    breaker = Breaker()
    publisher = Publisher(bus, held, breaker, RetryPolicy(), trouble, Topics(5.0, 99))
    claimer = Claimer(
        *(store, bus, held, breaker, publisher, trouble, Settings(**chosen)),
        ended=lambda: False,
        clock=lambda: store.now,
    )
    return Rig(store, held, claimer)


def record(position: int) -> OutboxRecord:
    return OutboxRecord(
        position=position,
        event_id=f"e{position}",
        topic="t",
        aggregate_id=f"a{position}",
        event_type="E",
        event_version=1,
        timestamp="2026-01-01T00:00:00Z",
        trace_id="",
        correlation_id="",
        tenant_id=0,
        payload=b"1",
        headers={},
        attempts=0,
        failing_for=0.0,
        lease="lease",
    )


# -- an idle relay ---------------------------------------------------------------------


@pytest.mark.parametrize("notifies", [True, False])
@pytest.mark.parametrize("poll_interval", [1.0, 30.0])
def test_an_idle_relay_asks_the_database_once_in_a_poll_interval(
    bus: MemoryBus,
    monkeypatch: pytest.MonkeyPatch,
    poll_interval: float,
    *,
    notifies: bool,
) -> None:
    """Counted, and not by the clock: ten minutes in which nothing is to be done."""
    store = Scripted(notifies=notifies)
    this = rig(bus, store, poll_interval=poll_interval, purge_after=60.0)
    looks = []

    def claim(*_: Any, **__: Any) -> Claim:
        looks.append(store.now)
        return Claim(())

    def sleep(_: Any, deadline: Deadline) -> bool:
        store.now += deadline.remaining()
        return False

    def listen(deadline: Deadline) -> bool:
        if notifies:
            sleep(None, deadline)
        return notifies

    monkeypatch.setattr(store, "claim", claim)
    monkeypatch.setattr(store, "wait", listen)
    monkeypatch.setattr(this.held, "wait", sleep)
    began = store.now
    while store.now < began + 600:
        this.claimer.step()
    # The pause of a poll grows from 20 ms to its longest.
    growing = 0 if notifies else 12
    assert 600 / poll_interval - 2 <= len(looks) <= 600 / poll_interval + growing + 12
    assert len(store.purged_at) in {10, 11}
    # Neither renewals nor anything else.
    assert store.calls == []


# -- nothing is overslept --------------------------------------------------------------


def test_what_was_let_go_of_before_the_rest_is_looked_at_at_once(
    bus: MemoryBus,
) -> None:
    """An aggregate that the claim left out was settled before the relay lay down."""
    store = Scripted(notifies=True)
    this = rig(bus, store, poll_interval=600.0)
    closes = [True, False]

    def claim(*_: Any, **__: Any) -> Claim:
        this.held.closed += closes.pop(0)
        return Claim(())

    store.claim = claim  # type: ignore[method-assign]
    this.claimer.step()
    assert store.waits == []
    this.claimer.step()
    assert store.waits == [pytest.approx(600.0, abs=60)]


def test_a_quick_refusal_is_tried_again_when_it_is_due(bus: MemoryBus) -> None:
    """Also if it came before the rest, so that the claim did not see it wait."""
    store = MemoryStore(notifies=True)
    bus.broker.reject(BrokerFull(), times=3)
    relay = OutboxRelay(
        store,
        bus,
        name="eventbus-relay",
        lease=6.0,
        poll_interval=600.0,
        retry=RetryPolicy(backoff=0.02, max_backoff=0.05),
    )
    relay.start()
    try:
        store.add("t", Envelope("a", "E", 1, {}, event_id="a-0"))
        eventually(lambda: store.state("a-0") is RowState.PUBLISHED, SLACK)
    finally:
        assert relay.stop(5)


def test_what_is_due_first_anywhere_in_the_table_ends_the_rest(bus: MemoryBus) -> None:
    store = Scripted(notifies=True)
    this = rig(bus, store, poll_interval=600.0)
    store.answers = [
        Claim((), scanned_to=100, next_due=7.0),
        Claim((), scanned_to=200, next_due=90.0),
        Claim(()),
    ]
    for _ in range(3):
        this.claimer.step()
    assert store.waits == [pytest.approx(7.0, abs=0.5)]
    store.answers = [Claim(())]  # the next round knows nothing of it
    this.claimer.step()
    assert store.waits[1] == pytest.approx(600.0, abs=60)


# -- a long backlog that cannot be claimed ---------------------------------------------


@pytest.mark.parametrize(
    ("takes", "due", "rests"),
    [
        (0.01, None, 1.0),  # a short look: as often as it was told
        (2.0, None, 10.0),
        (60.0, None, 30.0),
        (2.0, 0.1, 2.0),  # what is due does not keep it busy all the time
        (2.0, 5.0, 5.0),
    ],
)
def test_the_rest_is_as_long_as_the_look_deserves(
    bus: MemoryBus, takes: float, due: float | None, rests: float
) -> None:
    store = Scripted(notifies=True)
    this = rig(bus, store)
    store.claim_takes = takes
    store.answers = [Claim((), next_due=due)]
    this.claimer.step()
    assert store.waits == [pytest.approx(rests, abs=0.5)]


def test_after_a_look_that_found_rows_nobody_rests_for_long(bus: MemoryBus) -> None:
    store = Scripted(notifies=True)
    this = rig(bus, store)
    store.claim_takes = 20.0
    this.claimer._scan.round.found = True
    this.claimer._scan.at = 100  # in the midst of a look
    store.answers = [Claim(())]
    this.claimer.step()
    assert store.waits == [pytest.approx(1.0, abs=0.5)]


def test_where_nothing_wakes_the_poll_rests_as_long_and_a_nudge_ends_it(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Scripted(notifies=False)
    this = rig(bus, store)
    store.claim_takes = 2.0
    store.answers = [Claim(())]
    rests: list[float] = []
    looks: list[bool] = []

    def wait(check: Any, deadline: Deadline) -> bool:
        rests.append(deadline.remaining())
        looks.append(check())
        this.claimer.nudge()
        looks.append(check())
        return True

    monkeypatch.setattr(this.held, "wait", wait)
    this.claimer.step()
    assert rests == [pytest.approx(10.0, abs=0.5)]
    assert looks == [False, True]


# -- purge -----------------------------------------------------------------------------


def test_purging_takes_a_sixth_of_the_time(bus: MemoryBus) -> None:
    store = Scripted(notifies=True)
    this = rig(bus, store, purge_after=1.0, poll_interval=600.0)
    store.purgeable, store.purge_takes = 25, 2.0
    store.answers = [Claim(()) for _ in range(5)]
    this.claimer.step()
    # Its rest ends in time for the next batch.
    assert store.waits == [pytest.approx(10.0, abs=0.5)]
    store.now += 9.9
    this.claimer.step()
    assert store.purged_at == [1000.0]
    store.now += 0.2
    this.claimer.step()
    store.now += 10.1
    this.claimer.step()
    assert len(store.purged_at) == 3
    store.now += 57.0  # little is left: seldom
    this.claimer.step()
    assert len(store.purged_at) == 3


# -- rows that nobody may see yet ------------------------------------------------------


def test_old_rows_that_are_tried_again_do_not_hush_up_what_hides_the_new(
    bus: MemoryBus,
) -> None:
    store = Scripted(notifies=False)
    claimer = rig(bus, store).claimer
    said: list[str] = []

    class Noted:
        def gone(self) -> None:
            said.append("gone")

        def seen(self) -> None:
            said.append("seen")

    claimer._hidden = Noted()  # type: ignore[assignment]

    def looks(*claims: Claim) -> list[str]:
        said.clear()
        for claim in claims:
            claimer._scan.begin(0.0, None, held=False)
            claimer._scan.note(claim, 0.0)
            claimer._look_for_hidden(claim)
        return list(said)

    old, new = record(3), record(9)
    assert looks(Claim((old,), hidden=True)) == ["gone", "seen"]  # it had seen nothing
    assert looks(Claim((old,), hidden=True)) == ["seen"]
    # Hidden in one part of the table, and old rows found in another.
    assert looks(Claim((), 5, hidden=True), Claim((old,))) == ["seen"]
    assert looks(Claim((old,))) == ["gone"]
    assert looks(Claim((new,), hidden=True)) == ["gone", "seen"]  # rows flow
