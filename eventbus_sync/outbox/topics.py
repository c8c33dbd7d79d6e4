"""
Topics that take nothing: their rows wait in the database, so that others go out.

An attempt to publish where nobody takes anything lasts as long as any attempt may. A
backlog of such rows would fill all the room that a relay has, again and again: rows of
one topic, or one row each of thousands of topics.
"""

import threading
import time

from collections.abc import Callable
from typing import Any, Final

import attrs


#: So many failures in a row, without an acknowledgement, close a topic off.
THRESHOLD: Final = 20
#: Seconds for which a row is held back: at least about half of the first, at most the
#: second; in between as long as the topic has been closed off. So an outage delays
#: no row by more than it lasted, and no row for long.
SHORTEST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
#: So many rows a second are held back at most: of more, each waits longer, up to so
#: many seconds. Claiming and holding back a million rows must not be all a relay does.
ROWS_PER_SECOND: Final = 1000
LONGEST_QUEUE: Final = 300.0
#: With so many topics failing, one that never took anything is taken for one of them.
CROWD: Final = 10
#: Topics known at most, of those that fail and of those that work.
MOST_TOPICS: Final = 10_000
#: Seconds after which a topic is forgotten that had no row: they are dead or gone.
FORGET: Final = 900.0

_NEVER_WORKED: Final = "nothing was acknowledged there yet, and many topics fail"


@attrs.frozen
class HoldBack:
    """
    What to do with a row that is not to be published now.

    Attributes:
        pause: seconds until it is looked at again.
        why: the last error of its topic.
    """

    pause: float
    why: str


@attrs.define(eq=False)
class _Topic:
    failures: int = 0
    closed_at: float | None = None
    probe_at: float = 0.0
    why: str = _NEVER_WORKED
    #: When it last had a row.
    seen_at: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether only one row at a time is tried."""
        return self.closed_at is not None or not self.failures


class _Suspects:
    """
    Rows in flight that will likely get no answer: only so many at a time.

    Each counts for a while only, so that one which got lost blocks nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Until when each counts, the first to go first.
        self._until: dict[str, float] = {}

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._until

    def let_go(self, event_id: str, now: float, until: float) -> bool:
        """Return whether one more may go out, and then count it *until* then."""
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
        if len(self._until) >= self._most:
            return False
        self._until[event_id] = until
        return True

    def landed(self, event_id: str) -> None:
        """Count a row no more."""
        self._until.pop(event_id, None)


class Topics:
    """
    Which topics took nothing of late. Thread-safe.

    A topic that failed ``THRESHOLD`` times in a row is closed off: one row at a time is
    tried, all others are held back. The first acknowledgement opens it. And of all rows
    whose topics failed since their last acknowledgement only a part of the relay's room
    is in flight. While many topics fail, another such part is for those that were never
    seen to work; of these, the second row of a topic waits for the first one's outcome.

    Args:
        patience: seconds after which a row without an outcome is given up. A time, and
            no "in flight", so that a probe that got lost blocks nothing.
        room: the batch size: at least as many rows more are held.
        clock: seconds that never go back.
    """

    def __init__(
        self, patience: float, room: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._topics: dict[str, _Topic] = {}
        # Those where something was acknowledged, the latest last.
        self._proven: dict[str, None] = {}
        self._failing = _Suspects(max(1, room // 2))
        self._new = _Suspects(max(1, room // 2))
        # When the row after those held back so far may come back.
        self._back_at = 0.0

    def acked(self, topic: str) -> bool:
        """Note that a broker stored something there; return whether this opened it."""
        if not self._topics and topic in self._proven:
            return False  # as nearly always: no lock for each event
        with self._lock:
            self._proven.pop(topic, None)
            self._proven[topic] = None
            _forget_first(self._proven)
            known = self._topics.pop(topic, None)
            return known is not None and known.closed_at is not None

    def failed(self, topic: str, why: str) -> bool:
        """Note an attempt that failed by *why*; return whether this closed it off."""
        with self._lock:
            known = self._know_locked(topic)
            known.failures += 1
            known.why = why
            if known.failures < THRESHOLD or known.closed_at is not None:
                return False
            known.closed_at = self._clock()
            return True

    def hold_back(
        self, topic: str, event_id: str, random: Callable[[], float]
    ) -> HoldBack | None:
        """
        Return how to hold a row back, or None if it may go out.

        If it may, follow it by ``landed`` or ``not_tried``; and as it went by ``acked``
        or ``failed``.

        Args:
            topic: where the row goes.
            event_id: of the row.
            random: gives numbers from 0 up to 1.
        """
        if not self._topics:
            return None
        with self._lock:
            known = self._topics.get(topic)
            suspects = self._failing
            if known is None:
                if len(self._topics) < CROWD or topic in self._proven:
                    return None
                suspects = self._new
            else:
                self._know_locked(topic)  # it still has rows
            now = self._clock()
            self._forget_locked(now)
            until = now + self._patience
            may_go = known is None or not known.waits or now >= known.probe_at
            if may_go and suspects.let_go(event_id, now, until):
                if known is None:
                    known = self._know_locked(topic)
                if known.waits:
                    known.probe_at = until
                return None
            return self._hold_locked(known, now, random)

    def is_doubtful(self, event_id: str) -> bool:
        """Return whether a row that may go out will likely get no answer."""
        if not self._topics:
            return False
        with self._lock:
            return event_id in self._failing or event_id in self._new

    def landed(self, event_id: str) -> None:
        """Note that a row has its outcome, whatever it is."""
        if not self._topics:
            return
        with self._lock:
            self._failing.landed(event_id)
            self._new.landed(event_id)

    def not_tried(self, topic: str, event_id: str) -> None:
        """Note that a row which might go out did not: the next one is the probe."""
        self.landed(event_id)
        if not self._topics:
            return
        with self._lock:
            known = self._topics.get(topic)
            if known is not None:
                known.probe_at = self._clock()

    def _know_locked(self, topic: str) -> _Topic:
        # To the end, so that those go first which have not failed for long.
        known = self._topics.pop(topic, None) or _Topic()
        known.seen_at = self._clock()
        self._topics[topic] = known
        _forget_first(self._topics)
        return known

    def _forget_locked(self, now: float) -> None:
        while self._topics:
            topic, known = next(iter(self._topics.items()))
            if now - known.seen_at < FORGET:
                return
            del self._topics[topic]

    def _hold_locked(
        self, known: _Topic | None, now: float, random: Callable[[], float]
    ) -> HoldBack:
        closed_at = now if known is None or known.closed_at is None else known.closed_at
        longest = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, now - closed_at))
        # One after the other, as if at a turnstile.
        self._back_at = max(now, self._back_at) + 1 / ROWS_PER_SECOND
        queue = min(LONGEST_QUEUE, self._back_at - now)
        # Two digits: marks that share their values make a short statement.
        pause = float(f"{max(queue, longest * (0.5 + random() / 2)):.2g}")
        why = _NEVER_WORKED if known is None else known.why
        return HoldBack(min(max(LONGEST_PAUSE, queue), pause), why)


def _forget_first(topics: dict[str, Any]) -> None:
    while len(topics) > MOST_TOPICS:
        del topics[next(iter(topics))]
