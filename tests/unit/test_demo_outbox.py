"""The outbox demo: its audit finds what is wrong, its report says so, its threads obey."""

import json
import sys

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from support.demo_runs import stored_as

from eventbus_sync import Stats, cli
from eventbus_sync.demo.faults import Fault, Struck
from eventbus_sync.demo.figures import Spread
from eventbus_sync.demo.outbox import figures as outbox_figures
from eventbus_sync.demo.outbox.audit import MEANING, Violation, audit
from eventbus_sync.demo.outbox.evidence import Evidence, Row, rows_of, versions_of
from eventbus_sync.demo.outbox.figures import Figures
from eventbus_sync.demo.outbox.journal import Journal, WriterLog
from eventbus_sync.demo.outbox.orders import (
    ORDERS,
    Orders,
    Writers,
    metadata,
    open_database,
)
from eventbus_sync.demo.outbox.report import table, verdict
from eventbus_sync.demo.plan import Plan
from eventbus_sync.demo.report import Paper
from eventbus_sync.demo.workload import Hold
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import RelayStats
from eventbus_sync.testing.readback import ReadBackFailed


PAPER = Paper()


def relay_stats(**changed: Any) -> RelayStats:
    """Of a relay that has published three rows and was stopped."""
    counted: dict[str, Any] = {
        "state": "stopped",
        "claimed": 3,
        "published": 3,
        "retried": 0,
        "held_back": 0,
        "buried": 0,
        "released": 0,
        "lost": 0,
        "held": 0,
        "in_flight": 0,
        "rate": 0.0,
        "breaker": "closed",
        "last_error": None,
        "last_error_age": None,
    }
    return RelayStats(**(counted | changed))


def journal_of(*committed: Sequence[str], rolled_back: Sequence[str] = ()) -> Journal:
    """What threads noted down."""
    journal = Journal([WriterLog(committed=list(ids)) for ids in committed])
    journal.writers[0].rolled_back = list(rolled_back)
    return journal


def evidence_of(*ids: str, **changed: Any) -> Evidence:
    """A table with *ids*, all of one order, all published and stored in this order."""
    found: dict[str, Any] = {
        "rows": [Row(event_id, "a", "published") for event_id in ids],
        "versions": {"a": len(ids)},
        "relay": relay_stats(published=len(ids)),
        "bus": Stats(accepted=len(ids), acked=len(ids), taken=len(ids)),
        "stored": stored_as(*ids),
        "once": True,
    }
    return Evidence(**(found | changed))


def kinds(journal: Journal, evidence: Evidence) -> dict[str, int]:
    """What is wrong, and how often."""
    return {one.kind: one.count for one in audit(journal, evidence)}


GOOD = journal_of("123", rolled_back=["x"])


# -- the audit ---------------------------------------------------------------------------


def test_a_run_that_kept_every_promise() -> None:
    assert audit(GOOD, evidence_of("1", "2", "3")) == []


def test_a_commit_whose_answer_was_lost_may_be_in_or_not() -> None:
    journal = journal_of("12")
    journal.writers[0].undecided.append("3")
    assert audit(journal, evidence_of("1", "2")) == []
    assert audit(journal, evidence_of("1", "2", "3")) == []


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (evidence_of("1", "2"), {"rowless": 1}),
        (evidence_of("1", "2", "3", "x"), {"rolled_back": 1}),
        (evidence_of("1", "2", "3", versions={"a": 4}), {"halved": 1}),
        (evidence_of("1", "2", "3", versions={"a": 3, "b": 1}), {"halved": 1}),
        (evidence_of("1", "2", "3", stored=stored_as("1", "3")), {"lost": 1}),
        (evidence_of("1", "2", "3", stored=stored_as(*"123x")), {"phantom": 1}),
        (evidence_of("1", "2", "3", stored=stored_as(*"1213")), {"twice": 1}),
        (evidence_of("1", "2", "3", stored=stored_as(*"132")), {"disordered": 1}),
        (evidence_of("1", "2", "3", relay=relay_stats(published=2)), {"miscounted": 1}),
        (evidence_of("1", "2", "3", relay=relay_stats(held=1)), {"miscounted": 1}),
        (evidence_of("1", "2", "3", bus=Stats(accepted=3)), {"miscounted": 2}),
    ],
)
def test_each_broken_promise_is_found(
    evidence: Evidence, expected: dict[str, int]
) -> None:
    assert kinds(GOOD, evidence) == expected


def test_a_row_that_is_still_pending_or_dead() -> None:
    rows = [Row("1", "a", "published"), Row("2", "a", "pending"), Row("3", "a", "dead")]
    evidence = evidence_of(
        "1", "2", "3", rows=rows, relay=relay_stats(published=1), stored=stored_as("1")
    )
    assert kinds(GOOD, evidence) == {"unpublished": 2, "lost": 2}


