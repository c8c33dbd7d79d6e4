"""
The configured JetStream stream: created if absent, checked, and never changed.
"""

import logging
import time

from typing import TYPE_CHECKING, Protocol

import nats.js.errors

from nats.js.api import StorageType, StreamConfig

from eventbus_sync.backends.base import Sink
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.forgetting import forgets
from eventbus_sync.config import NatsConfig
from eventbus_sync.config.nats import WINDOW_MARGIN
from eventbus_sync.errors import BrokerUnreachable, EventBusError, StreamInvalid


if TYPE_CHECKING:
    from nats.js.manager import JetStreamManager

#: The server's default, assumed where nothing better is known, in seconds.
DEFAULT_WINDOW = 120.0
#: Seconds to the first and at most between later looks at a stream that is not fit.
LOOK_FIRST, LOOK_MAX = 1.0, 10.0

_STREAM_NAME_IN_USE = 10058
# A cluster that elects its leader: incomplete, unavailable, cannot handle request.
_PASSING = {10004, 10008, 10009}


class Verdict(Protocol):
    """Who is told whether events can be published."""

    def ready(self) -> None:
        """They can, as far as anybody can say."""

    def failed(self, error: EventBusError) -> None:
        """They cannot, or not as promised, and why."""


class StreamCheck:
    """
    What is known of the stream, and when to look again. Lives on the loop thread.

    Args:
        config: of the bus.
        sink: is told what is wrong with the stream, once for each text.
        verdict: is told after each look.

    Attributes:
        window: seconds for which the stream recognises a repeat.
        batches: what the stream takes, if events may go to it as batches; else nothing.
        forgets: why it may not recognise a repeat after a restart, as a clause, or "".
        error: what is wrong with it, if anything is.
    """

    def __init__(self, config: NatsConfig, sink: Sink, verdict: Verdict) -> None:
        self.window = DEFAULT_WINDOW
        self.batches: tuple[str, ...] = ()
        self.forgets = ""
        self.error: EventBusError | None = None
        self._config = config
        self._sink = sink
        self._verdict = verdict
        self._usable = False
        self._look_at = 0.0
        self._pause = LOOK_FIRST
        self._reported = ""

    @property
    def usable(self) -> bool:
        """Whether events can be stored, as far as the last look showed."""
        return self._usable

    def look_now(self) -> None:
        """Somebody wants to know: the next look is due."""
        self._usable = False
        self._look_at = 0.0
        self._pause = LOOK_FIRST

    def due(self, now: float) -> bool:
        """Return whether to look again on a connection that stands."""
        return not self._usable and now >= self._look_at

    async def look(self, connection: Connection) -> None:
        """
        The stream has been looked at, and made if it has to be; never raises.

        Nothing is said about it when the connection is lost meanwhile.
        """
        error: EventBusError | None
        window = None
        forgetful = self.forgets
        batches: tuple[str, ...] = ()
        try:
            found = await ensure_stream(connection, self._config)
            window = float((found and found.duplicate_window) or DEFAULT_WINDOW)
            forgetful = "" if found is None else forgets(found, self._config)
            if found is not None and self._config.publish_mode == "batch":
                batches = tuple(found.subjects or ())
            error = short_window(self._config, window)
        except EventBusError as exc:
            error = exc
        if connection.lost:
            return
        self.batches = batches
        self._usable = window is not None
        self.window = window or self.window
        if forgetful not in {"", self.forgets}:
            self._sink.log(logging.WARNING, _warning(self._config, forgetful))
        self.forgets = forgetful
        if not self._usable:
            self._look_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LOOK_MAX)
        self.error = error
        if error is None:
            self._reported = ""
            self._verdict.ready()
            return
        if str(error) != self._reported:
            # Looked at again and again, it must not fill anybody's log.
            self._reported = str(error)
            self._sink.log(logging.WARNING, str(error))
            self._sink.report(error)
        self._verdict.failed(error)


async def ensure_stream(
    connection: Connection, config: NatsConfig
) -> StreamConfig | None:
    """
    Make sure that the configured stream takes the configured subjects.

    Returns:
        The stream as it is configured; None if there is none to look at.

    Raises:
        StreamInvalid: it is absent, does not take a subject or a batch, or JetStream
            is off.
        BrokerUnreachable: JetStream does not answer now.
        EventBusError: the connection was lost, or may not be used for this.
    """
    if not _looks(config):
        return None
    manager = _manager(connection, config)
    try:
        found = await _found_or_made(connection, manager, config)
        _check(found, config)
        return found  # noqa: TRY300 - what follows are the reasons why there is none
    except EventBusError:
        raise
    except TimeoutError as exc:
        msg = (
            f"JetStream on {connection.server} did not answer; it may be starting, or "
            "out of reach for this account"
        )
        raise BrokerUnreachable(msg) from exc
    except nats.js.errors.APIError as exc:
        if isinstance(exc, nats.js.errors.ServiceUnavailableError) and exc.code is None:
            # nats-py's own word for "no responders".
            msg = f"JetStream is not enabled on {connection.server} for this account"
            if config.js_domain is not None:
                msg += f", or has no domain {config.js_domain!r}"
            raise StreamInvalid(msg) from exc
        kind = BrokerUnreachable if exc.err_code in _PASSING else StreamInvalid
        said = f"{exc.description} (code {exc.err_code})"
        msg = f"stream {config.stream!r} cannot be used: {said}"
        raise kind(msg) from exc
    except Exception as exc:  # what no JetStream says, and nats-py does not expect
        msg = f"what JetStream on {connection.server} says cannot be read: {exc!r}"
        raise StreamInvalid(msg) from exc


