"""Where the time of one event goes, step by step: ``python -m benchmarks steps``."""

import json
import time

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs

from benchmarks import nats_steps
from benchmarks.events import envelope, note, payload
from benchmarks.figures import Measured
from benchmarks.parts import Part, Settings
from eventbus_sync import EventBus
from eventbus_sync.backends.base import (
    Ack,
    Delivery,
    OutgoingMessage,
    Settlement,
    Sink,
)
from eventbus_sync.config import BusConfig


_DESCRIPTION: Final = """\
The path of one event without a driver and a broker, one thread, step by step: CPU time
of the thread that takes the step. The back end here keeps what it is given, and gives it
back to be settled a thousand at a time; so what is measured is the bus alone.

  json.dumps of the payload   what everybody pays, by hand too; part of the next line
  Envelope(...)               checks, event id, timestamp, payload as JSON
  publish_envelope            body and headers as bytes, limits, the record in flight
  settle                      that record found, a PublishResult made, into the channel
  get_many                    out of the channel, a thousand at a time
  one event in all            the sum of the four

And what the loop thread of the NATS back end does besides, without a network:

  NATS: written               off the hand-over, into the table, as bytes of the protocol
  NATS: acknowledged          out of the bytes of a server, into a chunk for a worker
"""

_STEPS: Final = (
    "json.dumps of the payload",
    "Envelope(...)",
    "publish_envelope",
    "settle",
    "get_many",
    "one event in all",
    "NATS: written",
    "NATS: acknowledged",
)
_CHUNK: Final = 1000
_PAYLOAD: Final = 290


class _Kept:
    """A back end that keeps deliveries until it is told to settle them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.kept: list[Settlement] = []
        self._ack = Ack(0, 0)

    def settle(self) -> None:
        for start in range(0, len(self.kept), _CHUNK):
            self._sink.settle(self.kept[start : start + _CHUNK])
        self.kept.clear()

    def send(self, _: OutgoingMessage, delivery: Delivery, __: object) -> None:
        self.kept.append((delivery, self._ack))

    def send_plain(self, _: OutgoingMessage, __: object) -> None: ...
    def start(self) -> None: ...
    def check(self, _: object) -> None: ...
    def check_topic(self, _: str) -> None: ...
    def check_headers(self, _: Sequence[tuple[str, str]]) -> None: ...
    def close(self, _: object) -> None: ...


@attrs.frozen(kw_only=True)
class _Config(BusConfig):
    made: list[_Kept] = attrs.field(factory=list)

    def make_backend(self, sink: Sink) -> _Kept:
        self.made.append(_Kept(sink))
        return self.made[-1]


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield the cost of each step."""
    count = settings.pick(full=50_000, quick=5_000)
    found = {name: Measured(name, "one thread", "µs CPU") for name in _STEPS}
    config = _Config(result_capacity=count, max_in_flight=count)
    with EventBus(config) as bus:
        for _ in range(settings.rounds(full=7, quick=2)):
            costs = _round(bus, config.made, count)
            costs.append(sum(costs[1:]))
            costs += nats_steps.costs(count, _PAYLOAD)
            stats = bus.stats()
            for name, cost in zip(_STEPS, costs, strict=True):
                run = found[name].add_value(cost)
                run.note(f"{stats.acked:,} acked", balanced=stats.balanced)
    yield from found.values()


def _round(bus: EventBus, made: list[_Kept], count: int) -> list[float]:
    """Return the microseconds of each step, for one event."""
    text, publish = note(_PAYLOAD), bus.publish_envelope
    events: list[Any] = []

    def dump() -> None:
        for number in range(count):
            json.dumps(payload(number, text), separators=(",", ":"))

    def make() -> None:
        events.extend(envelope(number, text) for number in range(count))

    def hand_over() -> None:
        for event in events:
            publish("benchmark", event)

    def read() -> None:
        take = bus.get_publish_result_channel().get_many
        left = count
        while left:
            left -= len(take(_CHUNK))

    costs = [_cost(dump, count), _cost(make, count), _cost(hand_over, count)]
    return [*costs, _cost(made[0].settle, count), _cost(read, count)]


def _cost(step: Callable[[], None], count: int) -> float:
    began = time.thread_time()
    step()
    return (time.thread_time() - began) / count * 1e6


PART: Final = Part(
    "steps",
    "where the time of one event goes",
    _DESCRIPTION,
    measure,
    uses_brokers=False,
)
