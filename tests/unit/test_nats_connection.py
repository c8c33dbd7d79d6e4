"""One connection to NATS, and what it is told to connect with."""

import asyncio
import inspect
import sys

from collections.abc import Sequence
from typing import Any

import nats.errors
import pytest

from conformance.suite import envelope
from nats.aio.client import Client
from support.eventually import eventually
from support.fake_nats import FakeNats
from support.recording_sink import RecordingSink

from eventbus_sync import EventBus
from eventbus_sync.backends.nats.backend import NatsBackend
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.login import connect_options
from eventbus_sync.backends.nats.parser import NumberedAck
from eventbus_sync.backends.nats.stream import covers
from eventbus_sync.config import NatsConfig
from eventbus_sync.config import extra as _extra
from eventbus_sync.errors import (
    BrokerUnreachable,
    ConfigError,
    ConnectionLost,
    EventBusError,
)


NOBODY = "nats://127.0.0.1:1"


# -- one connection --------------------------------------------------------------------


class _Listener:
    """Remembers the loss."""

    def __init__(self) -> None:
        self.errors: list[EventBusError] = []

    def answered(self, token: int, data: bytes, status: str | None) -> None:
        """Nothing is published here."""

    def acknowledged(self, acks: Sequence[NumberedAck]) -> None:
        """Nothing is published here."""

    def batched(self, name: bytes, data: bytes, status: str | None) -> None:
        """Nothing is published here."""

    def lost(self, connection: Connection, error: EventBusError) -> None:
        del connection
        self.errors.append(error)

    def refused(self, subject: str, error: Exception) -> None:
        """Nothing is published here."""


def test_connection_without_answers() -> None:
    """A server that no longer answers pings loses its connection in time."""

    async def run(url: str, fake: FakeNats) -> _Listener:
        listener = _Listener()
        connection = Connection(NatsConfig(servers=url), url, listener)
        await connection.open()
        fake.on_ping = lambda client: None
        await connection.round_trip(0.2)
        assert connection.lost
        await connection.round_trip(0.2)
        connection.check()
        with pytest.raises(BrokerUnreachable, match="in time"):
            await connection.ask(asyncio.sleep(1))
        await connection.discard()
        await connection.close()
        return listener

    with FakeNats() as fake:
        (error,) = asyncio.run(run(fake.url, fake)).errors
    assert "did not answer in time" in str(error)


def test_the_answer_to_a_ping_that_was_given_up() -> None:
    """It comes late, to nobody, and the connection lives on."""

    async def run(url: str, fake: FakeNats) -> None:
        listener = _Listener()
        connection = Connection(NatsConfig(servers=url), url, listener)
        await connection.open()
        answer, fake.on_ping = fake.on_ping, late.append
        asked = asyncio.ensure_future(connection.round_trip(5))
        await asyncio.to_thread(eventually, lambda: late)
        # Somebody else's question about a stream is denied meanwhile.
        connection._on_error_text('Permissions Violation for Publish to "$JS.API.INFO"')
        assert not await asked
        fake.on_ping = answer
        answer(late[0])
        assert await connection.round_trip(5)
        assert not listener.errors
        await connection.discard()

    late: list[Any] = []
    with FakeNats() as fake:
        asyncio.run(run(fake.url, fake))


def test_connection_that_dies_without_a_word() -> None:
    """A client that is closed behind our back is noticed by the clock."""

    async def run(url: str) -> _Listener:
        listener = _Listener()
        connection = Connection(NatsConfig(servers=url), url, listener)
        connection.check()
        await connection.open()
        connection.check()
        assert not connection.lost
        connection.client._writer.transport.abort()
        connection.check()
        assert connection.lost
        await connection.write([b"PUB a 0\r\n", b"", b"\r\n"])
        await connection.discard()
        return listener

    with FakeNats() as fake:
        (error,) = asyncio.run(run(fake.url)).errors
    assert isinstance(error, ConnectionLost)


def test_writing_to_a_dead_connection() -> None:
    """A write that fails loses the connection."""

    async def run(url: str) -> _Listener:
        listener = _Listener()
        connection = Connection(NatsConfig(servers=url), url, listener)
        await connection.open()
        connection.client._writer.transport.abort()
        await connection.write([b"PUB a 0\r\n", b"", b"\r\n"])
        await connection.discard()
        return listener

    with FakeNats() as fake:
        assert len(asyncio.run(run(fake.url)).errors) == 1


def test_open_that_is_cancelled() -> None:
    """An attempt that is given up leaves no socket and no task."""

    async def run(url: str, fake: FakeNats) -> None:
        fake.on_ping = lambda client: None
        connection = Connection(NatsConfig(servers=url), url, _Listener())
        attempt = asyncio.ensure_future(connection.open())
        await asyncio.to_thread(eventually, lambda: fake.received)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with FakeNats() as fake:
        asyncio.run(run(fake.url, fake))


