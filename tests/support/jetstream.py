"""What the NATS tests need beside a bus: streams made by hand, and buses that are closed."""

import asyncio
import itertools
import os
import signal
import uuid

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import nats

from nats.js import JetStreamContext
from nats.js.api import StreamConfig, StreamInfo
from support.eventually import eventually

from eventbus_sync import EventBus, NatsConfig
from eventbus_sync.testing import NatsServer


T = TypeVar("T")

_numbers = itertools.count()


class MakeBus(Protocol):
    """Makes a bus on a server, with settings by name; it is closed after the test."""

    def __call__(self, server: NatsServer | str, **settings: Any) -> EventBus: ...


@contextmanager
def buses() -> Iterator[MakeBus]:
    """Give out buses, and close them all in the end."""
    opened: list[EventBus] = []

    def make(server: NatsServer | str, **settings: Any) -> EventBus:
        url = server if isinstance(server, str) else server.url
        bus = EventBus(NatsConfig(servers=url, **settings))
        opened.append(bus)
        return bus

    try:
        yield make
    finally:
        for bus in opened:
            bus.close(5)


def unique_stream() -> tuple[str, str]:
    """Return the name of a stream and the beginning of its subjects; nobody's yet."""
    name = f"S{next(_numbers)}{uuid.uuid4().hex[:8]}"
    return name, name.lower()


def ask_jetstream(
    url: str, act: Callable[[JetStreamContext], Awaitable[T]], **options: Any
) -> T:
    """Return what *act* makes of a JetStream context; *options* are nats-py's."""

    async def run() -> T:
        client = await nats.connect(url, allow_reconnect=False, **options)
        try:
            return await act(client.jetstream(timeout=5))
        finally:
            await client.close()

    return asyncio.run(run())


def make_stream(url: str, name: str, *subjects: str, **settings: Any) -> None:
    """The stream exists, with nats-py's settings."""
    config = StreamConfig(name=name, subjects=list(subjects), **settings)

    async def add(js: JetStreamContext) -> StreamInfo:
        return await js.add_stream(config)

    ask_jetstream(url, add)


def delete_stream(url: str, name: str) -> None:
    """The stream is gone."""

    async def delete(js: JetStreamContext) -> bool:
        return await js.delete_stream(name)

    ask_jetstream(url, delete)


def stream_config(url: str, name: str) -> StreamConfig:
    """Return how the stream is configured now."""

    async def info(js: JetStreamContext) -> StreamInfo:
        return await js.stream_info(name)

    return ask_jetstream(url, info).config


def last_sequence(url: str, name: str) -> int:
    """Return how many messages the stream has stored so far."""

    async def info(js: JetStreamContext) -> StreamInfo:
        return await js.stream_info(name)

    return ask_jetstream(url, info).state.last_seq


def reload_server(server: NatsServer, config: str) -> None:
    """The running server has read *config* in place of what it was started with."""
    # A reload must repeat what was a flag, or the server refuses it.
    server._config = f"{config}\nserver_name: {server.identity}\n"
    server._command(server._folder())
    count = server.log.count("Reloaded server configuration")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: server.log.count("Reloaded server configuration") > count)
