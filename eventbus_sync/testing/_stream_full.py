"""A JetStream stream that refuses every message, as one does that is full."""

import asyncio

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs


if TYPE_CHECKING:
    from nats.js.api import StreamConfig

#: Seconds for one request.
_TIMEOUT = 5.0


def fill(url: str, stream: str) -> Callable[[], None]:
    """
    The stream takes nothing more, and keeps what it has.

    Returns:
        What gives it back its limits.
    """
    before = asyncio.run(_limited(url, stream))

    def undo() -> None:
        asyncio.run(_limited(url, stream, attrs.asdict(before)))

    return undo


@attrs.frozen
class _Limits:
    max_bytes: int | None
    discard: Any


async def _limited(
    url: str, stream: str, limits: dict[str, Any] | None = None
) -> _Limits:
    import nats  # noqa: PLC0415 - importing testing loads no driver

    from nats.js.api import DiscardPolicy  # noqa: PLC0415

    client = await nats.connect(url, allow_reconnect=False)
    try:
        js = client.jetstream(timeout=_TIMEOUT)
        config: StreamConfig = (await js.stream_info(stream)).config
        before = _Limits(config.max_bytes, config.discard)
        # Without "discard new" the server would throw away what is there.
        wanted = limits or {"max_bytes": 1, "discard": DiscardPolicy.NEW}
        await js.update_stream(config.evolve(**wanted))
        return before
    finally:
        await client.close()
