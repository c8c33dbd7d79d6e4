"""One line that shows how a run is getting on."""

import time

from collections import deque
from collections.abc import Sequence
from typing import TextIO

from eventbus_sync.demo.report import Paper


#: Seconds over which the shown rate is taken.
RATE_WINDOW = 1.0
#: Seconds between two lines where a line cannot be written over.
PLAIN_INTERVAL = 1.0

_WIPE = "\r\x1b[K"


class Progress:
    """
    Writes over one line on a terminal; elsewhere now and then a line of its own.

    Args:
        stream: where to; standard error, so that figures can be piped.
        interval: seconds between two lines where a line cannot be written over.
    """

    def __init__(self, stream: TextIO, interval: float = PLAIN_INTERVAL) -> None:
        self._interval = interval
        self._stream = stream
        self._paper = Paper.of(stream)
        self._live = self._paper.live
        self._seen: deque[tuple[float, int]] = deque()
        self._written_at = float("-inf")
        self._note = ""

    def show(
        self, name: str, settled: int, events: int, in_flight: int, note: str
    ) -> None:
        """
        Show how far a run is.

        Args:
            name: which.
            settled: results that were read.
            events: how many there will be.
            in_flight: events without an outcome.
            note: what is happening to the broker, "" for nothing.
        """
        now = time.monotonic()
        rate = self._rate(now, settled)
        # What is cut off on a narrow terminal matters least.
        parts = [
            f"{name}  {settled:>{len(f'{events:,}')},} of {events:,}",
            note,
            f"{rate:>7,.0f}/s",
            f"{in_flight:>6,} in flight",
        ]
        self.line(parts, note)

    def line(self, parts: Sequence[str], note: str) -> None:
        """
        Show *parts* on the line that moves.

        Args:
            parts: the most important first; empty ones are left out.
            note: where a line cannot be written over, a new one says so at once.
        """
        now = time.monotonic()
        text = "  ".join(part for part in parts if part)
        if self._live:
            self._write(f"{_WIPE}{self._clipped(text)}")
        elif now >= self._written_at + self._interval or note != self._note:
            self._written_at, self._note = now, note
            self._write(f"{self._paper.text(text)}\n")

    def say(self, text: str) -> None:
        """Show something that takes a moment."""
        if self._live:
            self._write(f"{_WIPE}{self._clipped(text)}")
        else:
            self._write(f"{self._paper.text(text)}\n")

    def warn(self, text: str) -> None:
        """Leave a line that stays."""
        wipe = _WIPE if self._live else ""
        self._write(f"{wipe}{self._paper.text(text)}\n")

    def clear(self) -> None:
        """Leave no line behind; the next run starts afresh."""
        if self._live:
            self._write(_WIPE)
        self._seen.clear()
        self._written_at, self._note = float("-inf"), ""

    def _rate(self, now: float, settled: int) -> float:
        seen = self._seen
        seen.append((now, settled))
        while len(seen) > 2 and seen[1][0] <= now - RATE_WINDOW:  # noqa: PLR2004
            seen.popleft()
        then, before = seen[0]
        return (settled - before) / (now - then) if now > then else 0.0

    def _clipped(self, text: str) -> str:
        # A line as wide as the terminal would wrap, and could not be written over.
        return self._paper.text(text)[: self._paper.width - 1]

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
