"""
One reader for each result channel.

Two readers would share a channel's results between them, and each would wait for ever
for those that the other one took.
"""

import threading
import weakref

from typing import Protocol

from eventbus_sync.bus import EventBus
from eventbus_sync.errors import ConfigError
from eventbus_sync.results import PublishResultChannel


class Reader(Protocol):
    """Who reads a channel."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def finished(self) -> bool:
        """Whether it was stopped, so that another one may read the channel."""


_lock = threading.Lock()
_readers: "weakref.WeakKeyDictionary[PublishResultChannel, weakref.ref[Reader]]" = (
    weakref.WeakKeyDictionary()
)


def take_channel(channel: PublishResultChannel, reader: Reader) -> None:
    """
    Make *reader* the one that reads *channel*.

    Raises:
        ConfigError: another one does, and was not stopped.
    """
    with _lock:
        known = _readers.get(channel)
        other = None if known is None else known()
        if other is not None and other is not reader and not other.finished:
            msg = (
                f"the results of this bus are read by {other.name!r} already: give "
                f"{reader.name!r} a bus of its own, or stop the other one first"
            )
            raise ConfigError(msg)
        _readers[channel] = weakref.ref(reader)


def channel_of(source: EventBus | PublishResultChannel) -> PublishResultChannel:
    """Return the channel of a bus, or the channel itself."""
    if isinstance(source, EventBus):
        return source.get_publish_result_channel()
    if isinstance(source, PublishResultChannel):
        return source
    msg = (
        "results come from an EventBus or its result channel, not from "
        f"{type(source).__name__}"
    )
    raise ConfigError(msg)
