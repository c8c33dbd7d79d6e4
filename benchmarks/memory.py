"""
Memory of events in flight: ``python -m benchmarks memory``.

Each figure comes from a process of its own, since memory that was used once is hardly
ever given back: ``python -m benchmarks.memory URL TOPIC EVENTS`` publishes that many
events to a broker that stands still, and says as JSON what they took.
"""

import gc
import json
import subprocess
import sys

from collections.abc import Iterator
from typing import Final

from benchmarks import ours
from benchmarks.brokers import Broker, Destination
from benchmarks.events import envelope, note
from benchmarks.figures import Measured
from benchmarks.growth import resident
from benchmarks.parts import Part, Settings


_DESCRIPTION: Final = """\
Resident memory of a process with 100,000 events in flight, at a broker that stands still
(SIGSTOP), per event and without the bytes of the event itself. A new process for each
run; the driver's own memory is part of it. Afterwards the broker goes on, and all of the
events have to be acked.
"""

_TIMEOUT: Final = 180.0


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield figures of each broker that can stand still."""
    events = settings.pick(100_000, 20_000)
    for opened in settings.each_broker(once_per_kind=True):
        with opened as broker:
            if broker.server is None:
                continue
            name = f"memory per event, {events:,} in flight"
            found = Measured(name, broker.title, "B", target="T8 in flight")
            for _ in range(settings.rounds(full=3)):
                _one(broker, events, found)
            yield found


def _one(broker: Broker, events: int, found: Measured) -> None:
    assert broker.server is not None  # noqa: S101 - the caller has looked
    to = broker.destination()
    command = [sys.executable, "-m", "benchmarks.memory", to.url, to.topic, str(events)]
    with subprocess.Popen(  # noqa: S603 - this very program
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - piped
        assert process.stdin is not None  # noqa: S101
        process.stdout.readline()  # connected
        broker.server.freeze()
        try:
            process.stdin.write("\n")
            process.stdin.flush()
            said = json.loads(process.stdout.readline())
        finally:
            broker.server.resume()
        books = json.loads(process.stdout.readline())
    run = found.add_value(said["bytes"] - said["payload"], **said)
    right = books["acked"] == events == said["in flight"]
    run.note(
        f"{said['in flight']:,} in flight, then {books['acked']:,} acked",
        balanced=right,
    )
    to.remove()


def _process(url: str, topic: str, events: int) -> None:
    """Publish to a broker that stands still, between two lines."""
    to = Destination(url, (topic,), list, lambda: None)
    text = note(40)
    # None of what happens here may time out while the broker stands still.
    with ours.connected(to, delivery_timeout=_TIMEOUT, max_in_flight=2 * events) as bus:
        for number in range(100):  # code and caches are not to be counted
            bus.publish_envelope(topic, envelope(number, text))
        bus.flush()
        _say({})
        sys.stdin.readline()
        gc.collect()
        before, payload = resident(), 0
        for number in range(events):
            event = envelope(number, text)
            payload += len(event.to_bytes())
            bus.publish_envelope(topic, event)
        gc.collect()
        took = (resident() - before) / events
        in_flight = bus.stats().in_flight
        _say({"bytes": took, "payload": payload / events, "in flight": in_flight})
        bus.flush(_TIMEOUT)
        _say({"acked": bus.stats().acked - 100})


def _say(what: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


PART: Final = Part(
    "memory", "of events in flight, above their own bytes", _DESCRIPTION, measure
)

if __name__ == "__main__":
    _process(sys.argv[1], sys.argv[2], int(sys.argv[3]))
