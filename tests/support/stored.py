"""A place on a real broker for programs that get an URL, and what it holds afterwards."""

from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
import pytest

from support.books import Books
from support.rigs import unique

from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import (
    StoredEvent,
    read_kafka_topic,
    read_nats_stream,
)


def as_of_a_rig(stored: Iterable[StoredEvent]) -> list[tuple[str, str, bytes]]:
    """Return what was read back as the checks of the conformance suite take it."""
    return [(event.event_id, event.aggregate_id, event.value) for event in stored]


@attrs.frozen
class Place:
    """
    A topic of a test's own, and the books of whoever publishes there.

    Attributes:
        url: for ``EventBus.from_url``; more settings go behind a ``&``.
        topic: where to publish.
        folder: for the books.
        stored: reads back what is there.
    """

    url: str
    topic: str
    folder: Path
    stored: Callable[[], list[StoredEvent]]

    def books(self) -> Books:
        """Return what was written so far."""
        return Books.read(self.folder)

    def balance(self, *, told: bool = True, tidy: bool = True) -> Books:
        """Assert that the books balance, see ``Books.balance``; return them."""
        books = self.books()
        books.balance(self.stored(), told=told, tidy=tidy)
        return books


def on_nats(server: NatsServer, folder: Path) -> Place:
    """Return a place in a stream of its own."""
    stream = unique("PLACE").upper().replace("-", "_")
    return Place(
        f"{server.url}?stream={stream}&subjects={stream}.a",
        f"{stream}.a",
        folder,
        lambda: read_nats_stream(server.url, stream, values=False),
    )


def on_kafka(server: KafkaServer, folder: Path) -> Place:
    """Return a topic of its own."""
    topic = unique("place")
    servers = server.bootstrap_servers
    return Place(
        f"kafka://{servers}?close_timeout=20",
        topic,
        folder,
        lambda: read_kafka_topic(servers, topic, values=False),
    )


def place_on(broker: str, request: pytest.FixtureRequest, *, fresh: bool) -> Place:
    """Return a place on a broker of the session, or on one of the test alone."""
    folder = request.getfixturevalue("tmp_path") / "books"
    folder.mkdir()
    server = request.getfixturevalue(f"{'fresh_' * fresh}{broker}_server")
    return on_nats(server, folder) if broker == "nats" else on_kafka(server, folder)


#: A test on both brokers: ``@pytest.mark.parametrize("broker", BROKERS)``.
BROKERS = [
    pytest.param("nats", marks=pytest.mark.nats),
    pytest.param("kafka", marks=pytest.mark.kafka),
]
