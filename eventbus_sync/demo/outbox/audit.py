"""
Whether the outbox kept its word: what was committed, published and stored, side by side.

Pure functions. Every check compares two independent witnesses: the threads that wrote,
the rows, the orders, the counters of relay and bus, and what the broker gives back.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from eventbus_sync.demo.outbox.evidence import Evidence
from eventbus_sync.demo.outbox.journal import Journal


#: Kind of violation → what it says of that many events.
MEANING: Final = {
    "rowless": "committed, but without a row",
    "rolled_back": "rolled back, but in the table",
    "halved": "orders whose version is not the number of their events",
    "unpublished": "rows that were not published",
    "lost": "committed, but not stored by the broker",
    "phantom": "stored by the broker, but never committed",
    "twice": "stored twice by a broker that recognises repeats",
    "disordered": "stored later than a newer event of their order",
    "miscounted": "counters that contradict each other",
}


@attrs.frozen
class Violation:
    """
    A promise that was not kept.

    Attributes:
        kind: a key of ``MEANING``.
        count: how many events, orders or counters.
        example: one of them.
    """

    kind: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count:,} {MEANING[self.kind]} (such as {self.example})"


def audit(journal: Journal, evidence: Evidence) -> list[Violation]:
    """Return every way in which the run broke a promise; an empty list is the proof."""
    return [
        *_transactions(journal, evidence),
        *_storage(journal, evidence),
        *_counters(evidence),
    ]


def _transactions(journal: Journal, evidence: Evidence) -> Iterable[Violation]:
    """An event is in the table if, and only if, its transaction was committed."""
    rows = {row.event_id for row in evidence.rows}
    committed = [e for log in journal.writers for e in log.committed]
    possible = {*committed, *(e for log in journal.writers for e in log.undecided)}
    yield from _found("rowless", [e for e in committed if e not in rows])
    yield from _found("rolled_back", [e for e in rows if e not in possible])
    events = Counter(row.aggregate_id for row in evidence.rows)
    names = sorted({*events, *evidence.versions})
    yield from _found(
        "halved", [n for n in names if events[n] != evidence.versions.get(n, 0)]
    )


def _storage(journal: Journal, evidence: Evidence) -> Iterable[Violation]:
    """What is in the table is on the broker, in order, and nothing else is."""
    rows = {row.event_id for row in evidence.rows}
    times = Counter(event.event_id for event in evidence.stored)
    yield from _found(
        "unpublished", [r.event_id for r in evidence.rows if r.state != "published"]
    )
    yield from _found("lost", [e for e in rows if e not in times])
    yield from _found("phantom", [e for e in times if e not in rows])
    if evidence.once:
        yield from _found("twice", [e for e, n in times.items() if n > 1])
    yield from _found("disordered", _disordered(journal, evidence))


def _disordered(journal: Journal, evidence: Evidence) -> list[str]:
    """
    Return the events that were stored later than a newer one of their aggregate.

    Newer: committed later; one thread alone changes an order, so it knows. First
    occurrences count, and an aggregate that is spread over two partitions has no order
    at all.
    """
    place = {
        event_id: number
        for log in journal.writers
        for number, event_id in enumerate(log.committed)
    }
    latest: dict[str, int] = {}
    home: dict[str, int] = {}
    late: list[str] = []
    seen: set[str] = set()
    for event in evidence.stored:
        if event.event_id in seen or event.event_id not in place:
            continue
        seen.add(event.event_id)
        elsewhere = home.setdefault(event.aggregate_id, event.partition)
        number = place[event.event_id]
        if latest.get(event.aggregate_id, -1) > number or elsewhere != event.partition:
            late.append(event.event_id)
        else:
            latest[event.aggregate_id] = number
    return late


def _counters(evidence: Evidence) -> Iterable[Violation]:
    relay, bus = evidence.relay, evidence.bus
    published = sum(row.state == "published" for row in evidence.rows)
    off = []
    if relay.published != published:
        off.append(f"published: {relay.published:,} by the relay, {published:,} rows")
    if relay.held:
        off.append(f"held: {relay.held:,} rows after the relay was stopped")
    if not bus.balanced or bus.in_flight:
        off.append(f"those of the bus: {bus}")
    if bus.acked < published:
        off.append(f"acked: {bus.acked:,} by the bus, {published:,} rows published")
    yield from _found("miscounted", off)


def _found(kind: str, examples: Sequence[str]) -> Iterable[Violation]:
    if examples:
        yield Violation(kind, len(examples), examples[0])
