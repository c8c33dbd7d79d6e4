"""One run of publishing: its clock, its threads, and its books."""

import threading
import time

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import attrs

from benchmarks.brokers import Destination
from benchmarks.events import Work


#: Seconds without any result after which a run has failed; its books say how.
PATIENCE: Final = 60.0


@attrs.define
class Tally:
    """
    What became of the events of one run.

    Attributes:
        accepted: publishes that returned.
        acked, failed: outcomes that the reader got.
        dropped: outcomes for which the queue had no room.
        stored: messages at the broker afterwards; None if nobody looked.
        seconds: from the first publish until the reader has the last outcome.
        cpu: seconds of this process meanwhile, all threads.
    """

    accepted: int = 0
    acked: int = 0
    failed: int = 0
    dropped: int = 0
    stored: int | None = None
    seconds: float = 0.0
    cpu: float = 0.0

    def balanced(self, events: int) -> bool:
        """Whether all *events* were accepted, acked, read, and are stored once."""
        return (
            self.accepted == self.acked == events
            and not (self.failed or self.dropped)
            and self.stored in {None, events}
        )

    def __str__(self) -> str:
        text = f"{self.accepted:,} accepted = {self.acked:,} acked"
        text += f" + {self.failed:,} not acked + {self.dropped:,} dropped"
        return text if self.stored is None else f"{text}; {self.stored:,} stored"


class Stopwatch:
    """Adds wall clock and CPU time to a tally: ``with Stopwatch(tally): …``."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tally.seconds += time.perf_counter() - self._wall
        self._tally.cpu += time.process_time() - self._cpu


#: Publishes the work to a destination in some way and tells what became of it.
Runner = Callable[[Destination, Work], Tally]


def in_threads(
    publish: Callable[[int], None], threads: int, *others: Callable[[], None]
) -> None:
    """Run ``publish(0)``, ``publish(1)`` … and *others* at once; wait for all."""
    failures: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                target()
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)

        return run

    jobs = [guarded(job) for job in others]
    jobs += [guarded(lambda k=number: publish(k)) for number in range(threads)]  # type: ignore[misc]
    running = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]
