"""What goes wrong in a relay: logged now and then, and remembered for ``stats``."""

import logging
import threading
import time

from typing import Final


logger = logging.getLogger("eventbus_sync")

#: Seconds between two log lines about the same kind of trouble.
LOG_INTERVAL: Final = 10.0
#: Kinds of trouble remembered at most: each topic that is closed off is one.
_MOST_KINDS: Final = 1000


class Trouble:
    """The last error, and a log that an outage cannot flood. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._said_at: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        self._last: tuple[Exception, float] | None = None

    def note(
        self,
        what: str,
        error: Exception,
        *,
        detail: str = "",
        unforeseen: bool = False,
    ) -> None:
        """
        Remember *error*, and log it unless the same was logged a moment ago.

        Args:
            what: was being done; the same trouble has the same text.
            error: what came of it.
            detail: at what it happened.
            unforeseen: log where in the code it happened, too.
        """
        now = time.monotonic()
        with self._lock:
            self._last = (error, now)
            unsaid = self._unsaid_locked(what, now)
        if unsaid is None:
            return
        more = f" ({unsaid} more since the last line)" if unsaid else ""
        logger.warning(
            "%s: %s%s: %s: %s%s",
            self._name,
            what,
            f" ({detail})" if detail else "",
            type(error).__name__,
            error,
            more,
            exc_info=error if unforeseen else None,
        )

    def over(self, what: str) -> None:
        """Log that some trouble is over, unless the same was logged a moment ago."""
        with self._lock:
            unsaid = self._unsaid_locked(what, time.monotonic())
        if unsaid is not None:
            # A warning, too: who saw the trouble has to see that it is over.
            logger.warning("%s: %s", self._name, what)

    def _unsaid_locked(self, what: str, now: float) -> int | None:
        """Return how many lines were left out before this one; None: leave it out."""
        if now - self._said_at.get(what, float("-inf")) < LOG_INTERVAL:
            self._unsaid[what] = self._unsaid.get(what, 0) + 1
            return None
        # To the end, so that those go first that were not logged for long.
        self._said_at.pop(what, None)
        self._said_at[what] = now
        unsaid = self._unsaid.pop(what, 0)
        while len(self._said_at) > _MOST_KINDS:
            oldest = next(iter(self._said_at))
            del self._said_at[oldest]
            self._unsaid.pop(oldest, None)
        return unsaid

    def last(self) -> tuple[Exception | None, float | None]:
        """Return the last error and how many seconds ago it was."""
        with self._lock:
            if self._last is None:
                return None, None
            error, at = self._last
            return error, time.monotonic() - at
