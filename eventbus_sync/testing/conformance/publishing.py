"""Events to publish, results to read, and whether order was kept."""

import collections
import threading

from typing import Any

from eventbus_sync import Envelope, EventBus, PublishResult


def envelope(number: int = 0, aggregate: str = "order-1", **more: Any) -> Envelope:
    """Return an event whose payload tells it from others."""
    return Envelope(aggregate, "OrderCreated", 1, {"n": number}, **more)


def read(bus: EventBus, count: int, timeout: float = 40) -> list[PublishResult]:
    """Return exactly *count* results, or fail when they don't come."""
    taken: list[PublishResult] = []
    channel = bus.get_publish_result_channel()
    while len(taken) < count:
        batch = channel.get_many(count - len(taken), timeout=timeout)
        assert batch, f"only {len(taken)} of {count} outcomes came: {bus.stats()}"
        taken += batch
    return taken


def publish_all(bus: EventBus, topic: str, events: list[Envelope]) -> None:
    """Publish from four threads, each the events of its own aggregates, in order."""
    lanes: dict[int, list[Envelope]] = collections.defaultdict(list)
    for event in events:
        lanes[sum(event.aggregate_id.encode()) % 4].append(event)

    def publish(lane: list[Envelope]) -> None:
        for event in lane:
            bus.publish_envelope(topic, event, timeout=30)

    threads = [threading.Thread(target=publish, args=(x,)) for x in lanes.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def order_kept(stored: list[tuple[str, str, bytes]]) -> bool:
    """Return whether the events of each aggregate are stored as they were numbered."""
    last: dict[str, int] = {}
    for _, aggregate, body in stored:
        number = int(body.rpartition(b'{"n":')[2].rstrip(b"}"))
        if last.get(aggregate, -1) >= number:
            return False
        last[aggregate] = number
    return True
