"""The benchmarks run, and their books balance; nobody looks at the times here."""

import json
import subprocess
import sys

from pathlib import Path
from typing import Any

import pytest

from benchmarks.books import books_of
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
