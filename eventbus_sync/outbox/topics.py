"""
Topics that take nothing: their rows wait in the database, so that others go out.

An attempt to publish where nobody takes anything lasts as long as any attempt may. A
backlog of such rows would fill all the room that a relay has, again and again.
"""

import threading
import time

from collections.abc import Callable
from typing import Final

import attrs


#: So many failures in a row, without an acknowledgement, close a topic off.
THRESHOLD: Final = 20
#: Seconds for which a row is held back: at least about half of the first, at most the
#: second; in between as long as the topic has been closed off. So an outage delays
#: no row by more than it lasted, and no row for long.
SHORTEST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
#: Topics known at most.
MOST_TOPICS: Final = 1000


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
    why: str = ""


class Topics:
    """
    Which topics took nothing of late. Thread-safe.

    A topic that failed ``THRESHOLD`` times in a row is closed off: one row at a time is
    tried, all others are held back. The first acknowledgement opens it.

    Args:
        patience: seconds after which a probe without an outcome is given up. A time, and
            no "in flight", so that a probe that got lost blocks nothing.
        clock: seconds that never go back.
    """

    def __init__(
        self, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._topics: dict[str, _Topic] = {}

    def acked(self, topic: str) -> bool:
        """Note that a broker stored something there; return whether this opened it."""
        if not self._topics:
            return False  # as nearly always: no lock for each event
        with self._lock:
            known = self._topics.pop(topic, None)
            return known is not None and known.closed_at is not None

    def failed(self, topic: str, why: str) -> bool:
        """Note an attempt that failed by *why*; return whether this closed it off."""
        with self._lock:
            # To the end, so that those go first which have not failed for long.
            known = self._topics.pop(topic, None) or _Topic()
            self._topics[topic] = known
            while len(self._topics) > MOST_TOPICS:
                del self._topics[next(iter(self._topics))]
            known.failures += 1
            known.why = why
            if known.failures < THRESHOLD or known.closed_at is not None:
                return False
            known.closed_at = self._clock()
            return True

    def hold_back(self, topic: str, random: Callable[[], float]) -> HoldBack | None:
        """
        Return how to hold a row of *topic* back, or None if it may go out.

        If the topic is closed off, such a row is the probe: follow it by ``acked`` or
        ``failed``, or by ``not_tried``.

        Args:
            topic: where the row goes.
            random: gives numbers from 0 up to 1.
        """
        if not self._topics:
            return None
        with self._lock:
            known = self._topics.get(topic)
            if known is None or known.closed_at is None:
                return None
            now = self._clock()
            if now >= known.probe_at:
                known.probe_at = now + self._patience
                return None
            closed_for = now - known.closed_at
            longest = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, closed_for))
            # Two digits: marks that share their values make a short statement.
            pause = float(f"{longest * (0.5 + random() / 2):.2g}")
            return HoldBack(min(LONGEST_PAUSE, pause), known.why)

    def not_tried(self, topic: str) -> None:
        """Note that a row which might go out did not: the next one is the probe."""
        if not self._topics:
            return
        with self._lock:
            known = self._topics.get(topic)
            if known is not None:
                known.probe_at = self._clock()
