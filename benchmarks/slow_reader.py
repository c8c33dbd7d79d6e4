"""Nobody reads the results fast enough: ``python -m benchmarks slow-reader``."""

import logging
import threading

from collections.abc import Iterator
from typing import Final

from benchmarks import ours
from benchmarks.brokers import Broker
from benchmarks.events import Work, envelope, note
from benchmarks.figures import Measured, ratio
from benchmarks.parts import Part, Settings
from benchmarks.tally import PATIENCE, Stopwatch, Tally, in_threads
from eventbus_sync import EventBus, ResultChannelClosed


_DESCRIPTION: Final = """\
The rate of publishing until the last event is settled, with a reader that takes all
there is, and with one that takes a single result every 10 ms while the channel, of 1,000
places, is full: overflow="drop" has to drop and count without slowing publishers down.
Both take turns.
"""

_CAPACITY: Final = 1000
_NAP: Final = 0.01


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield figures of each broker."""
    work = Work(settings.pick(50_000, 10_000))
    # That results are dropped is what is wanted here.
    logging.getLogger("eventbus_sync").setLevel(logging.ERROR)
    for opened in settings.each_broker(once_per_kind=True):
        with opened as broker:
            fast = Measured("fast reader", broker.title)
            slow = Measured("slow reader, channel full", broker.title)
            _one(broker, Work(2000), Measured("", ""), slow=False)
            for _ in range(settings.rounds()):
                _one(broker, work, fast, slow=False)
                _one(broker, work, slow, slow=True)
            yield from (fast, slow, ratio("slow / fast reader", slow, fast, "T7"))


def _one(broker: Broker, work: Work, measured: Measured, *, slow: bool) -> None:
    to, text = broker.destination(), note(work.payload)
    over = threading.Event()
    tally = Tally()

    def read(bus: EventBus) -> None:
        channel = bus.get_publish_result_channel()
        while True:
            try:
                channel.get_many(1 if slow else _CAPACITY, PATIENCE)
            except ResultChannelClosed:
                return
            if slow:
                over.wait(_NAP)  # at the end it reads what is left without naps

    capacity = _CAPACITY if slow else 100_000
    with ours.connected(to, result_capacity=capacity) as bus:

        def run(thread: int) -> None:
            for number in work.share(thread):
                bus.publish_envelope(to.topic, envelope(number, text))

        reader = threading.Thread(target=read, args=(bus,), daemon=True)
        reader.start()
        with Stopwatch(tally):
            in_threads(run, work.threads)
            bus.flush(PATIENCE)
        over.set()
    reader.join(PATIENCE)
    stats = bus.stats()
    cpu = {"µs CPU/event": tally.cpu / work.events * 1e6, "dropped": stats.dropped}
    noted = measured.add_run(work.events, tally.seconds, **cpu)
    told = f"{stats.accepted:,} accepted = {stats.acked:,} acked = "
    told += f"{stats.taken:,} read + {stats.dropped:,} dropped"
    right = stats.acked == work.events == stats.taken + stats.dropped
    noted.note(told, balanced=stats.balanced and right and (slow or not stats.dropped))
    to.remove()


PART: Final = Part(
    "slow-reader", "publishing while the result channel is full", _DESCRIPTION, measure
)
