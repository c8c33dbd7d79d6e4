"""The books of a run: what was written, and what the table and the broker hold."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import attrs

from eventbus_sync.outbox import OutboxStats
from eventbus_sync.testing.readback import StoredEvent


#: An event: its aggregate and its id.
Event = tuple[str, str]


@attrs.frozen(kw_only=True)
class Books:
    """
    What became of the rows of a run.

    Attributes:
        written: rows that were committed.
        published, pending, dead: of them, by the table.
        stored: messages at the broker.
        repeats: of them, those whose event id was there before.
        missing: events that are not stored.
        strangers: stored events that nobody wrote.
        misordered: aggregates whose events first occur in another order.
    """

    written: int
    published: int
    pending: int
    dead: int
    stored: int
    repeats: int
    missing: int
    strangers: int
    misordered: int

    @property
    def balanced(self) -> bool:
        """Whether each row is published, stored, and in its place."""
        wrong = self.pending + self.dead + self.missing + self.strangers
        return self.published == self.written and not (wrong or self.misordered)

    def __str__(self) -> str:
        text = (
            f"{self.written:,} written = {self.published:,} published, "
            f"{self.stored:,} stored, {self.repeats} repeated"
        )
        if self.balanced:
            return f"{text}, in order"
        return (
            f"{text}; DO NOT BALANCE: {self.pending} pending, {self.dead} dead, "
            f"{self.missing} missing, {self.strangers} unknown, "
            f"{self.misordered} aggregates out of order"
        )


def books_of(
    written: Sequence[Event], stats: OutboxStats, stored: Sequence[StoredEvent]
) -> Books:
    """Compare what was *written*, in its order, with the table and the broker."""
    expected = _by_aggregate(written)
    found = _by_aggregate((one.aggregate_id, one.event_id) for one in stored)
    ids = {event_id for _, event_id in written}
    there = {one.event_id for one in stored}
    return Books(
        written=len(written),
        published=stats.published,
        pending=stats.pending,
        dead=stats.dead,
        stored=len(stored),
        repeats=len(stored) - len(there),
        missing=len(ids - there),
        strangers=len(there - ids),
        misordered=sum(
            [one for one in events if one in there]
            != [one for one in found.get(name, ()) if one in ids]
            for name, events in expected.items()
        ),
    )


def _by_aggregate(events: Iterable[Event]) -> dict[str, list[str]]:
    """Return the ids of each aggregate by their first occurrence."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for aggregate, event_id in events:
        found[aggregate].setdefault(event_id)
    return {aggregate: list(ids) for aggregate, ids in found.items()}
