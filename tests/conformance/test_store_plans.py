"""
Claiming stays O(batch) with many published rows in the table: the plans, printed.

Run with ``--slow -s`` to read them.
"""

import contextlib
import os
import re
import time

from collections.abc import Iterator
from typing import Any

import pytest

from sqlalchemy import Connection, event, text
from support.outbox_rows import aggregates, an_event, buried, published, retried, take

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


pytest_plugins = ["support.databases"]

#: How many there are; ``OUTBOX_ROWS=10000000`` takes minutes.
PUBLISHED = int(os.environ.get("OUTBOX_ROWS", "300000"))

# Half of all rows ever are of one aggregate, which is the worst case for its head.
_ROWS = (
    "INSERT INTO eventbus_outbox (event_id, topic, aggregate_id, event_type, "
    "event_version, occurred_at, payload, state, settled_at) "
    "SELECT {id}, 't', CASE WHEN n % 2 = 0 THEN 'hot' ELSE {aggregate} END, 'T', 1, "
    "'2026-01-01T00:00:00Z', {payload}, 'published', 1e9 + n FROM {numbers}"
)
# All of them will be due one day.
_SCHEDULED = (
    "UPDATE eventbus_outbox SET state = 'pending', settled_at = NULL, "
    "next_attempt_at = 4e9 + position"
)
_FILL = {
    "sqlite": {
        "id": "'old-' || n",
        "aggregate": "'a-' || (n % 5000)",
        "payload": "x'7b7d'",
        "numbers": (
            "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s "
            f"WHERE n < {PUBLISHED}) SELECT n FROM s)"
        ),
    },
    "postgresql": {
        "id": "'old-' || n",
        "aggregate": "'a-' || (n % 5000)",
        "payload": "'{}'::bytea",
        "numbers": f"generate_series(1, {PUBLISHED}) AS s(n)",
    },
    "mysql": {
        "id": "CONCAT('old-', n)",
        "aggregate": "CONCAT('a-', n % 5000)",
        "payload": "'{}'",
        "numbers": f"(SELECT seq AS n FROM seq_1_to_{PUBLISHED}) AS s",
    },
}
_ANALYZE = {
    "sqlite": "ANALYZE",
    "postgresql": "ANALYZE eventbus_outbox",
    "mysql": "ANALYZE TABLE eventbus_outbox",
}
_EXPLAIN = {
    "sqlite": "EXPLAIN QUERY PLAN ",
    "postgresql": "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) ",
    "mysql": "ANALYZE ",  # MariaDB
}


def plan_of(connection: Connection, statement: str, given: Any) -> list[str]:
    explained = connection.exec_driver_sql(
        _EXPLAIN[connection.dialect.name] + statement, given
    )
    return [" | ".join(str(one) for one in row) for row in explained]


def reads_everything(database: str, line: str, *, pending: bool = False) -> bool:
    """
    Whether a line of a plan goes through the whole table, or a whole index.

    Args:
        database: whose plan it is.
        line: of the plan.
        pending: whether all that are pending may be read.
    """
    if database == "sqlite":
        scan = r"SCAN (?!CONSTANT ROW)"
        too_much = scan if pending else rf"{scan}|\(state=\?\)"
        return re.search(too_much, line) is not None
    if database == "postgresql":
        rows = re.search(r"rows=(\d+)", line)
        removed = re.search(r"Removed by Filter: (\d+)", line)
        return any(int(m[1]) > 5000 for m in (rows, removed) if m)
    # What was read, not what was expected, which does not count the LIMIT.
    columns = line.split(" | ")
    kind, rows_read = columns[3], columns[9].split()[0]
    return kind in {"ALL", "index"} or (rows_read != "None" and float(rows_read) > 5000)


Sent = list[tuple[str, Any]]


@contextlib.contextmanager
def all_that_is_sent(outbox: SqlAlchemyOutbox) -> Iterator[Sent]:
    sent: Sent = []

    def note(_c: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        sent.append((statement, given))

    event.listen(outbox.engine, "before_cursor_execute", note)
    yield sent
    event.remove(outbox.engine, "before_cursor_execute", note)


def fill(outbox: SqlAlchemyOutbox, *more: str) -> None:
    """Add many published rows, do *more*, and let the database look at them."""
    database = outbox.engine.dialect.name
    with outbox.engine.begin() as connection:
        connection.execute(text(_ROWS.format(**_FILL[database])))
        for statement in more:
            connection.execute(text(statement))
        names = ["hot" if n % 2 else f"a-{n}" for n in range(2000)]
        outbox.add_many(connection, "t", [an_event(one) for one in names])
    with outbox.engine.connect() as connection:
        connection.execute(text(_ANALYZE[database]))
        connection.commit()


def bad_plans(outbox: SqlAlchemyOutbox, sent: Sent, counting: int) -> list[str]:
    """Print the plans of what was sent; return the lines that read too much."""
    database = outbox.engine.dialect.name
    bad = []
    with outbox.engine.connect() as connection:
        for number, (statement, given) in enumerate(sent):
            if not statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE")):
                continue
            plan = plan_of(connection, statement, given)
            print(f"\n[{database}] {statement[:300]}")  # noqa: T201 - to be read
            print("\n".join(f"    {line[:150]}" for line in plan))  # noqa: T201
            counts = number >= counting
            bad += [
                line
                for line in plan
                if reads_everything(database, line, pending=counts)
            ]
        connection.rollback()
    return bad


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
def test_plans_with_many_published_rows(
    name: str, request: pytest.FixtureRequest
) -> None:
    outbox: SqlAlchemyOutbox = request.getfixturevalue(f"{name}_outbox")
    fill(outbox)
    dead = take(outbox, limit=10).records
    outbox.mark([buried(record) for record in dead])
    with all_that_is_sent(outbox) as sent:
        began = time.monotonic()
        claim = take(outbox, limit=100)
        again = take(outbox, limit=100, scan_from=claim.scanned_to)
        outbox.renew([claim.records[0].lease], seconds=60)
        outbox.mark([retried(claim.records[0]), *map(published, claim.records[1:])])
        took = time.monotonic() - began
        outbox.requeue([dead[0].event_id])
        assert outbox.purge(older_than=10**9, limit=1000) == 0
        counting = len(sent)
        assert outbox.stats(settled=False).published == 0
    assert len(claim.records) == 100
    assert "hot" not in aggregates(again)
    bad = bad_plans(outbox, sent, counting)
    print(f"\n[{name}] two claims, a renewal and a mark: {took * 1000:.0f} ms")  # noqa: T201
    assert not bad


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mariadb"])
def test_plans_with_many_rows_scheduled_for_later(
    name: str, request: pytest.FixtureRequest
) -> None:
    outbox: SqlAlchemyOutbox = request.getfixturevalue(f"{name}_outbox")
    # Another aggregate for each, or all would wait for their heads.
    fill(outbox, "UPDATE eventbus_outbox SET aggregate_id = event_id", _SCHEDULED)
    outbox.check_schema()
    with all_that_is_sent(outbox) as sent:
        nothing = take(outbox, limit=100)
        claim = take(outbox, limit=100, scan_from=nothing.scanned_to)
        # Some that were tried before are due too, in front of the others.
        outbox.mark([retried(record) for record in claim.records])
        tried = take(outbox, limit=100, scan_from=nothing.scanned_to)
    assert nothing.records == ()
    assert nothing.next_due == pytest.approx(4e9 - time.time(), abs=60)
    assert len(claim.records) == 100
    assert tried.records[0].event_id == claim.records[0].event_id
    assert not bad_plans(outbox, sent, len(sent))
