"""The benchmarks run, and their books balance; nobody looks at the times here."""

import json
import subprocess
import sys

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import counters, flask_load, plot, targets, throughput
from benchmarks.__main__ import PARTS
from benchmarks.books import books_of
from benchmarks.figures import Measured, ratio
from benchmarks.tally import Tally
from eventbus_sync.outbox import OutboxStats
from eventbus_sync.testing import NatsServer
from eventbus_sync.testing.readback import StoredEvent


ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_option_that_is_not_there_is_refused_by_its_own_command() -> None:
    done = run("latency", "--quik")
    assert done.returncode == 2
    assert "usage: python -m benchmarks latency" in done.stderr
    assert done.stderr.endswith("--quik; did you mean --quick?\n")
    assert run("latenc").stderr.endswith("; did you mean latency?\n")


@pytest.mark.slow
@pytest.mark.nats
def test_the_outbox_benchmark_prints_a_table_and_balanced_books(
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    file = tmp_path / "figures.json"
    quick = ("--quick", "--db", "sqlite", "--bus", "nats", "--rows", "300")
    done = run("outbox", *quick, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 written = 300 published, 300 stored" in done.stdout
    figures: dict[str, Any] = json.loads(file.read_text())
    assert figures["balanced"] is True
    measured = {one["what"]: one for one in figures["measured"]}
    assert measured["1 relay"]["median"] > measured["naive relay"]["median"] > 0
    # A count, not a time: statements do not grow with the rows of a batch.
    assert measured["1 relay"]["details"]["statements/row"] < 0.2


def complete(file: Path) -> dict[str, Any]:
    """Return the figures of a run, every one of which has to be whole."""
    figures: dict[str, Any] = json.loads(file.read_text())
    assert figures["balanced"] is True
    assert figures["machine"]["python"]
    assert figures["measured"]
    for one in figures["measured"]:
        assert one["runs"], one["what"]
        assert one["lowest"] <= one["median"] <= one["highest"]
        assert all(run["books"] and run["balanced"] for run in one["runs"])
    return {one["what"].partition(";")[0]: one for one in figures["measured"]}


@pytest.mark.slow
@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.parametrize("part", [part.name for part in PARTS])
def test_each_part_measures_and_its_books_balance(part: str, tmp_path: Path) -> None:
    file, drawing = tmp_path / "figures.json", tmp_path / "figures.svg"
    tiny = ["--quick", "--events", "400", "--repeat", "1"]
    if part not in {"import", "steps"}:
        tiny += ["--broker", "nats", "kafka"]
    done = run(part, *tiny, "--json", str(file), "--plot", str(drawing))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "median" in done.stdout
    found = complete(file)
    assert all(name in done.stdout for name in found)
    assert drawing.read_text().startswith("<svg")


@pytest.mark.nats
def test_throughput_shows_everybody_and_the_ratios(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    tiny = ("--quick", "--events", "400", "--repeat", "1", "--broker", "nats-memory")
    done = run("throughput", *tiny, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    found = complete(file)
    assert {"ours", "literal design", "publish and wait"} <= found.keys()
    assert {"ours in batches", "ours in batches / ours"} <= found.keys()
    assert found["ours / by hand (publish_async)"]["target"] == "T1"
    assert found["overhead over the bare loop"]["target"] == "T3 nats"
    assert "400 accepted = 400 acked + 0 not acked + 0 dropped; 400 stored" in (
        done.stdout
    )


@pytest.mark.nats
def test_no_counter_has_grown() -> None:
    done = run("counters", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_counter_that_has_grown_is_named() -> None:
    known = {"locks": 1.0, "bytes": 1000.0}
    assert counters.grown({"locks": 1.01, "bytes": 1040}, known) == []
    assert counters.grown({"locks": 0.5, "bytes": 500}, known) == []
    assert counters.grown({"locks": 2.0, "bytes": 1000}, known) == [
        "locks: 2, and the baseline says 1"
    ]
    assert counters.grown({"locks": 1.0, "jobs": 1.0}, known) == [
        "jobs: 1, and the baseline does not know it",
        "bytes: was not counted",
    ]


def test_the_baseline_knows_the_versions_that_ci_runs() -> None:
    baseline = json.loads(counters.BASELINE.read_text())
    assert {"3.11", "3.12", "3.13"} <= baseline.keys()
    assert len({frozenset(known) for known in baseline.values()}) == 1


@pytest.mark.parametrize("part", ["", *(part.name for part in PARTS), "counters"])
def test_help_teaches(part: str) -> None:
    done = run(*([part] if part else []), "--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["throughput", "--broker", "rabbit"], "invalid choice: 'rabbit'"),
        (["import", "--plot", "figures.bmp"], "must end in .svg or .png"),
        (["idle", "--url", "amqp://localhost"], "unknown scheme"),
        (["idle", "--events", "0"], "invalid _count value: '0'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr


@pytest.mark.parametrize(
    ("tally", "balanced"),
    [
        (Tally(accepted=5, acked=5, stored=5), True),
        (Tally(accepted=5, acked=5), True),
        (Tally(accepted=5, acked=4, failed=1, stored=5), False),
        (Tally(accepted=5, acked=4, dropped=1, stored=5), False),
        (Tally(accepted=5, acked=5, stored=4), False),
        (Tally(accepted=5, acked=5, stored=6), False),
        (Tally(accepted=4, acked=4, stored=4), False),
    ],
)
def test_a_run_balances_only_if_each_event_is_acked_and_stored_once(
    tally: Tally, balanced: bool
) -> None:
    assert tally.balanced(5) is balanced


def measured(value: float, target: str = "", *, balanced: bool = True) -> Measured:
    found = Measured("ours", "a broker", target=target)
    found.add_value(value).note("books", balanced=balanced)
    return found


def test_targets_tell_what_is_met_missed_and_not_measured() -> None:
    ratios = [ratio("ours / peer", measured(30), measured(10), "T1")]
    found = [*ratios, measured(0.9, "T2"), measured(1.0, "T9"), measured(0.5, "T9")]
    rows = list(targets.lines([*found, measured(1, "T11", balanced=False)]))
    met = [row.split()[-1] for row in rows if row.startswith(("T1 ", "T2 ", "T9"))]
    assert met == ["yes", "NO", "yes", "NO"]
    assert any(row.startswith("T11") and row.endswith("NO") for row in rows)
    assert any("T12" in row and "not measured" in row for row in rows)
    assert [one["met"] for one in targets.as_json(found)] == [True, False, True, False]


def test_the_drawing_escapes_what_stands_in_it(tmp_path: Path) -> None:
    file = tmp_path / "figures.svg"
    one = Measured("ours <&>", "a broker")
    one.add_run(100, 2.0)
    plot.draw([one], {"python": "<3>"}, file)
    assert "ours &lt;&amp;&gt;" in file.read_text()
    assert "50 events/s" in file.read_text()


@pytest.mark.parametrize("kind", ["nats", "kafka"])
def test_only_the_peers_are_drawn_as_peers(kind: str) -> None:
    broker: Any = SimpleNamespace(kind=kind, server=object())
    names = throughput._runners(broker)
    ours = [name for name in names if plot._is_ours(Measured(name, ""))]
    assert ours == ["ours", *[throughput._BATCHES] * (kind == "nats")]
    assert len(names) > 3
    views = [plot._is_ours(Measured(text, "")) for text in flask_load._MODES.values()]
    assert sorted(views) == [False, False, True]


def test_what_cannot_be_measured_is_refused() -> None:
    done = run("outbox", "--db", "oracle")
    assert done.returncode == 2
    assert "'oracle' is none of sqlite, postgresql, mariadb" in done.stderr


@pytest.mark.parametrize(
    ("stored", "wrong"),
    [
        (["a1", "b1", "a2"], ""),
        (["a1", "a2", "a1", "b1"], ""),
        (["a1", "a2"], "missing"),
        (["a1", "b1", "a2", "c1"], "strangers"),
        (["a2", "a1", "b1"], "misordered"),
    ],
)
def test_books_balance_only_if_all_is_stored_in_order(
    stored: list[str], wrong: str
) -> None:
    written = [("a", "a1"), ("a", "a2"), ("b", "b1")]
    table = OutboxStats(
        pending=0,
        leased=0,
        waiting=0,
        published=3,
        dead=0,
        discarded=0,
        oldest_age=0.0,
    )
    found = [StoredEvent(one, one[0], "t", 0, n) for n, one in enumerate(stored)]
    books = books_of(written, table, found)
    assert books.balanced is (not wrong)
    assert ("DO NOT BALANCE" in str(books)) is bool(wrong)
    kinds = ("missing", "strangers", "misordered")
    assert [kind for kind in kinds if getattr(books, kind)] == (
        [wrong] if wrong else []
    )
