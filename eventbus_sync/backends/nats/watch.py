"""
What happens by the clock: deadlines, lost answers, probes, another look at the stream.
"""

import asyncio
import time

from collections.abc import Callable

from eventbus_sync.backends.base import Sink
from eventbus_sync.errors import BackendFailed


#: Seconds between two looks at the clock, while there is something to look after and
#: while there is not: each wakes a thread, and an idle bus should cost nothing. Outcomes
#: may be two seconds late, of which the table of events in flight takes 1.5.
TICK, IDLE_TICK = 0.2, 0.4


class Watch:
    """
    Calls what is due a few times a second, whatever else goes wrong.

    Args:
        sink: is told what failed.
        busy: says whether there is something to look after.
        jobs: are called at each tick, with the time.
    """

    def __init__(
        self, sink: Sink, busy: Callable[[], bool], *jobs: Callable[[float], None]
    ) -> None:
        self._sink = sink
        self._busy = busy
        self._jobs = jobs
        self._failed: set[str] = set()

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(TICK if self._busy() else IDLE_TICK)
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Do what is due; a job that fails is reported once for each text."""
        for job in self._jobs:
            try:
                job(now)
            except Exception as exc:  # noqa: BLE001 - the other jobs must go on
                if repr(exc) not in self._failed:
                    self._failed = {repr(exc)}
                    self._sink.report(failure(exc))


def failure(exc: Exception) -> BackendFailed:
    """Return *exc*, which nobody expected, as one of our errors."""
    failed = BackendFailed(f"the NATS loop failed and goes on: {exc!r}")
    failed.__cause__ = exc
    return failed