def test_error_texts_are_taken_as_written() -> None:
    """The subject keeps its case; should nats-py hide the line, its text must do."""
    told: list[str] = []
    config = NatsConfig()
    connection = Connection(config, NOBODY, _Listener())
    client = connection.client
    client._on_error_text = told.append

    async def run() -> None:
        client._ps.buf = bytearray(b"-ERR 'Some Text'\r\nPING\r\n")
        await client._process_err("'some text'")
        client._ps.buf = bytearray(b"")
        await client._process_err("'some text'")
        client._ps.buf = bytearray(b"-ERR 'Another Text'\r\n")
        await client._process_err("'some text'")

    asyncio.run(run())
    assert told == ["Some Text", "some text", "some text"]


def test_parser_lets_system_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py knows what to do with an OSError; only the unexpected is ours."""
    broken: list[Exception] = []
    client = Connection(NatsConfig(), NOBODY, _Listener()).client
    client._parser._on_broken = broken.append

    async def fail(_: Any) -> None:
        raise failures.pop()

    failures: list[Exception] = [ValueError(), ConnectionResetError()]
    monkeypatch.setattr(client, "_process_ping", lambda: fail(None))

    async def run() -> None:
        with pytest.raises(ConnectionResetError):
            await client._ps.parse(b"PING\r\n")
        with pytest.raises(nats.errors.ProtocolError):
            await client._ps.parse(b"PING\r\n")

    asyncio.run(run())
    assert [type(error) for error in broken] == [ValueError]


# -- logins ----------------------------------------------------------------------------


def test_nkeys_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the settings that need it say what to install."""
    config = NatsConfig(nkey_seed="SUAXYZ")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"eventbus-sync\[nkeys\]"):
        NatsBackend(config, RecordingSink())
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(ConfigError, match=r"eventbus-sync\[nkeys\]"):
        connect_options(config, NOBODY, None)


def test_options_of_a_discovered_server() -> None:
    """A server that was found by its address is verified by the cluster's name."""
    config = NatsConfig(servers="tls://nats.example.org")
    options = connect_options(config, "tls://10.0.0.1:4222", "nats.example.org")
    assert options["tls_hostname"] == "nats.example.org"
    assert "tls_hostname" not in connect_options(config, config.servers[0], None)
    named = NatsConfig(servers="tls://a", tls_hostname="b")
    assert connect_options(named, "tls://c:1", "d")["tls_hostname"] == "b"
    assert "tls" not in connect_options(NatsConfig(), NOBODY, "d")


def test_extra_options_reach_the_driver_and_ours_win() -> None:
    """What has a setting of ours cannot be changed behind its back."""
    config = NatsConfig(extra={"pedantic": True, "drain_timeout": 3})
    options = connect_options(config, NOBODY, None)
    assert options["pedantic"] is True
    assert options["allow_reconnect"] is False


def test_extra_options_that_nats_py_does_not_have() -> None:
    """A slip is told before the first event is accepted, and what may be meant."""
    with EventBus(NatsConfig(extra={"max_outstanding_ping": 3})) as bus:
        with pytest.raises(ConfigError, match="'max_outstanding_pings'") as caught:
            bus.publish_envelope("orders", envelope())
        assert "'max_outstanding_ping'," in str(caught.value)
        assert bus.stats().accepted == 0
    with pytest.raises(ConfigError, match="it has pedantic, verbose, ") as caught:
        NatsBackend(NatsConfig(extra={"xyz": 1}), RecordingSink())
    assert "'xyz'" in str(caught.value)
    assert "servers" not in str(caught.value)


def test_every_option_of_nats_py_is_known_or_refused() -> None:
    """An option of a later nats-py is looked at before it reaches anybody."""
    options = set(inspect.signature(Client.connect).parameters) - {"self"}
    assert options - set(_extra._NATS) == {
        "pedantic",
        "verbose",
        "max_outstanding_pings",
        "dont_randomize",
        "flusher_queue_size",
        "tls_handshake_first",
        "drain_timeout",
        "signature_cb",
        "user_jwt_cb",
        "pending_size",
        "ws_connection_headers",
    }
    assert set(_extra._NATS) <= options


# -- streams ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("a.b", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.*", "a.>", False),
        ("a.>", "a", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a.>", True),
        ("a.>", "a.*.b", True),
        (">", "a", True),
        (">", ">", True),
        ("*", ">", False),
        ("a.b", "a.*", False),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.b.d", False),
        ("A", "a", False),
    ],
)
def test_covers(pattern: str, subject: str, expected: bool) -> None:
    """Whether one subject takes all that another one matches."""
    assert covers(pattern, subject) is expected
