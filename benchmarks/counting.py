"""An outbox that counts: statements, and the time that its database takes."""

import time

from collections.abc import Sequence
from typing import Any

import attrs

from sqlalchemy import Engine, event

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import RelayStats
from eventbus_sync.outbox.record import Claim, Mark


@attrs.define
class Counted:
    """
    What a relay did with its database, and what it took.

    Attributes:
        published: rows.
        statements: sent to the database, those of transactions left out.
        claims, empty_claims: calls; the latter found nothing.
        marks: calls.
        claim_seconds, mark_seconds: spent in these calls, by the clock.
        cpu_seconds: of the process, or processes.
    """

    published: int = 0
    statements: int = 0
    claims: int = 0
    empty_claims: int = 0
    marks: int = 0
    claim_seconds: float = 0.0
    mark_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def plus(self, other: "Counted") -> "Counted":
        """Return the sum of two relays."""
        mine, its = attrs.asdict(self), attrs.asdict(other)
        return Counted(**{name: mine[name] + its[name] for name in mine})


class CountingOutbox(SqlAlchemyOutbox):
    """Counts what a relay does. One relay's only: it is not locked."""

    def __init__(self, engine: Engine, **settings: Any) -> None:
        super().__init__(engine, **settings)
        self.counted = Counted()
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, *_: object) -> None:
        self.counted.statements += 1

    def begin(self) -> None:
        """Count from here on."""
        self.counted = Counted(cpu_seconds=-time.process_time())

    def end(self, stats: RelayStats) -> Counted:
        """Count no more, and return what *stats* of the relay complete."""
        event.remove(self.engine, "before_cursor_execute", self._note)
        self.counted.cpu_seconds += time.process_time()
        self.counted.published = stats.published
        return self.counted

    def claim(self, lease: str, **wish: Any) -> Claim:
        """Claim, counted."""
        before = time.perf_counter()
        claim = super().claim(lease, **wish)
        self.counted.claim_seconds += time.perf_counter() - before
        self.counted.claims += 1
        self.counted.empty_claims += not claim.records
        return claim

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        """Mark, counted."""
        before = time.perf_counter()
        moved = super().mark(marks)
        self.counted.mark_seconds += time.perf_counter() - before
        self.counted.marks += 1
        return moved
