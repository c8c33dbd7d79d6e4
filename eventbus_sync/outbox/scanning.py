"""
Where a relay looks next: through the whole table, or at its tail only.

As long as the table is short, each look is a *round*: all that is pending, from the
oldest row on. Behind a dead or a waiting row there may be hundreds of thousands that
cannot be claimed. Then new rows are looked for at the *tail*, and rounds are made in
between, a claim at a time, with rests as long as they deserve.

What is claimed does not depend on where a relay looks: the database says which rows are
the oldest of their aggregates. So the tail can make a row wait, and no row overtake.
"""

from typing import Final

from eventbus_sync.outbox.record import Claim
from eventbus_sync.outbox.round import LONGEST_REST, Look, Round


#: A round of more claims than this is a long one.
FEW_CLAIMS: Final = 4
#: Seconds after a look in which its end does not become the tail, and the next look
#: after these goes over it again: so what transactions that last no longer commit late
#: is found as quickly as anything new.
LAG: Final = 5.0
#: By so many rows the tail grows to take in one that can be claimed again.
NEAR: Final = 1000
#: While a round is made, seconds between two looks at the tail.
TURN: Final = 0.05
#: The rest between two long rounds that find nothing, in times what one took: a
#: twentieth of the time is for them.
LONG_ROUND_REST: Final = 19.0


class Scan:
    """
    The relay's place in the table. Used by one thread, but for ``want_round``.

    Rows up to the tail are found by a round. One begins at once when a row may have
    become due, or when rows that this relay had are free again (it rests for as long as
    the last one took, though); for all that nobody tells, such as a requeue or the end
    of a killed relay's lease, within ``LONGEST_REST``, or ``poll_interval`` if that is
    longer.

    Args:
        now: the relay's clock.
        poll_interval: the relay's.
    """

    def __init__(self, now: float, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        #: Where the round goes on; 0 between two of them.
        self.at = 0
        self.round = Round(now)
        #: Rounds that were begun.
        self.rounds = 0
        #: The latest of them which found nothing that is due, and nothing was held.
        self.quiet_round = 0
        #: Rows up to here are left to rounds; None: each look is part of a round.
        self.tail: int | None = None
        # Where the look at the tail goes on, and what it saw; 0 between two of them.
        self._tail_at = 0
        self._look = Look(now)
        # The end of a look, and since when it is known: the next tail.
        self._end: tuple[int, float] | None = None
        self._kind = "round"
        self._tail_seen_at = now
        self._tail_was_last = False
        # A row far before the tail can be claimed again, and is just behind this.
        self._back_to: int | None = None
        self._wanted = False
        self._next_round_at = now
        self._wanted_round = 0

    @property
    def in_midst(self) -> bool:
        """Whether there is more to look at before the relay may rest."""
        return self._kind == "back" or self.at > 0 or self._tail_at > 0

    def want_round(self) -> int:
        """Have a round made, until one finds nothing; return its number."""
        self._wanted_round = self.rounds + 1
        return self._wanted_round

    def begin(self, now: float, resume: int | None, *, held: bool) -> int:
        """
        Return from where on to claim next; follow it by ``note``.

        Args:
            now: the time.
            resume: where later rows of aggregates that were let go of may be.
            held: whether rows are held.
        """
        if self.tail is not None and resume is not None and resume < self.tail:
            self._lower_tail(self.tail, resume)
        self._kind = self._next_kind(now, back=resume is not None)
        if self._kind == "back":
            if self.tail is None:
                return min(self.at, max(0, resume or 0))
            back, self._back_to = self._back_to, None
            return max(0, back or 0)
        if self._kind == "tail":
            self._tail_seen_at, self._tail_was_last = now, True
            if not self._tail_at:
                self._look = Look(now)
            return self._tail_at or self.tail or 0
        self._tail_was_last = False
        if not self.at:
            self.rounds += 1
            self.round = Round(now, quiet=not held)
        return self.at

    def note(self, claim: Claim, now: float) -> None:
        """Take in what was found from there on."""
        if self._kind == "round":
            if not self.at:
                self._wanted = False
            self.at = claim.scanned_to
            self.round.note(claim, now)
            self.round.look.note(claim)
            if not self.at:
                self._end_round(now)
            return
        if self.tail is None:
            self.round.note(claim, now)
            return
        self.round.note_beside(claim, now)
        if self._kind == "tail":
            self._look.note(claim)
            self._tail_at = claim.scanned_to
            if not self._tail_at:
                self._end_look(self._look, now)
                if not self.at:
                    self.round.hides = self._look.hides

    def failed(self) -> None:
        """Note that the database did not answer, instead of ``note``."""
        self._wanted = True  # for it was perhaps the begin of a round

    def round_in(self, now: float) -> float:
        """Return in how many seconds the next round is due, while there is a tail."""
        soonest = self.round.ended + min(self.round.took, LONGEST_REST)
        if self._wanted or self._wanted_round > self.quiet_round:
            return soonest - now
        return min(self._next_round_at, max(self.round.due_at, soonest)) - now

    # -- inside ------------------------------------------------------------------------

    def _next_kind(self, now: float, *, back: bool) -> str:
        went_back = self._kind == "back"
        if self.tail is None:
            # In a long backlog, the next run of an aggregate is not left until the scan
            # comes round again. Every second time, so that the scan comes round.
            goes_back = back and self.at > 0 and not went_back
            return "back" if goes_back else "round"
        if self._back_to is not None and not went_back:
            return "back"
        if not self.at and self.round_in(now) > 0:
            return "tail"
        # In turns, so that neither waits for the other, however slow claims are.
        overdue = now - self._tail_seen_at >= TURN
        return "tail" if overdue and not self._tail_was_last else "round"

    def _lower_tail(self, tail: int, resume: int) -> None:
        if tail - resume <= NEAR:
            self.tail = max(0, resume)
            self._end = None
            self._tail_at = 0
            return
        known = resume if self._back_to is None else self._back_to
        self._back_to = min(known, resume)
        self._wanted = True

    def _end_round(self, now: float) -> None:
        done = self.round
        done.ended = now
        if done.quiet:
            self.quiet_round = self.rounds
        if done.look.claims <= FEW_CLAIMS:
            self.tail = self._end = self._back_to = None
            self._tail_at = 0
            return
        self._end_look(done.look, now)
        rest = LONG_ROUND_REST * done.took
        if done.found:
            rest = done.took
        self._next_round_at = now + max(min(rest, LONGEST_REST), self._poll_interval)

    def _end_look(self, look: Look, now: float) -> None:
        tail = self.tail or 0
        if self._end is not None and look.began - self._end[1] >= LAG:
            # What was committed late since then, this look has seen; and if it is
            # hidden, the tail stays before it.
            end, self._end = self._end[0], None
            tail = max(tail, min(end, look.end) if look.hides else end)
            self.tail = tail or None
        if self._end is None and look.end > tail:
            self._end = (look.end, now)
