"""What one run of the demo saw: every event published, every result, every duration."""

from array import array
from collections import Counter

import attrs


def _seconds() -> "array[float]":
    return array("d")


@attrs.define(eq=False)
class PublisherLog:
    """
    What one publishing thread saw; only that thread writes it.

    Attributes:
        accepted: event ids in the order in which ``publish_envelope`` returned them.
        calls: seconds that each call took, refused ones included.
        waited: calls that ended in ``BackendBusy`` and were made again.
    """

    accepted: list[str] = attrs.field(factory=list)
    calls: "array[float]" = attrs.field(factory=_seconds)
    waited: int = 0


@attrs.define(eq=False)
class ReaderLog:
    """
    What the reading thread saw; only that thread writes it.

    Attributes:
        acked, rejected, unknown: event ids by outcome, in the order of arrival.
        codes: how often which error code came.
        latencies: seconds from acceptance to outcome, as the results tell them.
        repeats: acks that said "stored before": a retry that the broker recognised.
        ended_at: when the last results arrived, on ``time.perf_counter``.
    """

    acked: list[str] = attrs.field(factory=list)
    rejected: list[str] = attrs.field(factory=list)
    unknown: list[str] = attrs.field(factory=list)
    codes: Counter[str] = attrs.field(factory=Counter)
    latencies: "array[float]" = attrs.field(factory=_seconds)
    repeats: int = 0
    ended_at: float = 0.0


@attrs.define(eq=False)
class Journal:
    """
    Everything that one run saw, to be read when its threads have ended.

    Attributes:
        publishers: one log for each publishing thread.
        reader: of the one reading thread.
        started_at: when the first thread began, on ``time.perf_counter``.
        failures: what ended a thread early, in words.
    """

    publishers: list[PublisherLog]
    reader: ReaderLog = attrs.field(factory=ReaderLog)
    started_at: float = 0.0
    failures: list[str] = attrs.field(factory=list)

    @property
    def accepted(self) -> int:
        """How many events were accepted so far; may be read while they come."""
        return sum(len(log.accepted) for log in self.publishers)

    @property
    def settled(self) -> int:
        """How many results were read so far; may be read while they come."""
        reader = self.reader
        return len(reader.acked) + len(reader.rejected) + len(reader.unknown)

    @property
    def waited(self) -> int:
        """How many calls found no room and were made again."""
        return sum(log.waited for log in self.publishers)

    @property
    def seconds(self) -> float:
        """Seconds from the first publish to the last result; 0.0 without a result."""
        return max(0.0, self.reader.ended_at - self.started_at)