def short_window(config: NatsConfig, window: float) -> StreamInvalid | None:
    """Return what is wrong with a window in which retries may be stored twice."""
    enough = config.delivery_timeout + WINDOW_MARGIN
    if window >= enough or not config.jetstream:
        return None
    if _looks(config):
        what = f"stream {config.stream!r} recognises repeats for {window:g} s only"
        cure = f"set its duplicate_window to at least {enough:g} s"
    else:
        what = f"repeats may be recognised for {window:g} s only, as no stream is looked at"
        cure = 'name one as stream, with ensure_stream="validate"'
    return StreamInvalid(
        f"{what}, and events are retried for delivery_timeout="
        f"{config.delivery_timeout:g} s: {cure}, or lower delivery_timeout; until then "
        "an event is not sent again once the window may have passed"
    )


def _warning(config: NatsConfig, forgetful: str) -> str:
    return (
        f"stream {config.stream!r} may not recognise repeats after a restart of its "
        f"server: {forgetful}; events that were unanswered then end as unknown"
    )


def _looks(config: NatsConfig) -> bool:
    """Return whether there is a stream to look at."""
    named = config.stream is not None and config.ensure_stream != "skip"
    return config.jetstream and named


def covers(pattern: str, subject: str) -> bool:
    """Return whether every subject that *subject* matches is matched by *pattern*."""
    wants, has = subject.split("."), pattern.split(".")
    for index, name in enumerate(has):
        if name == ">":
            return len(wants) > index
        if index >= len(wants) or wants[index] == ">":
            return False
        if name not in {"*", wants[index]}:
            return False
    return len(wants) == len(has)


def _check(found: StreamConfig, config: NatsConfig) -> None:
    """Refuse a stream that does not take what is asked of it, or never answers."""
    has = found.subjects or []
    missing = [
        subject
        for subject in config.subjects or ()
        if not any(covers(pattern, subject) for pattern in has)
    ]
    if missing:
        msg = (
            f"stream {config.stream!r} takes {has} but not {missing}: add them to the "
            "stream (it is never changed from here), or correct subjects"
        )
        raise StreamInvalid(msg)
    if found.no_ack:
        msg = f"stream {config.stream!r} has no_ack set, so no event gets an outcome"
        raise StreamInvalid(msg)
    if found.sealed:
        msg = f"stream {config.stream!r} is sealed, so it takes no event any more"
        raise StreamInvalid(msg)
    if config.publish_mode == "batch" and not found.allow_batched:
        msg = (
            f'stream {config.stream!r} does not take what publish_mode="batch" sends: '
            "set allow_batched on the stream (it is never changed from here; servers "
            'before 2.14 cannot), or publish_mode="single", as events go meanwhile'
        )
        raise StreamInvalid(msg)


async def _found_or_made(
    connection: Connection, manager: "JetStreamManager", config: NatsConfig
) -> StreamConfig:
    name = config.stream or ""
    try:
        return (await connection.ask(manager.stream_info(name))).config
    except nats.js.errors.NotFoundError as exc:
        if config.ensure_stream == "validate":
            msg = (
                f"there is no stream {config.stream!r}: create it, or set "
                'ensure_stream="create"'
            )
            raise StreamInvalid(msg) from exc
    wanted = StreamConfig(
        name=config.stream,
        subjects=list(config.subjects or ()),
        storage=StorageType(config.storage),
        num_replicas=config.replicas,
        duplicate_window=config.duplicate_window,
        # Not False: a server that does not know it would be asked about it for nothing.
        allow_batched=True if config.publish_mode == "batch" else None,
    )
    try:
        return (await connection.ask(manager.add_stream(wanted))).config
    except nats.js.errors.BadRequestError as exc:
        if exc.err_code != _STREAM_NAME_IN_USE:
            raise
        # Somebody else, another worker most likely, created it a moment ago.
        return (await connection.ask(manager.stream_info(name))).config


def _manager(connection: Connection, config: NatsConfig) -> "JetStreamManager":
    prefix = "$JS.API" if config.js_domain is None else f"$JS.{config.js_domain}.API"
    timeout = max(2.0, config.connect_timeout)
    return connection.client.jsm(prefix=prefix, timeout=timeout)
