"""What a bus costs that has nothing to do: ``python -m benchmarks idle``."""

import time

from collections.abc import Iterator
from typing import Final

from benchmarks import ours
from benchmarks.events import envelope
from benchmarks.figures import Measured
from benchmarks.parts import Part, Settings


_DESCRIPTION: Final = """\
CPU of a process whose bus is connected and has published once, in per cent of one core.
"""


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield figures of each broker."""
    seconds = 1.0 if settings.quick else 10.0
    for opened in settings.each_broker(once_per_kind=True):
        with opened as broker:
            to = broker.destination()
            found = Measured("idle bus", broker.title, "% of a core", target="T10")
            with ours.connected(to) as bus:
                bus.publish_envelope(to.topic, envelope(0, ""))
                bus.flush()
                time.sleep(min(1.0, seconds))
                for _ in range(settings.rounds(full=3)):
                    wall, cpu = time.perf_counter(), time.process_time()
                    time.sleep(seconds)
                    used = time.process_time() - cpu
                    run = found.add_value(100 * used / (time.perf_counter() - wall))
                    stats = bus.stats()
                    run.note("1 event before, none now", balanced=stats.acked == 1)
            to.remove()
            yield found


PART: Final = Part("idle", "CPU of a bus with nothing to do", _DESCRIPTION, measure)
