"""The network that breaks on command: bare sockets first, then real brokers behind it."""

import contextlib
import os
import socket
import threading
import time

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.suite import envelope, order_kept, publish_all, read
from support.eventually import eventually

from eventbus_sync import EventBus, KafkaConfig, NatsConfig, Outcome
from eventbus_sync.testing import KafkaServer, NatsServer, NotPossibleHere, TcpProxy
from eventbus_sync.testing._ports import free_port
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


def open_files() -> int:
    """Return how many files this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self.heard = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _answer(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(65536):
                self.heard += len(data)
                peer.sendall(data)

    def close(self) -> None:
        """No thread is left, once every connection has ended."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    """A proxy in front of it, which leaves no thread and no file behind."""
    files, threads = open_files(), set(threading.enumerate())
    with TcpProxy(echo.port) as proxy:
        yield proxy
    eventually(lambda: set(threading.enumerate()) <= threads)
    eventually(lambda: open_files() <= files)


def call(proxy: TcpProxy) -> socket.socket:
    """Connect."""
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def ask(client: socket.socket, data: bytes = b"hello") -> bytes:
    """Send, and receive as much."""
    client.sendall(data)
    back = b""
    while len(back) < len(data):
        more = client.recv(65536)
        if not more:
            raise ConnectionResetError
        back += more
    return back


def test_what_goes_in_comes_out(proxy: TcpProxy) -> None:
    """Ten megabytes there and back, and the end of one side is told to the other."""
    data = os.urandom(10_000_000)
    with call(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        back = bytearray()
        while len(back) < len(data):
            back += client.recv(1 << 20)
        sender.join()
        assert bytes(back) == data
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""
    eventually(lambda: proxy.connections == 0)
    assert proxy.accepted == 1


def test_cut(proxy: TcpProxy) -> None:
    """Connections are lost, new ones refused; after heal() all is well."""
    with call(proxy) as client:
        assert ask(client) == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionError):
            ask(client)
    assert proxy.connections == 0
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            call(proxy)
    proxy.cut()
    proxy.heal()
    with call(proxy) as client:
        assert ask(client) == b"hello"


def test_deaf(proxy: TcpProxy, echo: Echo) -> None:
    """Bytes are taken, from old and new connections, and nothing comes; heal resets."""
    with call(proxy) as old:
        assert ask(old) == b"hello"
        proxy.deaf()
        with call(proxy) as new:
            for client in (old, new):
                client.settimeout(0.1)
                for _ in range(100):
                    client.sendall(b"x" * 10_000)
                with pytest.raises(TimeoutError):
                    client.recv(1)
            assert echo.heard == 5
            proxy.heal()
            for client in (old, new):
                with pytest.raises(ConnectionError):
                    ask(client)
    with call(proxy) as client:
        assert ask(client) == b"hello"


def test_mute(proxy: TcpProxy, echo: Echo) -> None:
    """The server hears what comes, and is not heard; then connections are reset."""
    with call(proxy) as old:
        old.sendall(b"x")
        assert old.recv(1) == b"x"
        proxy.mute()
        proxy.mute()
        old.sendall(b"stored")
        eventually(lambda: echo.heard == 7)
        eventually(lambda: proxy.swallowed == 6)
        with call(proxy) as new:
            new.sendall(b"too")
            eventually(lambda: proxy.swallowed == 9)
            proxy.heal()
            for one in (old, new):
                with pytest.raises(ConnectionError):
                    ask(one)
    assert proxy.swallowed == 9


def test_mute_loses_answers_that_are_under_way(proxy: TcpProxy, echo: Echo) -> None:
    with call(proxy) as client:
        proxy.slow(delay=0.3)
        client.sendall(b"stored")
        eventually(lambda: echo.heard == 6)
        proxy.mute()
        eventually(lambda: proxy.swallowed == 6)


def test_mute_after_deaf(proxy: TcpProxy) -> None:
    """A connection that has lost what the client said is reset."""
    with call(proxy) as client:
        eventually(lambda: proxy.connections == 1)
        proxy.deaf()
        proxy.mute()
        with pytest.raises(ConnectionError):
            ask(client)


def test_deaf_to_the_end_of_a_connection(proxy: TcpProxy) -> None:
    """The server does not hear that a client has gone."""
    with call(proxy) as client:
        assert ask(client) == b"hello"
        proxy.deaf()
    time.sleep(0.05)  # nothing to wait for: nothing happens
    assert proxy.connections == 1
    proxy.heal()
    assert proxy.connections == 0


def test_slow(proxy: TcpProxy) -> None:
    """The delay counts each way, and so does the limit; nothing is lost."""
    with call(proxy) as client:
        proxy.slow(0.1)
        began = time.monotonic()
        assert ask(client) == b"hello"
        assert 0.2 <= time.monotonic() - began < 2
        proxy.slow(bytes_per_second=100_000)
        began = time.monotonic()
        data = os.urandom(50_000)
        assert ask(client, data) == data
        assert 0.4 <= time.monotonic() - began < 5
        proxy.heal()
        assert ask(client) == b"hello"
    for bad in ({"delay": -1.0}, {"bytes_per_second": 0.0}):
        with pytest.raises(ValueError, match="negative"):
            proxy.slow(**bad)


def test_a_slow_line_holds_back_its_sender(proxy: TcpProxy) -> None:
    """What is on the way is bounded, as on a real line."""
    proxy.slow(bytes_per_second=10_000)
    with call(proxy) as client:
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * 50_000_000)


def test_without_a_server(unused_tcp_port: int) -> None:
    """A connection to nowhere is lost, and may be there another time."""
    with TcpProxy() as proxy:
        with call(proxy) as client:
            assert client.recv(1) == b""
        proxy.lead_to(unused_tcp_port)
        with pytest.raises(ConnectionError), call(proxy) as client:
            ask(client)
        eventually(lambda: proxy.connections == 0)


def test_a_server_that_does_not_take_connections() -> None:
    """The client is connected, as on a real network, and waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        with TcpProxy(port) as proxy, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(call(proxy)) for _ in range(4)]
            for client in clients:
                client.sendall(b"hello")
            eventually(lambda: proxy.connections == 4)
            heard = 0
            for _ in clients:
                peer, _ = server.accept()
                peer.settimeout(5)
                with peer:
                    heard += peer.recv(10) == b"hello"
            assert heard == 4


