"""
The contract between the relay and a database. Numbered, and each sentence is tested.

1. ``claim``, ``renew``, ``mark``, ``release`` and ``purge`` are one short transaction
   each; none is open when they return, and none waits for a broker.
2. A row is claimed by one relay at a time. Its lease is a token made for this one claim:
   whoever has lost the lease changes nothing any more, however late he comes.
3. A lease ends by the database's clock; the clocks of hosts do not matter. One that
   would end later than any lease that can be given is none.
4. With ``ordering="aggregate"`` a claim holds, for each aggregate, a gapless run of rows
   that begins with its oldest unpublished one. An aggregate is left alone while
   another claim has rows of it, or while its oldest row waits for its next attempt. A
   dead row holds all rows behind it (``on_dead="hold"``), and none before it.
5. ``mark`` moves a whole batch in one statement for each kind of change, two at most,
   and returns which rows moved; the others had lost their lease.
6. What is not there any more is no error: marks and releases of purged rows do nothing.
7. Each method may be called from any thread; a relay calls from two.
8. A database error leaves as ``StoreFailed``, with the driver's exception as its cause,
   and nothing changed, as far as is known: a connection that is lost while COMMIT runs
   leaves it open whether it was done.
9. ``claim`` knows how many bytes rows have before it reads their payloads, and reads
   those that it returns only: what a claim takes in memory has a bound.
"""

from collections.abc import Collection, Sequence
from typing import Final, Literal, Protocol

from eventbus_sync._threads import Deadline
from eventbus_sync.config.fields import MAX_SECONDS
from eventbus_sync.outbox.record import (
    Claim,
    Mark,
    OutboxRow,
    OutboxStats,
    Requeued,
    RowState,
)


#: Seconds that a lease can last from now on, whatever is written in a row.
LONGEST_LEASE: Final = MAX_SECONDS

Ordering = Literal["aggregate", "none"]
OnDead = Literal["hold", "skip"]


class OutboxStore(Protocol):
    """What a relay needs of a database."""

    def claim(  # noqa: PLR0913 - all that decides which rows
        self,
        lease: str,
        *,
        limit: int,
        seconds: float,
        scan_from: int,
        ordering: Ordering,
        on_dead: OnDead,
        without: Collection[str] = (),
        max_bytes: int | None = None,
    ) -> Claim:
        """
        Lease up to *limit* rows that are due, the oldest first, for *seconds*.

        Looks at a bounded number of rows and says where to go on (``scanned_to``): rows
        that cannot be claimed now must not hide those behind them, nor make a claim
        expensive.

        Args:
            lease: a token never used before, at most 64 characters.
            limit: most rows.
            seconds: how long the lease stands.
            scan_from: rows up to this position are not looked at; 0 for none.
            ordering: see sentence 4; with "none" every due row can be claimed.
            on_dead: whether a dead row holds the later ones of its aggregate.
            without: aggregates of which the caller still has rows; left alone.
            max_bytes: most bytes of payloads and headers together; None for any. The
                first row is taken whatever it has. The others are found next, from
                ``scanned_to`` on.
        """

    def renew(self, leases: Collection[str], *, seconds: float) -> int:
        """Make *leases* that still stand last for *seconds* from now; count the rows."""

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        """Do *marks* whose lease still stands and return the positions of those."""

    def purge(self, *, older_than: float, limit: int) -> int:
        """Delete up to *limit* rows settled over *older_than* seconds ago; count them."""

    def wait(self, deadline: Deadline) -> bool:
        """
        Wait until a row may have been committed, or *deadline*.

        Returns:
            False if this store cannot tell, at once: then the relay polls.
        """

    def wake(self) -> None:
        """End a ``wait`` of another thread."""

    def stats(self, *, settled: bool = True) -> OutboxStats:
        """
        Return counts and ages.

        Args:
            settled: whether to count what is published or discarded, which may be
                millions of rows; else these two are 0.
        """

    def rows(
        self, state: RowState | None = None, *, limit: int = 100
    ) -> list[OutboxRow]:
        """Return the oldest rows, of one state or of all."""

    def requeue(self, event_ids: Collection[str] | None = None) -> Requeued:
        """Make dead rows pending again: those given, or all with None."""

    def discard(self, event_ids: Collection[str]) -> tuple[str, ...]:
        """Give dead rows up for good, and return which these were."""

    def close(self) -> None:
        """Let go of what waits for notifications; the engine stays the caller's."""
