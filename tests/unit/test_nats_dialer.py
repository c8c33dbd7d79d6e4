"""How long the NATS back end waits before it connects again."""

import asyncio
import random

from typing import Any

import pytest

from eventbus_sync import NatsConfig
from eventbus_sync.backends.nats import dialer
from eventbus_sync.backends.nats.dialer import Dialer


class Taken:
    """A connection that is had at once."""

    def __init__(self, *_: Any) -> None:
        pass

    async def open(self) -> None:
        pass


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting for them, and without chance."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(dialer, "Connection", Taken)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    return pauses


def dial(times: int, *, useful: bool) -> None:
    """Connect so often, and lose each connection at once."""
    config = NatsConfig(reconnect_wait=0.1, max_reconnect_wait=2.0)
    ours = Dialer(config, Any, failed=print, exhausted=print)  # type: ignore[arg-type]

    async def connect() -> None:
        for _ in range(times):
            await ours.dial()
            if useful:
                ours.useful()

    asyncio.run(connect())


def test_a_server_that_throws_us_out_is_asked_ever_less_often(
    pauses: list[float],
) -> None:
    """Connections that bring nothing double the pause, up to the longest."""
    dial(8, useful=False)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_network_that_flaps_is_used_while_it_is_up(pauses: list[float]) -> None:
    """A connection that brought an answer is replaced as soon as the first one."""
    dial(8, useful=True)
    assert pauses == [0.1] * 7


def test_usefulness_is_that_of_the_last_connection(pauses: list[float]) -> None:
    """One that brought an answer long ago makes no later pause short."""
    config = NatsConfig(reconnect_wait=0.1, max_reconnect_wait=2.0)
    ours = Dialer(config, Any, failed=print, exhausted=print)  # type: ignore[arg-type]

    async def connect() -> None:
        await ours.dial()
        ours.useful()
        for _ in range(3):
            await ours.dial()

    asyncio.run(connect())
    assert pauses == [0.1, 0.2, 0.4]
