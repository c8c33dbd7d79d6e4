"""The status line of ``relay``: written over on a terminal; it never holds anything up."""

import contextlib
import os
import threading
import time

from typing import TYPE_CHECKING, Final, TextIO

from eventbus_sync._threads import spawn


if TYPE_CHECKING:
    from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
    from eventbus_sync.outbox import OutboxRelay, OutboxStats

#: Seconds between two status lines.
INTERVAL: Final = 1.0
#: Seconds between two questions to the database; more if it is slow to answer, so that
#: at most so small a part of its time goes into counting rows.
ASK: Final = 5.0
_ASK_SHARE: Final = 0.05
_WIPE: Final = "\r\x1b[K"


class Status:
    """
    One line that is written over, on a terminal; elsewhere only what matters.

    A thread of its own asks the database, which may take its time over a large table:
    signals do not wait for it. A terminal that goes away is no reason to end.
    """

    def __init__(
        self, stream: TextIO, relay: "OutboxRelay", outbox: "SqlAlchemyOutbox"
    ) -> None:
        self._stream = stream
        self._relay = relay
        self._outbox = outbox
        self._gone = False
        self._live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown_at = self._ask_at = float("-inf")
        self._asking: threading.Thread | None = None
        self._rows: OutboxStats | None = None

    def show(self) -> None:
        """Write the line, now and then."""
        now = time.monotonic()
        if self._gone or not self._live or now - self._shown_at < INTERVAL:
            return
        self._shown_at = now
        if now >= self._ask_at and (
            self._asking is None or not self._asking.is_alive()
        ):
            self._ask_at = now + ASK
            self._asking = spawn("relay-status", self._ask)
        columns = 80
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(self._stream.fileno()).columns or columns
        self._write(_WIPE + self._line(columns))

    def say(self, text: str) -> None:
        """Say something that stays."""
        self._write((_WIPE if self._live else "") + text + "\n")

    def _ask(self) -> None:
        began = time.monotonic()
        with contextlib.suppress(Exception):  # an outage: the relay says so itself
            self._rows = self._outbox.stats(settled=False)
        took = time.monotonic() - began
        self._ask_at = max(self._ask_at, began + took / _ASK_SHARE)

    def _line(self, width: int) -> str:
        stats = self._relay.stats()
        parts = [
            f"{stats.published:,} published",
            f"{stats.rate:,.0f}/s",
            f"{stats.in_flight:,} in flight",
        ]
        if stats.breaker == "open":
            parts.insert(0, "broker out of reach")
        if self._rows is not None:
            parts += [f"{self._rows.pending:,} pending"]
            parts += [f"oldest {self._rows.oldest_age:,.0f} s"]
            parts += [f"{self._rows.dead:,} dead"] if self._rows.dead else []
        return "  ".join(parts)[: max(20, width - 1)]

    def _write(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a terminal that was closed; a closed stream
            self._gone = True
