"""Publishing with the bus, as users write it: threads that publish, one that reads."""

import contextlib

from collections.abc import Iterator
from typing import Any

from benchmarks.brokers import Destination
from benchmarks.events import Work, envelope, note
from benchmarks.tally import PATIENCE, Stopwatch, Tally, in_threads
from eventbus_sync import EventBus, Outcome


@contextlib.contextmanager
def connected(to: Destination, **settings: Any) -> Iterator[EventBus]:
    """Yield a bus that has reached its broker, and waits for room."""
    with EventBus.from_url(to.url, publish_timeout=PATIENCE, **settings) as bus:
        bus.start()
        yield bus


def publish(to: Destination, work: Work) -> Tally:
    """Publish from threads; one reader takes the results, as many as there are."""
    with connected(to) as bus:
        _warm_up(bus, to)
        return publish_on(bus, to, work)


def publish_in_batches(to: Destination, work: Work) -> Tally:
    """The same with ``publish_mode="batch"``; the stream has to allow it."""
    with connected(to, publish_mode="batch") as bus:
        _warm_up(bus, to)
        return publish_on(bus, to, work)


def _warm_up(bus: EventBus, to: Destination) -> None:
    """Publish one event to each topic, before the clock runs."""
    for topic in to.topics:
        bus.publish_envelope_sync(topic, envelope(0, ""))


def publish_on(bus: EventBus, to: Destination, work: Work) -> Tally:
    """Publish on a bus that is there already."""
    tally, text = Tally(), note(work.payload)
    channel = bus.get_publish_result_channel()
    accepted = [0] * work.threads

    def run(thread: int) -> None:
        topics, many = to.topics, len(to.topics)
        send, done = bus.publish_envelope, 0
        for number in work.share(thread):
            send(topics[number % many], envelope(number, text))
            done += 1
        accepted[thread] = done

    def read() -> None:
        left, acked = work.events, Outcome.ACKED
        while left > 0:
            results = channel.get_many(1000, PATIENCE)
            if not results:
                return
            left -= len(results)
            for result in results:
                if result.outcome is acked:
                    tally.acked += 1
                else:
                    tally.failed += 1

    dropped = bus.stats().dropped
    with Stopwatch(tally):
        in_threads(run, work.threads, read)
    tally.accepted = sum(accepted)
    tally.dropped = bus.stats().dropped - dropped
    return tally


def publish_and_wait(to: Destination, work: Work) -> Tally:
    """Publish one event after the other with ``publish_envelope_sync``."""
    tally, text = Tally(), note(work.payload)
    with connected(to) as bus:
        _warm_up(bus, to)
        with Stopwatch(tally):
            for number in range(work.events):
                topic = to.topics[number % len(to.topics)]
                result = bus.publish_envelope_sync(topic, envelope(number, text))
                tally.accepted += 1
                if result.success:
                    tally.acked += 1
                else:
                    tally.failed += 1
    return tally
