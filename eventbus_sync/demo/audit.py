"""
Whether the books balance: what was published, answered and stored, side by side.

Pure functions over one run's journal. Every check compares two independent sources:
the ids that ``publish_envelope`` returned, the results that came off the channel, the
counters of ``bus.stats()``, and what the broker itself gives back.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from eventbus_sync.demo.journal import Journal
from eventbus_sync.observe import Stats
from eventbus_sync.testing.readback import StoredEvent


#: Kind of violation → what it says of that many events.
MEANING: Final = {
    "lost": "acked, but not stored",
    "phantom": "stored, but neither acked nor unknown",
    "twice": "stored twice",
    "disordered": "stored out of the order in which their thread published them",
    "answered_twice": "given more than one result",
    "unanswered": "accepted, but given no result",
    "uncalled": "given a result without having been accepted",
    "miscounted": "counters of bus.stats() that contradict this run",
}


@attrs.frozen
class Violation:
    """
    A promise that was not kept.

    Attributes:
        kind: a key of ``MEANING``.
        count: how many events, or how many counters.
        example: one of them.
    """

    kind: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.count:,} {MEANING[self.kind]} (such as {self.example})"


def audit(
    journal: Journal, stats: Stats, stored: Sequence[StoredEvent]
) -> list[Violation]:
    """
    Return every way in which the run broke a promise; an empty list is the proof.

    Args:
        journal: of a run whose threads have ended.
        stats: of its bus, after ``close``.
        stored: what the broker holds of this run, each partition in its own order.
    """
    return [*_answers(journal, stats), *_storage(journal, stored)]


def _answers(journal: Journal, stats: Stats) -> Iterable[Violation]:
    """Promises 1 and 2: one result for each accepted event, and counters to match."""
    reader = journal.reader
    accepted = Counter(_accepted(journal))
    answered = Counter([*reader.acked, *reader.rejected, *reader.unknown])
    yield from _found("answered_twice", [e for e, n in answered.items() if n > 1])
    yield from _found("uncalled", [e for e in answered if e not in accepted])
    # A full channel costs the reader results; which ones, nobody can tell.
    silent = [e for e in accepted if e not in answered]
    yield from _found("unanswered", silent[stats.dropped :])
    counted = {
        "accepted": (stats.accepted, journal.accepted),
        "taken": (stats.taken, journal.settled),
    }
    if not stats.dropped:
        counted["acked"] = (stats.acked, len(reader.acked))
        counted["rejected"] = (stats.rejected, len(reader.rejected))
        counted["unknown"] = (stats.unknown, len(reader.unknown))
    off = [
        f"{name}: {theirs:,} there, {ours:,} here"
        for name, (theirs, ours) in counted.items()
        if theirs != ours
    ]
    if not stats.balanced:
        off.append(f"its own equations: {stats}")
    yield from _found("miscounted", off)


def _storage(journal: Journal, stored: Sequence[StoredEvent]) -> Iterable[Violation]:
    """Promises 5 and 6: acked ⊆ stored ⊆ acked + unknown, each once, and in order."""
    reader = journal.reader
    times = Counter([event.event_id for event in stored])
    yield from _found("lost", [e for e in reader.acked if e not in times])
    # What may be stored is what was accepted and not refused: acked, unknown, and
    # what had its result dropped.
    possible = set(_accepted(journal)).difference(reader.rejected)
    yield from _found("phantom", [e for e in times if e not in possible])
    yield from _found("twice", [e for e, n in times.items() if n > 1])
    yield from _found("disordered", _disordered(journal, stored))


def _disordered(journal: Journal, stored: Sequence[StoredEvent]) -> list[str]:
    """
    Return the events that were stored later than a newer one.

    Newer: published later by the same thread to the same aggregate. First occurrences
    count, and an aggregate that is spread over two partitions has no order at all.
    """
    published = {
        event_id: (thread, position)
        for thread, log in enumerate(journal.publishers)
        for position, event_id in enumerate(log.accepted)
    }
    latest: dict[tuple[int, str], int] = {}
    home: dict[str, int] = {}
    late = []
    seen = set()
    for event in stored:
        if event.event_id in seen or event.event_id not in published:
            continue
        seen.add(event.event_id)
        thread, position = published[event.event_id]
        line = (thread, event.aggregate_id)
        elsewhere = home.setdefault(event.aggregate_id, event.partition)
        if latest.get(line, -1) > position or elsewhere != event.partition:
            late.append(event.event_id)
        else:
            latest[line] = position
    return late


def _accepted(journal: Journal) -> Iterable[str]:
    for log in journal.publishers:
        yield from log.accepted


def _found(kind: str, examples: Sequence[str]) -> Iterable[Violation]:
    if examples:
        yield Violation(kind, len(examples), examples[0])
