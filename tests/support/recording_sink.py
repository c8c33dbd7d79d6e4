"""A sink that remembers everything, for tests of one back end without a bus."""

import collections
import threading
import time

from collections.abc import Callable, Sequence

from eventbus_sync.backends.base import Ack, Delivery, Settlement
from eventbus_sync.errors import EventBusError, PublishError


class Sent:
    """A delivery as a test makes it: its number in the order of sending, and its age."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.accepted_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<sent {self.number}>"


class RecordingSink:
    """
    Remembers what a back end tells. Thread-safe.

    Attributes:
        on_settle: called with every chunk before it is recorded; may raise.
        chunks: how many deliveries each call of ``settle`` had.
        states: True for each ``connected``, the error for each ``disconnected``.
        reports: what ``report`` was given.
        logs: levels and texts.
        expired: how often ``expire`` was called.
        oldest: what ``oldest_at`` says; a test sets it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[Delivery, list[Ack | PublishError]]
        self._outcomes = collections.defaultdict(list)
        self.on_settle: Callable[[Sequence[Settlement]], None] = lambda _: None
        self.chunks: list[int] = []
        self.states: list[bool | EventBusError] = []
        self.reports: list[EventBusError] = []
        self.logs: list[tuple[int, str]] = []
        self.expired = 0
        self.oldest: float | None = None

    def settle(self, chunk: Sequence[Settlement]) -> None:
        self.on_settle(chunk)
        with self._lock:
            self.chunks.append(len(chunk))
            for delivery, said in chunk:
                self._outcomes[delivery].append(said)

    def expire(self) -> None:
        self.expired += 1

    def oldest_at(self) -> float | None:
        return self.oldest

    def connected(self) -> None:
        self.states.append(True)

    def disconnected(self, error: EventBusError) -> None:
        self.states.append(error)

    def report(self, error: EventBusError) -> None:
        self.reports.append(error)

    def log(self, level: int, text: str) -> None:
        self.logs.append((level, text))

    # -- for the test ------------------------------------------------------------------

    def of(self, delivery: Delivery) -> list[Ack | PublishError]:
        """Everything that was said of one delivery; more than one thing is a fault."""
        with self._lock:
            return list(self._outcomes.get(delivery, ()))

    def settled(self) -> int:
        """How many deliveries have an outcome."""
        with self._lock:
            return len(self._outcomes)

    def acked(self) -> int:
        """How many deliveries were acknowledged."""
        with self._lock:
            return sum(isinstance(s[0], Ack) for s in self._outcomes.values())

    def repeats(self) -> int:
        """How many deliveries were settled more than once."""
        with self._lock:
            return sum(len(said) > 1 for said in self._outcomes.values())

    def text(self) -> str:
        """Everything that was logged and reported, in one text."""
        lines = [text for _, text in self.logs]
        lines += [str(error) for error in (*self.reports, *self.states)]
        return "\n".join(lines)
