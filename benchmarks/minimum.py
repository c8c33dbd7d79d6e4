"""The bare minimum that a call can do: make JSON, and hand it to the driver."""

import asyncio
import contextlib
import json
import threading
import time

from collections import deque
from collections.abc import Callable, Iterator

from benchmarks.brokers import Broker, Destination
from benchmarks.events import AGGREGATES, EVENT_TYPE, note


#: Publishes the event with a number.
Call = Callable[[int], None]


def minimum(broker: Broker, to: Destination) -> contextlib.AbstractContextManager[Call]:
    """Return the shortest call that there is for *broker*; outcomes are thrown away."""
    return _on_nats(to) if broker.kind == "nats" else _on_kafka(to)


def _body(number: int, text: str) -> bytes:
    return json.dumps(
        {
            "event_id": f"{number}",
            "aggregate_id": f"order-{number % AGGREGATES}",
            "event_type": EVENT_TYPE,
            "event_version": 1,
            "timestamp": time.time(),
            "payload": {"number": number, "note": text},
        }
    ).encode()


@contextlib.contextmanager
def _on_kafka(to: Destination) -> Iterator[Call]:
    from benchmarks.kafka_by_hand import producer_for  # noqa: PLC0415 - a driver

    producer, over, text = producer_for(to), threading.Event(), note(40)

    def poll() -> None:
        while not over.is_set():
            producer.poll(0.1)

    def call(number: int) -> None:
        producer.produce(to.topic, _body(number, text), f"order-{number % AGGREGATES}")

    poller = threading.Thread(target=poll, daemon=True)
    poller.start()
    try:
        yield call
    finally:
        over.set()
        poller.join()
        producer.flush(10)


@contextlib.contextmanager
def _on_nats(to: Destination) -> Iterator[Call]:
    from benchmarks.nats_by_hand import LoopThread  # noqa: PLC0415 - a driver

    text, waiting = note(40), deque[bytes]()
    thread, armed = LoopThread(to), [False]

    async def pump() -> None:
        armed[0] = False
        while waiting:
            await thread.js.publish_async(to.topic, waiting.popleft())

    running: set[asyncio.Task[None]] = set()

    def start_pump() -> None:
        task = thread.loop.create_task(pump())
        running.add(task)
        task.add_done_callback(running.discard)

    def call(number: int) -> None:
        waiting.append(_body(number, text))
        if not armed[0]:  # one wake-up per burst
            armed[0] = True
            thread.loop.call_soon_threadsafe(start_pump)

    try:
        yield call
    finally:
        thread.run(thread.js.publish_async_completed())
        thread.close()