def test_a_broker_without_memory_may_store_repeats_of_what_came_before() -> None:
    again = evidence_of("1", "2", "3", stored=stored_as(*"12123"), once=False)
    assert kinds(GOOD, again) == {}


def test_an_order_in_two_partitions_has_no_order() -> None:
    stored = [*stored_as("1", "2"), *stored_as("3", partition=1)]
    assert kinds(GOOD, evidence_of("1", "2", "3", stored=stored)) == {"disordered": 1}


def test_every_kind_has_words() -> None:
    for kind in MEANING:
        assert str(Violation(kind, 2000, "an-id")).startswith("2,000 ")


# -- the report --------------------------------------------------------------------------

FAULT = Fault(
    at=0.3,
    seconds=3.0,
    done="killed",
    undone="restarted",
    strike=lambda: None,
    repair=lambda: None,
)

FIGURES = Figures(
    backend="nats",
    title="NATS JetStream (embedded nats-server)",
    events=5000,
    threads=4,
    committed=5000,
    rolled_back=500,
    rows={"published": 5000},
    relay=relay_stats(published=5000),
    bus=Stats(accepted=5000, acked=5000, taken=5000),
    reconnects=1,
    oldest=3.1,
    most=3079,
    seconds=6.25,
    commit=Spread(494e-6, 0.0524),
    stored=5000,
    struck=(Struck(FAULT, 3.05, 1, 200),),
)

TABLE = """\
the outbox on SQLite, and NATS JetStream (embedded nats-server): 5,000 events
from 4 threads
  committed               5,000   orders changed, each with its event
  rolled back               500   transactions after their event was added
  commit p50             494 µs
  commit p99            52.4 ms
  rows pending                0   at most 3,079, the oldest for 3.10 s
  rows published          5,000
  rows dead                   0
  accepted                5,000   by the relay's bus
  acked                   5,000
  rejected                    0
  unknown                     0
  events/s                  800   6.25 s from first commit to last row published
  stored                  5,000   read back: each once, in order
  faults                      1   killed for 3.0 s and restarted, with 1 to 200
                                  events in flight; 1 reconnect"""


def test_the_table() -> None:
    assert table(FIGURES, PAPER) == TABLE


def test_repeats_are_said() -> None:
    shown = table(attrs.evolve(FIGURES, stored=5003), PAPER)
    assert "in order, 3 of them" in shown


def test_the_verdict() -> None:
    said = verdict([FIGURES], PAPER)
    assert said.startswith("the outbox kept its word on nats: every committed event")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"violations": [Violation("lost", 2, "e")]}, "2 committed, but not stored"),
        ({"failures": ["thread demo-writer-0: full"]}, "thread demo-writer-0: full"),
        ({"stored": None}, "could not be read back"),
    ],
)
def test_a_verdict_that_is_no(changed: dict[str, Any], reason: str) -> None:
    figures = attrs.evolve(FIGURES, **changed)
    said = verdict([FIGURES, figures], PAPER, interrupted=True)
    assert said.startswith("interrupted; THE OUTBOX BROKE ITS WORD on nats: ")
    assert reason in said
    assert "see below" in table(figures, PAPER) or figures.stored is None


def test_no_run_is_no_success() -> None:
    assert "nothing to check" in verdict([], PAPER)
    assert outbox_figures.as_json([])["balanced"] is False


def test_json_is_plain() -> None:
    figures = attrs.evolve(FIGURES, relay=relay_stats(last_error=ValueError("oh")))
    data = json.loads(json.dumps(outbox_figures.as_json([figures])))
    (run,) = data["runs"]
    assert (data["balanced"], run["rows"]) == (True, {"published": 5000})
    assert (run["relay"]["last_error"], run["faults"][0]["done"]) == ("oh", "killed")
    assert run["events_per_second"] == 800


# -- the threads -------------------------------------------------------------------------


@pytest.fixture
def outbox(tmp_path: Path) -> Any:
    engine = open_database(tmp_path / "shop.db")
    metadata.create_all(engine)
    outbox = SqlAlchemyOutbox(engine)
    outbox.create_all()
    yield outbox
    engine.dispose()


def test_the_writers_commit_what_was_asked_for(outbox: SqlAlchemyOutbox) -> None:
    hold = Hold(0.5)
    hold.opened.set()
    shop = Orders(outbox.engine, outbox, "orders")
    writers = Writers(shop, events=2 * ORDERS + 7, threads=2, holds=[hold])
    writers.start()
    writers._threads[0].join(30)
    writers._threads[1].join(30)
    writers.stop(1)
    journal = writers.journal
    assert (journal.failures, journal.committed) == ([], 2 * ORDERS + 7)
    assert journal.rolled_back == 10
    committed = {e for log in journal.writers for e in log.committed}
    assert {row.event_id for row in rows_of(outbox)} == committed
    assert sum(versions_of(outbox.engine).values()) == len(committed)