def test_its_port_is_taken_while_it_is_cut(proxy: TcpProxy) -> None:
    """heal() says so, and may be called again."""
    proxy.cut()
    with (
        socket.create_server(("127.0.0.1", proxy.port)),
        pytest.raises(OSError, match="in use"),
    ):
        proxy.heal()
    proxy.heal()
    with call(proxy) as client:
        assert ask(client) == b"hello"


def test_a_port_that_somebody_takes_first(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one does; but not for ever."""
    ports = [free_port(), echo.port]
    monkeypatch.setattr("eventbus_sync.testing.proxy.free_port", ports.pop)
    with TcpProxy(echo.port) as proxy:
        assert ports == []
        assert proxy.port != echo.port
    monkeypatch.setattr("eventbus_sync.testing.proxy.free_port", lambda: echo.port)
    proxy = TcpProxy(echo.port)
    with pytest.raises(OSError, match="in use"):
        proxy.start()


def test_before_and_after(echo: Echo) -> None:
    """It keeps its port; what it cannot do it says."""
    proxy = TcpProxy(echo.port)
    with pytest.raises(RuntimeError, match="before its start"):
        _ = proxy.address
    with pytest.raises(RuntimeError, match="does not run"):
        proxy.cut()
    proxy.close()
    proxy.start()
    proxy.start()
    assert proxy.address == f"127.0.0.1:{proxy.port}"
    proxy.close()
    proxy.close()
    with pytest.raises(RuntimeError, match="does not run"):
        proxy.heal()


def test_a_child_leaves_it_be(proxy: TcpProxy) -> None:
    """After fork it is the parent's; what the child inherited keeps nothing open."""
    with call(proxy) as client:
        assert ask(client) == b"hello"
        ready, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(RuntimeError):
                proxy.cut()
                os._exit(1)
            proxy.close()
            os.close(go)
            os.read(ready, 1)
            os._exit(0)
        try:
            assert ask(client) == b"hello"
            proxy.cut()
            with pytest.raises(ConnectionError):
                ask(client)
            with pytest.raises(ConnectionRefusedError):
                call(proxy)
        finally:
            os.close(go)
            os.close(ready)
            assert os.waitpid(pid, 0)[1] == 0


# -- brokers ---------------------------------------------------------------------------


def _survives(
    bus: EventBus, topic: str, breaks: Callable[[], None], heal: Callable[[], None]
) -> None:
    """Publish across a break; everything is acked."""
    assert bus.publish_envelope_sync(topic, envelope(0, "warm")).success
    breaks()
    healing = threading.Timer(1.5, heal)
    healing.start()
    publish_all(bus, topic, [envelope(n, f"order-{n % 9}") for n in range(2000)])
    results = read(bus, 2000)
    healing.join()
    assert {r.outcome for r in results} == {Outcome.ACKED}


BREAKS = ["cut", "deaf", "slowed"]


def _break(proxy: TcpProxy, how: str) -> Callable[[], None]:
    if how == "slowed":
        return lambda: proxy.slow(0.1, 500_000)
    return {"cut": proxy.cut, "deaf": proxy.deaf}[how]


@pytest.mark.nats
@pytest.mark.parametrize("how", BREAKS)
def test_nats_behind_a_network_that_breaks(how: str) -> None:
    """Nothing is lost, nothing stored twice, order is kept."""
    with (
        TcpProxy() as proxy,
        NatsServer(proxy=proxy) as server,
        EventBus(
            NatsConfig(
                servers=server.url, stream="BROKEN", ack_wait=0.5, connect_timeout=0.5
            )
        ) as bus,
    ):
        assert server.url == f"nats://{proxy.address}"
        assert server.port != proxy.port
        _survives(bus, "broken", _break(proxy, how), proxy.heal)
        stored = read_nats_stream(server.url, "BROKEN")
        assert len(stored) == len({e.event_id for e in stored}) == 2001
        assert order_kept([(e.event_id, e.aggregate_id, e.value) for e in stored])
        assert bus.health().reconnects == (how != "slowed")


@pytest.mark.kafka
@pytest.mark.parametrize("how", BREAKS)
def test_kafka_behind_a_network_that_breaks(how: str) -> None:
    """Every connection goes through the proxy, and nothing is lost."""
    with (
        TcpProxy() as proxy,
        KafkaServer(kind="tansu", proxy=proxy) as server,
        EventBus(KafkaConfig(bootstrap_servers=server.bootstrap_servers)) as bus,
    ):
        assert server.port == proxy.port
        _survives(bus, "broken", _break(proxy, how), proxy.heal)
        assert proxy.accepted >= 2
        stored = read_kafka_topic(server.bootstrap_servers, "broken")
        assert len(stored) == len({e.event_id for e in stored}) == 2001
        assert order_kept([(e.event_id, e.aggregate_id, e.value) for e in stored])


def test_the_mock_cluster_has_no_proxy() -> None:
    """It chooses its own ports, and says so."""
    with pytest.raises(NotPossibleHere, match="a proxy is not possible"):
        KafkaServer(kind="librdkafka-mock", proxy=TcpProxy())
