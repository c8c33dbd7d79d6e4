"""Calls at a steady pace from several threads, each of them timed."""

import math
import statistics
import time

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.tally import in_threads


#: Threads that publish.
THREADS: Final = 4


def paced(call: Callable[[int], None], rate: float, count: int, first: int) -> None:
    """
    Call *call* *count* times from all threads, *rate* times a second in all.

    Args:
        call: takes the number of the call.
        rate: 0 is as fast as can be.
        count: of calls, all threads together.
        first: the number of the first call.
    """
    start = time.perf_counter() + (0.05 if rate else 0.0)

    def run(thread: int) -> None:
        for number in range(thread, count, THREADS):
            if rate:
                wait = start + number / rate - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
            call(first + number)

    in_threads(run, THREADS)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p90 and p99 in µs."""
    if len(seconds) < 2:  # noqa: PLR2004 - no percentiles of one
        seconds = [*seconds, *seconds] or [0.0, 0.0]
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{percent} µs": cuts[percent - 1] * 1e6 for percent in (50, 90, 99)}


def histogram(seconds: Sequence[float]) -> dict[str, int]:
    """Return how many calls took less than each power of two of µs."""
    powers = Counter(max(0, math.ceil(math.log2(max(1e-7, s) * 1e6))) for s in seconds)
    if not powers:
        return {}
    return {
        f"{2**power}": powers[power] for power in range(min(powers), max(powers) + 1)
    }
