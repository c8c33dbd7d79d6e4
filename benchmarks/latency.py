"""How long a call and its result take: ``python -m benchmarks latency``."""

import threading
import time

from collections.abc import Callable, Iterator
from typing import Final

from benchmarks import ours
from benchmarks.brokers import Broker, Destination
from benchmarks.events import envelope, note
from benchmarks.figures import Measured, MeasuredRun, ratio
from benchmarks.minimum import minimum
from benchmarks.pacing import histogram, paced, percentiles
from benchmarks.parts import Part, Settings
from benchmarks.tally import PATIENCE, Tally
from eventbus_sync import EventBus, ResultChannelClosed


_DESCRIPTION: Final = """\
Latency of the publishing call and of the result, from 4 threads: flat out, and paced at
20, 200 and 2,000 calls a second in all. At a slow pace caches and cores are cold, so
beside the bus stands the bare minimum in the same run, in turns: json.dumps and
producer.produce, or json.dumps, an append to a deque and one call_soon_threadsafe per
burst. No headers, no event id of its own, no outcome.

  call    from making the event (Envelope, or json.dumps) until the call returns
  result  from the same moment until the reader thread holds the PublishResult

The histogram counts calls by the power of two of µs that they took less than.
"""

#: Calls a second in all; 0 is flat out.
RATES: Final = (0, 20, 200, 2000)


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield figures of each broker."""
    for opened in settings.each_broker(once_per_kind=True):
        with opened as broker:
            for rate in RATES:
                yield from _at(broker, rate, settings)


def _at(broker: Broker, rate: int, settings: Settings) -> Iterator[Measured]:
    pace = f"paced {rate:,}/s" if rate else "flat out"
    rounds = settings.rounds()
    seconds = 0.5 if settings.quick else 4.0
    count = settings.pick(20_000, 5000)
    if rate:
        count = min(count, max(10, int(rate * seconds)))
    kind = broker.kind
    call = Measured(f"call, {pace}", broker.title, "µs p50")
    result = Measured(f"call to result, {pace}", broker.title, "µs p50")
    bare = Measured(f"bare minimum call, {pace}", broker.title, "µs p50")
    if not rate:
        call.target = "T5 flat out"
    if rate == 20:  # noqa: PLR2004 - the target's pace
        result.target = f"T6 {kind}"
    to = broker.destination()
    calls: list[float] = []
    results: list[float] = []
    others: list[float] = []
    with ours.connected(to) as bus, minimum(broker, to) as least:
        paced(least, 0, 200, 0)
        _ours(bus, to, 0, 200, 0)
        first = 200
        for _ in range(rounds):
            tally, took, came = _ours(bus, to, rate, count, first)
            calls += took
            results += came
            balanced = tally.balanced(count)
            _add(call, took).note(str(tally), balanced=balanced)
            _add(result, came).note(str(tally), balanced=balanced)
            spent = _timed(least, rate, count, first)
            others += spent
            _add(bare, spent).note(f"{count:,} calls", balanced=True)
            first += count
    to.remove()
    call.histogram, result.histogram = histogram(calls), histogram(results)
    bare.histogram = histogram(others)
    yield from (call, result, bare)
    target = "T5 paced" if rate == 200 else ""  # noqa: PLR2004 - the target's pace
    yield ratio(f"call / bare minimum, {pace}", call, bare, target)


def _add(measured: Measured, seconds: list[float]) -> MeasuredRun:
    """Keep the percentiles of one round."""
    found = percentiles(seconds)
    return measured.add_value(found["p50 µs"], **found)


def _timed(
    call: Callable[[int], None], rate: int, count: int, first: int
) -> list[float]:
    """Return how long each call took."""
    spent: list[float] = []

    def timed(number: int) -> None:
        before = time.perf_counter()
        call(number)
        spent.append(time.perf_counter() - before)

    paced(timed, rate, count, first)
    return spent


def _ours(
    bus: EventBus, to: Destination, rate: int, count: int, first: int
) -> tuple[Tally, list[float], list[float]]:
    """Return the books, and how long calls and results took."""
    tally, text, channel = Tally(), note(40), bus.get_publish_result_channel()
    started: dict[str, float] = {}
    spent: list[float] = []
    came: dict[str, float] = {}

    def call(number: int) -> None:
        before = time.perf_counter()
        event_id = bus.publish_envelope(to.topic, envelope(number, text))
        spent.append(time.perf_counter() - before)
        started[event_id] = before

    def read() -> None:
        while len(came) < count:
            try:
                results = channel.get_many(1000, PATIENCE)
            except ResultChannelClosed:
                return
            now = time.perf_counter()
            if not results:
                return
            for one in results:
                came[one.event_id] = now
                if one.success:
                    tally.acked += 1
                else:
                    tally.failed += 1

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    paced(call, rate, count, first)
    reader.join()
    tally.accepted = len(started)
    return tally, spent, [came[one] - started[one] for one in came if one in started]


PART: Final = Part(
    "latency",
    "of the call and of the result, beside the bare minimum",
    _DESCRIPTION,
    measure,
)
