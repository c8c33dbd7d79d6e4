"""
The promises on NATS, where a connection is lost or made at the right moment.

Each was seen to fail with the code broken on purpose; ``tests/breakages`` repeats that.
"""

import contextlib
import socket
import subprocess
import sys
import textwrap
import threading
import time

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from conformance.suite import envelope, order_kept, read
from support.eventually import eventually
from support.patience import SLACK
from support.rigs import NatsRig

from eventbus_sync import EventBus, NatsConfig
from eventbus_sync.testing import NatsServer
from eventbus_sync.testing.readback import read_nats_stream


pytestmark = pytest.mark.nats

HOST = "127.0.0.1"


class Wire:
    """
    The network between a client and a server, which loses what it is told to lose.

    Attributes:
        deaf: nothing of what the server says comes through.
        passes: so many bytes of what the client says still come through; None: all.
        lost: how many did not.
        down: nobody gets through at all.
    """

    def __init__(self, server_port: int) -> None:
        self.deaf = False
        self.passes: int | None = None
        self.lost = 0
        self.down = False
        self._server_port = server_port
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self._start(self._accept)

    @property
    def url(self) -> str:
        """Where a client connects to."""
        return f"nats://{HOST}:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """End every connection, as when a cable is pulled; new ones can be made."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all, and leave no thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: Callable[[], None]) -> None:
        self._threads.append(thread := threading.Thread(target=run, daemon=True))
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            server = socket.create_connection((HOST, self._server_port))
            self._ends += [client, server]
            self._start(partial(self._to_server, client, server))
            self._start(partial(self._to_client, server, client))

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while data := client.recv(65_536):
                count = len(data) if self.passes is None else self.passes
                server.sendall(data[:count])
                if self.passes is not None:
                    self.passes = max(0, self.passes - len(data))
                    self.lost += len(data[count:])
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _to_client(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), server:
            while data := server.recv(65_536):
                if not self.deaf:
                    client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def nats(nats_server: NatsServer) -> NatsRig:
    """The session's server."""
    return NatsRig(nats_server.url)


@pytest.fixture
def wire(nats_server: NatsServer) -> Iterator[Wire]:
    """The way to the session's server."""
    with contextlib.closing(Wire(nats_server.port)) as wire:
        yield wire


@pytest.fixture
def bus(wire: Wire) -> Iterator[EventBus]:
    """A bus which reaches the session's server over the wire."""
    with EventBus(
        NatsConfig(
            servers=wire.url,
            stream=NatsRig.stream,
            subjects=["conformance.>"],
            reconnect_wait=0.05,
        )
    ) as bus:
        yield bus


# -- promises 5 and 6: stored once, in order -------------------------------------------


def test_promise_5_nats_what_is_sent_again_is_stored_once(
    nats: NatsRig, wire: Wire, bus: EventBus
) -> None:
    """The answers of the first connection are lost; the second one repeats all."""
    topic = nats.new_topic()
    assert bus.publish_envelope_sync(topic, envelope(0)).success
    wire.deaf = True
    for number in range(1, 101):
        bus.publish_envelope(topic, envelope(number))
    eventually(lambda: len(nats.stored(topic)) == 101)
    wire.deaf = False
    wire.cut()

    results = read(bus, 100, timeout=15)
    assert all(result.success and result.duplicate for result in results)
    stored = nats.stored(topic)
    assert len(stored) == len({event_id for event_id, _, _ in stored}) == 101
    assert order_kept(stored)


def test_promise_6_nats_what_is_sent_again_keeps_its_order(
    nats: NatsRig, wire: Wire, bus: EventBus
) -> None:
    """What a dying connection swallowed goes out before what is newer, in order."""
    topic = nats.new_topic()
    assert bus.publish_envelope_sync(topic, envelope(0, "warm")).success
    wire.passes = 5000
    for number in range(1, 101):
        bus.publish_envelope(topic, envelope(number, f"order-{number % 3}"))
    eventually(lambda: wire.lost > 20_000)
    wire.passes, wire.down = None, True
    wire.cut()
    eventually(lambda: bus.health().connected is False)
    for number in range(101, 201):
        bus.publish_envelope(topic, envelope(number, f"order-{number % 3}"))
    wire.down = False

    assert all(result.success for result in read(bus, 200, timeout=15))
    stored = [entry for entry in nats.stored(topic) if entry[1] != "warm"]
    assert len(stored) == len({event_id for event_id, _, _ in stored}) == 200
    assert order_kept(stored)


def test_promise_5_nats_one_event_to_two_subjects_is_two_events(
    nats: NatsRig, bus: EventBus
) -> None:
    """A stream that takes both keeps both; only a repeat on one subject is one."""
    topics, event = [nats.new_topic() for _ in range(2)], envelope(0)
    for topic in topics:
        assert not bus.publish_envelope_sync(topic, event).duplicate
        assert bus.publish_envelope_sync(topic, event).duplicate
        assert [event_id for event_id, _, _ in nats.stored(topic)] == [event.event_id]


# -- promise 9: clean exit -------------------------------------------------------------


def test_promise_9_nats_close_leaves_no_thread(nats: NatsRig) -> None:
    """Loop, resolver, ack workers and callback thread end with the bus."""
    before = set(threading.enumerate())
    bus = nats.bus(ack_workers=2)
    assert bus.publish_envelope_sync(nats.new_topic(), envelope(0)).success
    bus.close(10)
    assert set(threading.enumerate()) <= before


def test_promise_9_nats_connects_at_exit(fresh_nats_server: NatsServer) -> None:
    """A server that comes back while the process ends gets what waits for it."""
    server = fresh_nats_server
    server.stop()
    script = """
        import sys
        from eventbus_sync import Envelope, EventBus

        # A name, which must be resolved when nearly nothing works any more.
        bus = EventBus.from_url(sys.argv[1], exit_timeout=6, reconnect_wait=0.05)
        for number in range(5):
            bus.publish_envelope("left.over", Envelope("a", "E", 1, number))
        print("published", flush=True)
    """
    url = f"nats://localhost:{server.port}?stream=LEFT&subjects=left.over"
    command = [sys.executable, "-c", textwrap.dedent(script), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "published\n"
        server.start()
        assert process.wait(30) == 0
    assert len(read_nats_stream(server.url, "LEFT")) == 5


def test_promise_9_nats_exit_waits_for_no_name_server() -> None:
    """A look-up that hangs does not keep a process from ending."""
    script = """
        import socket, threading
        from eventbus_sync import Envelope, EventBus

        asked = threading.Event()
        socket.getaddrinfo = lambda *_, **__: (asked.set(), threading.Event().wait(60))
        bus = EventBus.from_url("nats://name.example:4222", exit_timeout=0.5)
        bus.publish_envelope("left.over", Envelope("a", "E", 1, 0))
        assert asked.wait(10)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    started = time.monotonic()
    assert subprocess.run(command, check=False, timeout=50).returncode == 0
    assert time.monotonic() - started < 10 + SLACK
