"""
Counts steps of an event: ``python -m benchmarks.counting_process``; says JSON.

Everything that time could decide is taken out: one publisher, one event at a time; or a
loop that is kept busy until all events, or all answers, are there.
"""

# Before anything that makes a lock.
from benchmarks import counted_locks  # isort: skip

counted_locks.install()

import asyncio  # noqa: E402
import concurrent.futures  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import tracemalloc  # noqa: E402

from collections.abc import Callable  # noqa: E402
from typing import Any, Final  # noqa: E402

from benchmarks.events import envelope, note  # noqa: E402
from eventbus_sync import EventBus, KafkaConfig, NatsConfig  # noqa: E402
from eventbus_sync.backends.base import Ack  # noqa: E402
from eventbus_sync.config import MemoryConfig  # noqa: E402
from eventbus_sync.testing import MemoryBus, NatsServer  # noqa: E402


_ONE_BY_ONE: Final = 300
_BURST: Final = 200
_HELD: Final = 2000
_TEXT: Final = note(40)
_TIMEOUT: Final = 30.0
# Nobody listens there.
_NOWHERE: Final = "127.0.0.1:1"


class Calls:
    """Counts calls of a method of a class."""

    def __init__(self, kind: type, name: str) -> None:
        self.count = 0
        original = getattr(kind, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.count += 1
            return original(*given, **named)

        setattr(kind, name, counted)


_wake_ups: Final = Calls(asyncio.BaseEventLoop, "call_soon_threadsafe")
_jobs: Final = Calls(concurrent.futures.ThreadPoolExecutor, "submit")


def main() -> dict[str, float]:
    """Return every counter by its name."""
    found: dict[str, float] = {}
    # That nobody listens is what is wanted here.
    logging.getLogger("eventbus_sync").setLevel(logging.CRITICAL)
    found |= _settling()
    found |= _held("kafka", lambda: EventBus(KafkaConfig(bootstrap_servers=_NOWHERE)))
    found |= _held("nats", lambda: EventBus(NatsConfig(servers=f"nats://{_NOWHERE}")))
    with NatsServer() as server:
        config = NatsConfig(servers=server.url, stream="COUNTED", storage="memory")
        with EventBus(config) as bus:
            bus.start()
            _one_after_the_other(bus, 50)
            found |= _one_by_one(bus)
            found |= _bursts(bus, server)
    return {name: round(value, 3) for name, value in found.items()}


def _publish(bus: EventBus, count: int) -> None:
    for number in range(count):
        bus.publish_envelope("counted", envelope(number, _TEXT))


def _settling() -> dict[str, float]:
    """Events that are settled in one chunk, by a broker in this process."""
    with MemoryBus(MemoryConfig()) as bus:
        _publish(bus, 10)
        bus.flush(_TIMEOUT)
        bus.get_publish_result_channel().get_many(100, 0)
        bus.broker.freeze()
        before = counted_locks.of_this_thread()
        _publish(bus, 1000)
        publishing = counted_locks.of_this_thread() - before
        runtime: Any = bus._runtime  # noqa: SLF001 - in the place of a back end
        chunk = [(event, Ack()) for event in runtime.in_flight._order]  # noqa: SLF001
        before = counted_locks.of_this_thread()
        runtime.settle(chunk)
        settling = counted_locks.of_this_thread() - before
        before = counted_locks.of_this_thread()
        read = bus.get_publish_result_channel().get_many(1000, 0)
        reading = counted_locks.of_this_thread() - before
    assert len(read) == 1000  # noqa: S101, PLR2004 - else the numbers mean nothing
    return {
        "memory: locks per publish": publishing / 1000,
        "settling: locks per chunk of 1,000": settling,
        "reader: locks per get_many of 1,000": reading,
    }


def _held(name: str, make: Callable[[], EventBus]) -> dict[str, float]:
    """What events in flight hold, and the locks of a call; no broker is there."""
    with make() as bus:
        _publish(bus, 100)
        time.sleep(0.2)
        gc.collect()
        gc.disable()
        locks, blocks = counted_locks.of_this_thread(), sys.getallocatedblocks()
        _publish(bus, _HELD)
        blocks = sys.getallocatedblocks() - blocks
        locks = counted_locks.of_this_thread() - locks
        gc.enable()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        _publish(bus, _HELD)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        bus.close(0)
    return {
        f"{name}: locks per publish": locks / _HELD,
        f"{name}: blocks per event in flight": round(blocks / _HELD, 1),
        f"{name}: bytes per event in flight": round((held - before) / _HELD),
    }


def _one_after_the_other(bus: EventBus, count: int) -> None:
    channel = bus.get_publish_result_channel()
    for number in range(count):
        bus.publish_envelope("counted", envelope(number, _TEXT))
        while not channel.qsize():  # without a lock of the bus's
            time.sleep(0.0002)
        assert channel.get().success  # noqa: S101 - else the numbers mean nothing


def _one_by_one(bus: EventBus) -> dict[str, float]:
    wake_ups, jobs = _wake_ups.count, _jobs.count
    _one_after_the_other(bus, _ONE_BY_ONE)
    return {
        "nats one by one: loop wake-ups per event": (_wake_ups.count - wake_ups)
        / _ONE_BY_ONE,
        "nats one by one: executor jobs per event": (_jobs.count - jobs) / _ONE_BY_ONE,
    }


def _bursts(bus: EventBus, server: NatsServer) -> dict[str, float]:
    """Events, and then answers, that the loop finds all at once; medians of three."""
    found = [_burst(bus, server) for _ in range(3)]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _burst(bus: EventBus, server: NatsServer) -> dict[str, float]:
    loop = _loop_of(bus)
    server.freeze()
    release = _keep_busy(loop)
    wake_ups = _wake_ups.count
    _publish(bus, _BURST)
    wake_ups = _wake_ups.count - wake_ups
    release()
    time.sleep(0.2)  # all are written
    release = _keep_busy(loop)
    server.resume()
    time.sleep(0.3)  # all answers are in the socket
    jobs = _jobs.count
    release()
    give_up_at = time.monotonic() + _TIMEOUT
    channel = bus.get_publish_result_channel()
    while channel.qsize() < _BURST and time.monotonic() < give_up_at:
        time.sleep(0.001)
    jobs = _jobs.count - jobs
    results = channel.get_many(_BURST)
    assert len(results) == _BURST  # noqa: S101 - else the numbers mean nothing
    return {
        f"nats burst of {_BURST}: loop wake-ups": wake_ups,
        f"nats burst of {_BURST}: executor jobs": jobs,
    }


def _loop_of(bus: EventBus) -> asyncio.AbstractEventLoop:
    runtime: Any = bus._runtime  # noqa: SLF001 - there is no public way to it
    loop: asyncio.AbstractEventLoop = runtime.backend._loop  # noqa: SLF001
    return loop


def _keep_busy(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Keep *loop* in one callback until what is returned is called."""
    reached, go_on = threading.Event(), threading.Event()

    def busy() -> None:
        reached.set()
        go_on.wait(_TIMEOUT)

    loop.call_soon_threadsafe(busy)
    reached.wait(_TIMEOUT)
    return go_on.set


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()) + "\n")
