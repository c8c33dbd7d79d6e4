"""Does an event get dearer as a run grows? ``python -m benchmarks growth``."""

import contextlib
import functools
import os
import threading
import time

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks import ours
from benchmarks.brokers import Broker
from benchmarks.events import Work
from benchmarks.figures import Measured
from benchmarks.parts import Part, Settings
from eventbus_sync import EventBus


_DESCRIPTION: Final = """\
One bus publishes 1,000,000 events (with --quick 200,000) in one go. Every so often wall
clock, CPU and resident memory are read: the CPU that an event of the last quarter takes,
as a ratio to one of the first quarter, whose first 10,000 events are left out as warm-up;
and how much memory the process gained over the last three quarters, per event.
"""

_LOOK: Final = 0.05
_WARM_UP: Final = 10_000
_QUARTERS: Final = 4
# Fewer than by default, so that publishers are not far ahead of the broker, and a quarter
# of the events is a quarter of the work.
_IN_FLIGHT: Final = 10_000
#: Events, seconds of CPU, bytes of memory.
Sample = tuple[int, float, int]


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield figures of each broker."""
    work = Work(settings.pick(1_000_000, 100_000))
    for opened in settings.each_broker(once_per_kind=True):
        with opened as broker:
            yield from _one(broker, work, settings)


def _one(broker: Broker, work: Work, settings: Settings) -> Iterator[Measured]:
    name = f"{work.events:,} events in one run"
    rate = Measured(name, broker.title)
    flat = Measured("CPU, last quarter / first", broker.title, "x", target="T9")
    memory = Measured("memory gained per event", broker.title, "B", target="T8 growth")
    for _ in range(settings.rounds(full=1)):
        to = broker.destination()
        samples: list[Sample] = []
        over = threading.Event()
        with ours.connected(to, max_in_flight=_IN_FLIGHT) as bus:
            look = functools.partial(_look, bus, samples)

            def watch(look: Callable[[], None] = look) -> None:
                while not over.wait(_LOOK):  # noqa: B023 - joined below
                    look()

            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            tally = ours.publish_on(bus, to, work)
            over.set()
            watcher.join()
            look()
        to.remove()
        cpu = {"µs CPU/event": tally.cpu / work.events * 1e6}
        books, balanced = str(tally), tally.balanced(work.events)
        rate.add_run(work.events, tally.seconds, **cpu).note(books, balanced=balanced)
        first, last = _quarter(samples, 0, work), _quarter(samples, 3, work)
        of = {"first µs": first, "last µs": last}
        flat.add_value(last / first if first else 0.0, **of).note(
            books, balanced=balanced
        )
        gained = max(0.0, _memory(samples, work))
        memory.add_value(gained).note(books, balanced=balanced)
    yield from (rate, flat, memory)


def _look(bus: EventBus, samples: list[Sample]) -> None:
    stats = bus.stats()
    # Half of an event's work is done when it is accepted, half when it is acked.
    progress = (stats.accepted + stats.acked) // 2
    samples.append((progress, time.process_time(), resident()))


def _quarter(samples: list[Sample], quarter: int, work: Work) -> float:
    """Return the µs of CPU of an event in one quarter of the run."""
    size = work.events / _QUARTERS
    low = max(min(_WARM_UP, size / 2), quarter * size)
    (a, a_cpu, _), (b, b_cpu, _) = (
        _at(samples, low),
        _at(samples, (quarter + 1) * size),
    )
    return (b_cpu - a_cpu) / max(1, b - a) * 1e6


def _memory(samples: list[Sample], work: Work) -> float:
    """Return the bytes gained per event, from the first quarter's end to the last."""
    # The highest of each: what is in flight goes up and down.
    first = max(m for n, _, m in samples if n <= _at(samples, work.events / 2)[0])
    last = max(m for _, _, m in samples)
    return (last - first) / (work.events / 2)


def _at(samples: list[Sample], events: float) -> Sample:
    return next((one for one in samples if one[0] >= events), samples[-1])


def resident() -> int:
    """Return the bytes of memory that this process has; 0 where nobody can tell."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


PART: Final = Part(
    "growth", "cost and memory of an event as a run grows", _DESCRIPTION, measure
)
