"""
One reader for each result channel.

Two readers would share a channel's results between them, and each would wait for ever
for those that the other one took.
"""

import os
import threading
import weakref

from typing import Protocol

from eventbus_sync.bus import EventBus
from eventbus_sync.errors import ConfigError
from eventbus_sync.results import PublishResult, PublishResultChannel


class Reader(Protocol):
    """Who reads a channel."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def finished(self) -> bool:
        """Whether it was stopped, so that another one may read the channel."""


#: Who reads, and in which process: a fork takes no thread along, so what read the
#: channel before it does not read it after it.
_Known = tuple["weakref.ref[Reader]", int]

_lock = threading.Lock()
_readers: "weakref.WeakKeyDictionary[PublishResultChannel, _Known]" = (
    weakref.WeakKeyDictionary()
)


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - a thread of the parent may hold the old one
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


def take_channel(channel: PublishResultChannel, reader: Reader) -> None:
    """
    Make *reader* the one that reads *channel*.

    Raises:
        ConfigError: another one does, and was not stopped.
    """
    with _lock:
        known = _readers.get(channel)
        other = None
        if known is not None and known[1] == os.getpid():
            other = known[0]()
        if other is not None and other is not reader and not other.finished:
            msg = (
                f"the results of this bus are read by {other.name!r} already: give "
                f"{reader.name!r} a bus of its own, or stop the other one first"
            )
            raise ConfigError(msg)
        _readers[channel] = (weakref.ref(reader), os.getpid())


def read_alone(channel: PublishResultChannel, reader: Reader) -> None:
    """Refuse results to everybody but *reader*, which runs, until it has ended."""
    known = weakref.ref(reader)

    def sole_reader() -> str | None:
        reader = known()
        return None if reader is None or reader.finished else reader.name

    channel._read_by(sole_reader)  # noqa: SLF001 - no program of a user's should do that


def take(
    channel: PublishResultChannel, most: int, timeout: float
) -> list[PublishResult]:
    """``get_many`` for the one who reads alone."""
    return channel._take_alone(most, timeout)  # noqa: SLF001 - see read_alone


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
