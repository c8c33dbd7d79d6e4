"""A Kafka back end without a bus, and the shortest way to use it."""

from typing import Any

from support.eventually import eventually
from support.recording_sink import RecordingSink, Sent
from support.rigs import unique

from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Ack, OutgoingMessage
from eventbus_sync.backends.kafka.backend import KafkaBackend
from eventbus_sync.config import KafkaConfig
from eventbus_sync.errors import PublishError


class Running:
    """A back end that runs, with its sink, and the shortest way to use it."""

    def __init__(self, servers: str, **settings: Any) -> None:
        self.sink = RecordingSink()
        # What only statistics tell shall not take a second each time.
        extra = {"statistics.interval.ms": 100} | settings.pop("extra", {})
        config = KafkaConfig(bootstrap_servers=servers, extra=extra, **settings)
        self.backend = KafkaBackend(config, self.sink)
        self.backend.start()
        self.topic = unique("topic")

    def send(self, count: int = 1, *, timeout: float = 5.0, **more: Any) -> list[Sent]:
        """Send so many messages and return their deliveries."""
        sent = []
        for number in range(count):
            delivery = Sent(number)
            message = self.message(**{"value": b"%d" % number, **more})
            self.backend.send(message, delivery, Deadline.after(timeout))
            sent.append(delivery)
        return sent

    def message(self, value: bytes, **more: Any) -> OutgoingMessage:
        """Return a message to the topic of this test."""
        parts: dict[str, Any] = {
            "topic": self.topic,
            "key": "order-1",
            "value": value,
            "headers": [("X-Event-ID", value.decode(errors="replace"))],
            "event_id": "",
            "size": len(value),
        }
        return OutgoingMessage(**{**parts, **more})

    def outcomes(
        self, sent: list[Sent], timeout: float = 15.0
    ) -> list[Ack | PublishError]:
        """Wait until each has exactly one outcome, and return them."""
        eventually(lambda: all(self.sink.of(one) for one in sent), timeout)
        found = [self.sink.of(one) for one in sent]
        assert [len(said) for said in found] == [1] * len(sent)
        return [said for (said,) in found]

    def outcome(self, timeout: float = 15.0, **more: Any) -> Ack | PublishError:
        """Send one message and return what became of it."""
        return self.outcomes(self.send(**more), timeout)[0]

    def close(self, timeout: float = 5.0) -> None:
        """Close, and leave neither a thread of ours nor one of the driver's."""
        self.backend.close(Deadline.after(timeout))