def test_writers_that_are_stopped_leave_no_transaction(
    outbox: SqlAlchemyOutbox,
) -> None:
    shop = Orders(outbox.engine, outbox, "orders")
    writers = Writers(shop, events=1000, threads=2, holds=[Hold(0.01)])
    writers.start()
    writers.stop(30)
    assert not writers.writing
    assert writers.journal.failures == []
    assert len(rows_of(outbox)) == writers.journal.committed <= 10


def test_a_thread_that_fails_says_why(outbox: SqlAlchemyOutbox) -> None:
    outbox.table.drop(outbox.engine)
    shop = Orders(outbox.engine, outbox, "orders")
    writers = Writers(shop, events=10, threads=1)
    writers.start()
    writers.stop(30)
    (failure,) = writers.journal.failures
    assert failure.startswith("thread demo-writer-0: ")
    assert versions_of(outbox.engine) == {}


# -- the command -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        ([], Plan(backends=("nats",), events=5000, outbox=True)),
        (["--backend", "both"], Plan(events=5000, outbox=True)),
        (["--events", "7"], Plan(backends=("nats",), events=7, outbox=True)),
        (["--url", "nats://h"], Plan(backends=("",), url="nats://h", events=5000)),
    ],
)
def test_arguments(
    arguments: list[str], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    def note(plan: Plan, *_: Any, **__: Any) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr("eventbus_sync.demo.run.run", note)
    assert cli.main(["demo", "--outbox", *arguments]) == 0
    assert plans == [attrs.evolve(plan, outbox=True)]


def test_without_sqlalchemy_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    assert cli.main(["demo", "--outbox", "--backend", "memory"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install 'eventbus-sync[demo]'" in err
    assert "starting" not in err


def test_a_run_in_which_nothing_goes_on_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relay that publishes nothing: the demo says so instead of waiting for ever."""
    monkeypatch.setattr("eventbus_sync.demo.outbox.measure.GRACE", -32.0)
    monkeypatch.setattr("eventbus_sync.outbox.OutboxRelay.start", lambda _: None)
    arguments = ["demo", "--outbox", "--backend", "memory", "--events", "20"]
    assert cli.main(arguments) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert "20 rows that were not published" in last
    assert "nothing went on for 1 s" in last
    assert "rows were still pending after 1 s" in last


@pytest.mark.parametrize("broken", [False, True])
def test_a_small_run_in_memory(
    broken: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("eventbus_sync.demo.outbox.measure.OUTAGE_SECONDS", 0.3)
    if broken:
        monkeypatch.setattr("eventbus_sync.demo.embedded._kept", lambda _: [])
    arguments = ["demo", "--outbox", "--backend", "memory", "--events", "120"]
    assert cli.main(arguments) == int(broken)
    out, err = capsys.readouterr()
    last = out.splitlines()[-1]
    if broken:
        assert "120 committed, but not stored by the broker" in last
    else:
        assert last.startswith("the outbox kept its word on memory: ")
        assert "frozen for 0.3 s and resumed" in " ".join(out.split())
    assert "committed" in err
    assert "\x1b" not in out + err


SMALL = ["demo", "--outbox", "--backend", "memory", "--events", "60", "--json"]


def test_ctrl_c_ends_the_writing_and_not_the_books(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "eventbus_sync.demo.outbox.watch.Watch.until_written", interrupted
    )
    assert cli.main(SMALL) == 130
    data = json.loads(capsys.readouterr().out)
    assert (data["interrupted"], data["balanced"]) == (True, True)


def test_a_second_ctrl_c_ends_it_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No relay, no bus and no file is left behind; other tests would notice."""

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    for name in ("until_written", "until_published"):
        monkeypatch.setattr(
            f"eventbus_sync.demo.outbox.watch.Watch.{name}", interrupted
        )
    assert cli.main(SMALL) == 130
    assert json.loads(capsys.readouterr().out)["runs"] == []


def test_a_stream_that_cannot_be_read_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        msg = "no answer"
        raise ReadBackFailed(msg)

    monkeypatch.setattr("eventbus_sync.demo.outbox.measure.OUTAGE_SECONDS", 0.1)
    monkeypatch.setattr("eventbus_sync.demo.embedded._kept", fail)
    assert cli.main(SMALL) == 1
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["stored"], run["failures"]) == (None, ["no answer"])
