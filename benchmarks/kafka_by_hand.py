"""The peers on Kafka: confluent-kafka alone, as a competent user would write it."""

import queue
import threading
import time

from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from benchmarks.brokers import Destination
from benchmarks.events import Work, by_hand, note
from benchmarks.tally import PATIENCE, Stopwatch, Tally, in_threads
from eventbus_sync.backends.kafka.settings import driver_settings
from eventbus_sync.config import KafkaConfig
from eventbus_sync.config.url import config_from_url


#: What a reader gets: event id, error, partition, offset.
Result = tuple[str, KafkaError | None, int | None, int | None]

_CAPACITY: Final = 100_000
# How often a loop that polls for itself does so.
_POLL_EVERY: Final = 64
_FULL: Final = 0.002


def producer_for(to: Destination, **more: Any) -> Producer:
    """
    Return a producer with the very settings that the bus uses.

    It is connected, and has sent one message to each topic.
    """
    config = config_from_url(to.url)
    assert isinstance(config, KafkaConfig)  # noqa: S101 - from a kafka:// URL
    producer = Producer(
        {**driver_settings(config), "statistics.interval.ms": 0, **more}
    )
    # The first message waits for the id that idempotence needs, up to half a second.
    for topic in to.topics:
        producer.produce(topic, b"warm-up")
    producer.flush(PATIENCE)
    return producer


def publish(to: Destination, work: Work) -> Tally:  # noqa: C901 - as one writes it
    """JSON, headers, a closure and ``put_nowait`` per event; a poll thread; a reader."""
    tally, text = Tally(), note(work.payload)
    producer = producer_for(to)
    results: queue.Queue[Result] = queue.Queue(_CAPACITY)
    over = threading.Event()
    accepted = [0] * work.threads

    def poll() -> None:
        while not over.is_set():
            producer.poll(0.1)

    def run(thread: int) -> None:
        many = len(to.topics)
        for number in work.share(thread):
            aggregate, event_id, body, headers = by_hand(number, text)

            def reported(
                error: KafkaError | None, message: Message, event_id: str = event_id
            ) -> None:
                try:
                    results.put_nowait(
                        (event_id, error, message.partition(), message.offset())
                    )
                except queue.Full:
                    tally.dropped += 1

            _produce(
                producer,
                to.topics[number % many],
                body,
                key=aggregate,
                headers=list(headers.items()),
                on_delivery=reported,
            )
            accepted[thread] += 1

    def read() -> None:
        for _ in range(work.events):
            try:
                _, error, _, _ = results.get(timeout=PATIENCE)
            except queue.Empty:
                return
            if error is None:
                tally.acked += 1
            else:
                tally.failed += 1

    poller = threading.Thread(target=poll, daemon=True)
    poller.start()
    with Stopwatch(tally):
        in_threads(run, work.threads, read)
    over.set()
    poller.join()
    tally.accepted = sum(accepted)
    return tally


def bare_loop(to: Destination, work: Work) -> Tally:
    """
    The driver and nothing else: one thread, bytes and headers made before, no queue.

    No program is like that; it shows what the driver itself costs.
    """
    tally, text = Tally(), note(work.payload)
    producer = producer_for(to)
    made = [by_hand(number, text) for number in range(min(work.events, 10_000))]
    ready = [
        (to.topics[n % len(to.topics)], body, aggregate, list(headers.items()))
        for n, (aggregate, _, body, headers) in enumerate(made)
    ]

    def reported(error: KafkaError | None, _: Message) -> None:
        if error is None:
            tally.acked += 1
        else:
            tally.failed += 1

    with Stopwatch(tally):
        for number in range(work.events):
            topic, body, key, headers = ready[number % len(ready)]
            _produce(
                producer,
                topic,
                body,
                key=key,
                headers=headers,
                on_delivery=lambda error, message: reported(error, message),  # noqa: PLW0108 - one closure per message, as is said
            )
            if not number % _POLL_EVERY:
                producer.poll(0)
        producer.flush(PATIENCE)
    tally.accepted = work.events
    return tally


def publish_and_wait(to: Destination, work: Work) -> Tally:
    """Produce and flush, one event after the other, without lingering."""
    tally, text = Tally(), note(work.payload)
    producer = producer_for(to, **{"linger.ms": 0})

    def reported(error: KafkaError | None, _: Message) -> None:
        if error is None:
            tally.acked += 1
        else:
            tally.failed += 1

    with Stopwatch(tally):
        for number in range(work.events):
            aggregate, _, body, headers = by_hand(number, text)
            topic = to.topics[number % len(to.topics)]
            producer.produce(
                topic,
                body,
                aggregate,
                headers=list(headers.items()),
                on_delivery=reported,
            )
            producer.flush(PATIENCE)
            tally.accepted += 1
    return tally


def _produce(producer: Producer, topic: str, body: bytes, **more: Any) -> None:
    while True:
        try:
            producer.produce(topic, body, **more)
        except BufferError:  # the driver's queue is full; the poll thread makes room
            producer.poll(0)
            time.sleep(_FULL)
        else:
            return
