"""Where a relay looks: a long backlog that cannot be claimed holds up nothing new."""

import math

from functools import partial
from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.outbox_rows import an_event, buried, take, write
from support.patience import SLACK
from support.relays import Make

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay, scanning
from eventbus_sync.outbox.record import Claim
from eventbus_sync.outbox.scanning import FEW_CLAIMS, LAG, NEAR, TURN, Scan
from eventbus_sync.testing import MemoryBus


pytest_plugins = ["support.databases"]

#: Rows that one claim looks at, and seconds that it takes as a rule.
WINDOW = 20
COST = 0.01


@attrs.define
class Table:
    """
    A table as a scan sees it: positions, on a clock of its own.

    Attributes:
        held: rows that cannot be claimed.
        free: rows that can.
        hidden: those of them that an older transaction hides.
        due: rows that wait, and until when.
    """

    held: set[int]
    free: set[int] = attrs.field(factory=set)
    hidden: set[int] = attrs.field(factory=set)
    due: dict[int, float] = attrs.field(factory=dict)
    now: float = 1000.0
    cost: float = COST
    claims: int = 0
    #: When each row was taken.
    taken: dict[int, float] = attrs.field(factory=dict)

    def claim(self, scan_from: int) -> Claim:
        self.now += self.cost
        self.claims += 1
        rows = sorted(self.held | self.free | self.hidden | set(self.due))
        window = [row for row in rows if row > scan_from][:WINDOW]
        waits = [at - self.now for row in window if (at := self.due.get(row, 0.0))]
        ready = {row for row in window if self.due.get(row, math.inf) <= self.now}
        got = ready | (self.free & set(window))
        for row in got:
            self.taken[row] = self.now
            self.due.pop(row, None)
        self.free -= got
        shown = [row for row in window if row < min(self.hidden, default=math.inf)]
        records: Any = tuple(sorted(got))  # no more is asked of them
        return Claim(
            records,
            scanned_to=window[-1] if len(window) == WINDOW else 0,
            hidden=bool(self.hidden & set(window)),
            next_due=min((left for left in waits if left > 0), default=None),
            seen_to=max(shown, default=0),
        )


@attrs.define
class Relay:
    """Looks when it is told, or when a round is due."""

    table: Table
    scan: Scan

    def step(self, resume: int | None = None) -> Claim:
        begin = self.scan.begin(self.table.now, resume, held=False)
        claim = self.table.claim(begin)
        self.scan.note(claim, self.table.now)
        return claim

    def wake(self, resume: int | None = None) -> int:
        """Look until it may rest; return how many claims that took."""
        before = self.table.claims
        self.step(resume)
        while self.scan.in_midst:
            self.step()
        return self.table.claims - before

    def run(self, seconds: float) -> int:
        """Let time pass, and look once a second, and when a round is due."""
        before, until = self.table.claims, self.table.now + seconds
        while self.table.now < until:
            self.wake()
            left = 1.0
            if self.scan.tail is not None:
                left = min(left, max(0.001, self.scan.round_in(self.table.now)))
            self.table.now += left
        return self.table.claims - before


ROUND = 201


def a_long_backlog(cost: float = COST) -> Relay:
    """Four thousand rows behind a dead one, and a relay that knows them."""
    table = Table(held=set(range(1, 20_001, 5)), cost=cost)
    relay = Relay(table, Scan(table.now, 1.0))
    assert relay.wake() == ROUND
    assert relay.scan.tail is None
    table.now += LAG
    assert relay.wake() == ROUND
    assert relay.scan.tail == max(table.held)
    return relay


def test_new_rows_of_others_are_taken_at_the_tail() -> None:
    relay = a_long_backlog()
    table = relay.table
    # Nothing keeps it from resting for nineteen times what a round took.
    table.now += 0.1
    for new in range(100_000, 100_020):
        table.free.add(new)
        at = table.now
        assert relay.wake() == 1
        assert table.taken[new] - at <= COST + 1e-6
    # More of the dead one's aggregate are passed once, and then left behind too.
    table.held.update(range(200_000, 200_200))
    assert relay.wake() == 11
    for _ in range(2):
        table.now += LAG
        relay.scan._next_round_at = math.inf  # of which this is not about
        assert relay.wake() == 11
    assert relay.wake() == 1


def test_rounds_are_for_a_twentieth_of_the_time() -> None:
    relay = a_long_backlog(cost=0.001)
    rounds = relay.scan.rounds
    claims = relay.run(300.0)
    # One claim a second is for the tail.
    assert (claims - 300) * 0.001 <= 300 / 19
    assert relay.scan.rounds - rounds > 20
    # And if they take long, one is made every half a minute all the same.
    relay.table.cost = 0.1
    rounds = relay.scan.rounds
    relay.run(600.0)
    assert relay.scan.rounds - rounds > 5


def test_while_a_round_is_made_new_rows_are_taken_in_turns() -> None:
    relay = a_long_backlog()
    table = relay.table
    table.now += 31
    for _ in range(3):
        relay.step()
    assert relay.scan.at
    table.free.add(100_000)
    for _ in range(int(TURN / COST) + 1):
        relay.step()
    assert table.taken.keys() == {100_000}
    assert relay.scan.at


@pytest.mark.parametrize("what", ["requeued", "lease ended", "committed late"])
def test_what_nobody_tells_is_found_within_the_bound(what: str) -> None:
    relay = a_long_backlog()
    table = relay.table
    # "committed late", after longer than the lag: behind the tail, where nothing was.
    place = {"requeued": 1, "lease ended": 10_000, "committed late": 19_990}[what]
    table.held.discard(place)
    relay.run(LAG)
    table.free.add(place)
    relay.run(40.0)
    assert table.taken[place] <= table.now
    assert place in table.taken


