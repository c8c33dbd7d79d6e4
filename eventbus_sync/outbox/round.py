"""One look of a relay at the whole table, and the rest that it deserves."""

from typing import Final

import attrs

from eventbus_sync.outbox.record import Claim


#: The rest after a look at the whole table that found nothing, in times what the look
#: took, and at most so many seconds: a long backlog that cannot be claimed yet
#: must not keep relay and database busy.
ROUND_REST: Final = 5.0
LONGEST_REST: Final = 30.0


@attrs.define
class Look:
    """
    What claims that followed each other saw.

    Attributes:
        began: when.
        claims: how many.
        end: all rows up to this position were seen, and none was hidden.
        hides: whether rows were hidden by an older transaction.
    """

    began: float
    claims: int = 0
    end: int = 0
    hides: bool = False

    def note(self, claim: Claim) -> None:
        """Take in what one of them saw."""
        self.claims += 1
        if not self.hides:
            self.end = max(self.end, claim.seen_to)
        self.hides = self.hides or claim.hidden


@attrs.define
class Round:
    """
    One look at the whole table, in as many claims as it takes.

    Times are those of the relay's clock.

    Attributes:
        began: when.
        quiet: whether nothing was held at its begin, and nothing that is due was found.
        found: whether rows were claimed.
        hides: whether rows were hidden by an older transaction.
        due_at: when the earliest row that waits is due.
        ended: when; its begin until then.
        look: what its own claims saw.
    """

    began: float
    quiet: bool = False
    found: bool = False
    hides: bool = False
    due_at: float = float("inf")
    ended: float = attrs.field(
        default=attrs.Factory(lambda self: self.began, takes_self=True)
    )
    look: Look = attrs.field(
        default=attrs.Factory(lambda self: Look(self.began), takes_self=True)
    )

    @property
    def took(self) -> float:
        """Seconds from its begin to its end."""
        return self.ended - self.began

    def note(self, claim: Claim, now: float) -> None:
        """Take in what one of its claims found."""
        if claim.records:
            self.found = True
        if claim.hidden:
            self.hides = True
        self.note_beside(claim, now)

    def note_beside(self, claim: Claim, now: float) -> None:
        """Take in what was found at the tail, or further back, meanwhile."""
        if claim.records or claim.hidden:
            self.quiet = False
        if claim.next_due is not None:
            self.due_at = min(self.due_at, now + claim.next_due)

    def rest(self, now: float, poll_interval: float) -> float:
        """Return for how many seconds to spare the database after it."""
        took = now - self.began
        if self.found:
            return min(took, poll_interval)
        return min(ROUND_REST * took, LONGEST_REST)

    def not_past_due(self, pause: float, now: float, also_at: float) -> float:
        """
        Return *pause*, or less if something is due before; not less than a look.

        Args:
            pause: seconds.
            now: the time.
            also_at: when something else is due.
        """
        left = max(0.001, min(self.due_at, also_at) - now)
        return min(pause, max(left, min(now - self.began, LONGEST_REST)))
