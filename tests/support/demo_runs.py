"""Journals, stats and figures of demo runs that never happened."""

from collections.abc import Sequence
from typing import Any

from eventbus_sync import Stats
from eventbus_sync.demo.figures import Figures, Spread
from eventbus_sync.demo.journal import Journal, PublisherLog
from eventbus_sync.testing.readback import StoredEvent


def journal_of(
    *threads: Sequence[str],
    rejected: Sequence[str] = (),
    unknown: Sequence[str] = (),
    unread: Sequence[str] = (),
) -> Journal:
    """A journal in which everything was acked that is not named otherwise."""
    journal = Journal([PublisherLog(accepted=list(ids)) for ids in threads])
    other = {*rejected, *unknown, *unread}
    reader = journal.reader
    reader.acked = [e for ids in threads for e in ids if e not in other]
    reader.rejected, reader.unknown = list(rejected), list(unknown)
    return journal


def stats_of(journal: Journal, *, dropped: int = 0, **changed: int) -> Stats:
    """The stats that agree with a journal, but for what is *changed*."""
    reader = journal.reader
    counters = {
        "accepted": journal.accepted,
        "acked": len(reader.acked) + dropped,
        "rejected": len(reader.rejected),
        "unknown": len(reader.unknown),
        "taken": journal.settled,
        "dropped": dropped,
    }
    return Stats(**(counters | changed))


def stored_as(*ids: str, aggregate: str = "a", partition: int = 0) -> list[StoredEvent]:
    """What a broker gives back that stored *ids* in this order."""
    return [
        StoredEvent(event_id, aggregate, "demo", partition, sequence)
        for sequence, event_id in enumerate(ids)
    ]


def figures_with(**changed: Any) -> Figures:
    """Figures of a run in which all went well, but for what is *changed*."""
    figures: dict[str, Any] = {
        "backend": "nats",
        "title": "NATS JetStream (embedded nats-server)",
        "events": 20_000,
        "threads": 4,
        "accepted": 20_000,
        "acked": 20_000,
        "rejected": 0,
        "unknown": 0,
        "dropped": 0,
        "waited": 0,
        "repeats": 0,
        "reconnects": 0,
        "codes": {},
        "seconds": 0.64,
        "call": Spread(4.5e-6, 0.00121),
        "latency": Spread(0.18, 1.5),
        "stored": 20_000,
    }
    return Figures(**(figures | changed))