def test_what_was_committed_late_is_found_by_the_next_look() -> None:
    """By a transaction that was open when the tail was looked at."""
    relay = a_long_backlog()
    table = relay.table
    table.held.update({100_000, 100_002})
    assert relay.wake() == 1
    table.now += LAG + 1
    table.free.add(100_001)
    assert relay.wake() == 1
    assert 100_001 in table.taken
    assert relay.scan.tail == 100_002


def test_the_tail_stays_before_hidden_rows() -> None:
    relay = a_long_backlog()
    table = relay.table
    table.held.update({100_000, 100_002})
    relay.wake()
    table.hidden.add(100_001)
    for _ in range(4):
        table.now += LAG + 1
        relay.wake()
        assert relay.scan.tail == 100_000
        assert relay.scan.round.hides
    table.hidden.clear()
    table.free.add(100_001)
    relay.wake()
    assert 100_001 in table.taken
    assert not relay.scan.round.hides


def test_hidden_rows_alone_make_no_tail() -> None:
    table = Table(held=set(), hidden=set(range(1, 1001)))
    relay = Relay(table, Scan(table.now, 1.0))
    for _ in range(3):
        relay.wake()
        table.now += LAG
    assert relay.scan.tail is None


def test_what_is_due_is_looked_for_when_it_is() -> None:
    relay = a_long_backlog()
    table = relay.table
    relay.run(40)
    table.held.discard(500)
    table.due[500] = table.now + 40.0
    relay.run(39)  # a round has seen it
    due = table.due[500]
    relay.run(10)
    assert due <= table.taken[500] <= due + 2 * ROUND * COST + 0.1


@pytest.mark.parametrize("waits", [False, True])
def test_rows_that_were_given_back_are_found_at_once(*, waits: bool) -> None:
    relay = a_long_backlog()
    table = relay.table
    near, far = max(table.held) - NEAR + 1, 50
    table.held -= {near, far, far + 1}
    table.free.add(near)
    relay.wake(resume=near - 1)
    assert near in table.taken
    table.now += LAG
    relay.wake()
    table.now += LAG
    relay.wake()
    assert relay.scan.tail == max(table.held)
    table.free.update({far, far + 1})
    if waits:  # two aggregates, one after the other
        relay.scan._kind = "back"
        relay.step(resume=far)
        relay.step(resume=far - 1)
    else:
        relay.step(resume=far - 1)
    assert far in table.taken
    # And a round is made for whatever else can be claimed now, as soon as it may.
    table.free.add(5000)
    table.held.discard(5000)
    table.now += ROUND * COST
    relay.wake()
    relay.run(10)
    assert 5000 in table.taken


def test_a_short_table_has_no_tail() -> None:
    relay = a_long_backlog()
    table = relay.table
    table.held = set(range(1, WINDOW * (FEW_CLAIMS - 1)))
    relay.scan.want_round()
    table.now += 10
    relay.wake()
    relay.wake()
    assert relay.scan.tail is None
    before = relay.scan.rounds
    relay.wake()
    assert relay.scan.rounds == before + 1


def test_a_round_that_is_wanted_is_made_until_one_is_quiet() -> None:
    relay = a_long_backlog()
    table = relay.table
    wanted = relay.scan.want_round()
    table.now += 0.5
    table.free.add(100_000)
    relay.wake()
    table.free.add(100_001)
    relay.run(20.0)
    assert relay.scan.quiet_round >= wanted


def test_a_round_that_could_not_begin_is_begun_again() -> None:
    relay = a_long_backlog()
    relay.table.now += 31
    kinds = []
    for _ in range(4):
        kinds.append(relay.scan.begin(relay.table.now, None, held=False) == 0)
        relay.scan.failed()
    assert kinds == [False, True, True, True]  # the tail, and what was due


def has_published(relay: OutboxRelay, count: int) -> bool:
    return relay.stats().published == count


def test_a_relay_behind_a_dead_head(
    sqlite_outbox: SqlAlchemyOutbox,
    bus: MemoryBus,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real table: the backlog is left alone, and what is discarded sets it free."""
    monkeypatch.setattr(scanning, "LAG", 0.05)
    monkeypatch.setattr(scanning, "LONGEST_REST", 0.5)
    with sqlite_outbox.engine.begin() as connection:
        many = [an_event("hot") for _ in range(1000)]
        sqlite_outbox.add_many(connection, "t", many)
    (head,) = take(sqlite_outbox, limit=1).records
    sqlite_outbox.mark([buried(head)])
    looks: list[int] = []
    claim = sqlite_outbox.claim

    def watched(lease: str, **wish: Any) -> Claim:
        looks.append(wish["scan_from"])
        return claim(lease, **wish)

    monkeypatch.setattr(sqlite_outbox, "claim", watched)
    relay = make(store=sqlite_outbox, batch_size=50, poll_interval=0.05)
    relay.start()
    eventually(lambda: 1000 in looks, SLACK)
    for number in range(5):
        write(sqlite_outbox, f"other-{number}")
        eventually(partial(has_published, relay, number + 1), SLACK)
    sqlite_outbox.discard([head.event_id])
    eventually(partial(has_published, relay, 1004), SLACK)
    order = [m.event_id for m in bus.broker.messages("t") if m.key == "hot"]
    assert order == [event.event_id for event in many[1:]]
