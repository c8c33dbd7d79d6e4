"""Streams that may not recognise a repeat after a restart of their server."""

import asyncio

from typing import Any
from unittest.mock import Mock

import pytest

from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig
from support.fake_nats import FakeNats
from support.recording_sink import RecordingSink

from eventbus_sync.backends.nats import stream as _stream
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.forgetting import forgets
from eventbus_sync.backends.nats.readiness import Readiness
from eventbus_sync.backends.nats.stream import StreamCheck
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import BrokerUnreachable


CONFIG = NatsConfig(stream="S", max_in_flight=100, max_in_flight_bytes=1000)


def found(**settings: Any) -> StreamConfig:
    """Return a stream as a server tells of it."""
    usual: dict[str, Any] = {
        "retention": "limits",
        "discard": "old",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0.0,
        "duplicate_window": 120.0,
    }
    return StreamConfig(name="S", **(usual | settings))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"retention": "workqueue"}, "consumed (retention 'workqueue')"),
        ({"retention": "interest"}, "consumed (retention 'interest')"),
        ({"max_msgs": 200}, "200 messages only"),
        ({"max_bytes": 2000}, "2000 bytes only"),
        ({"max_msgs_per_subject": 1}, "1 messages to a subject only"),
        ({"max_msgs_per_subject": 1, "discard": "new"}, "to a subject only"),
        ({"max_age": 60.0}, "for 60 s only"),
    ],
)
def test_streams_that_forget(settings: dict[str, Any], why: str) -> None:
    """They drop what may still be in flight, and it is said why."""
    assert why in forgets(found(**settings), CONFIG)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"retention": None, "max_msgs": None, "max_bytes": None, "max_age": None},
        {"retention": RetentionPolicy.LIMITS, "discard": DiscardPolicy.OLD},
        {"max_msgs": 201, "max_bytes": 2001, "max_msgs_per_subject": 201},
        {"max_msgs": 1, "max_bytes": 1, "discard": DiscardPolicy.NEW},
        {
            "max_msgs_per_subject": 1,
            "discard": "new",
            "discard_new_per_subject": True,
        },
        {"max_age": 120.0},
    ],
)
def test_streams_that_keep_what_is_in_flight(settings: dict[str, Any]) -> None:
    """Without limits, with wide ones, or with such as refuse what is new."""
    assert forgets(found(**settings), CONFIG) == ""


@pytest.mark.parametrize(
    ("info", "settings", "run"),
    [
        ({}, {}, "FAKE"),
        ({"cluster": "C"}, {}, ""),
        ({}, {"stream": "S", "ensure_stream": "skip", "js_domain": "hub"}, ""),
    ],
    ids=["alone", "cluster", "leaf"],
)
def test_which_run_of_a_server_keeps_the_stream(
    info: dict[str, Any], settings: dict[str, Any], run: str
) -> None:
    """It is known only where there is no other one that may keep it."""

    async def found_out(url: str) -> str:
        listener: Any = Mock()
        connection = Connection(NatsConfig(servers=url, **settings), url, listener)
        await connection.open()
        try:
            return connection.run
        finally:
            await connection.discard()

    with FakeNats(**info) as fake:
        assert asyncio.run(found_out(fake.url)) == run


class _Connection:
    """It is up."""

    lost = False


def test_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each look; and what was seen holds while nobody can look."""
    sink = RecordingSink()
    check = StreamCheck(CONFIG, sink, Readiness())
    streams: list[StreamConfig | Exception | None] = []

    async def ensure_stream(*_: object) -> StreamConfig | None:
        said = streams.pop()
        if isinstance(said, Exception):
            raise said
        return said

    monkeypatch.setattr(_stream, "ensure_stream", ensure_stream)
    connection: Any = _Connection()

    def look(said: StreamConfig | Exception | None) -> str:
        streams.append(said)
        asyncio.run(check.look(connection))
        return check.forgets

    assert look(found()) == ""
    assert sink.logs == []
    for _ in range(2):
        assert "workqueue" in look(found(retention="workqueue"))
    assert "workqueue" in look(BrokerUnreachable("later"))
    told = [text for _, text in sink.logs if "may not recognise repeats" in text]
    assert len(told) == 1
    assert "stream 'S'" in told[0]
    assert "200 messages" in look(found(max_msgs=200))
    assert "200 messages" in sink.logs[-1][1]
    assert look(found()) == look(None) == ""
