"""
The NATS JetStream back end: one loop thread, a fixed crew of ack workers.

The way of an event: ``send`` appends a record to the hand-over (``handover.py``) and
wakes the loop; ``pump.py`` writes it to a connection (``connection.py``) under its
token. The way back: the connection gets the answer, ``answers.py`` finds its record
and collects a chunk, and an ack worker (``workers.py``) parses the chunk
(``ack.py``) and settles it.
"""

import asyncio
import importlib.util
import logging
import re
import threading

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from eventbus_sync._threads import Deadline, spawn
from eventbus_sync.backends.base import Delivery, OutgoingMessage, Sink
from eventbus_sync.backends.nats.handover import HandOver
from eventbus_sync.backends.nats.login import check_extra, tls_context
from eventbus_sync.backends.nats.pump import Pump
from eventbus_sync.backends.nats.readiness import Readiness
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.resolver import Resolver
from eventbus_sync.backends.nats.workers import AckWorkers
from eventbus_sync.config import NatsConfig
from eventbus_sync.envelope.headers import check_header_values
from eventbus_sync.errors import BackendBusy, BusClosed, ConfigError, EnvelopeError


#: Plain messages that may wait for a connection; more are refused.
MAX_PLAIN = 10_000
#: How many topics are remembered as legal.
MAX_KNOWN_TOPICS = 10_000

_topic = re.compile(r"[^\s.*>\x00-\x20\x7f]+(\.[^\s.*>\x00-\x20\x7f]+)*").fullmatch
_MAX_TOPIC = 512


class NatsBackend:
    """
    Keeps the contract of ``backends/base.py`` over nats-py and JetStream.

    Args:
        config: of the bus.
        sink: is told outcomes and news.

    Raises:
        ConfigError: an option in ``extra`` is none, a TLS file cannot be used, or a
            package is missing.
    """

    def __init__(self, config: NatsConfig, sink: Sink) -> None:
        check_extra(config)
        if config.tls:
            tls_context(config)  # wrong files are said now, not at every attempt
        if (config.nkey_seed or config.nkey_seed_file or config.creds_file) and (
            importlib.util.find_spec("nkeys") is None
        ):
            msg = (
                "nkey_seed, nkey_seed_file and creds_file need one more package; "
                "run: pip install 'eventbus-sync[nkeys]'"
            )
            raise ConfigError(msg)
        self._config = config
        self._sink = sink
        self._handover = HandOver()
        self._readiness = Readiness()
        self._workers = AckWorkers(config.ack_workers, f"{config.name}-ack", sink)
        self._pump = Pump(
            config, sink, self._handover, self._readiness, self._workers.submit
        )
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resolver: Resolver | None = None
        self._thread: threading.Thread | None = None
        self._known_topics: set[str] = set()
        self._close_lock = threading.Lock()

    # -- before an event -----------------------------------------------------------------

    def start(self) -> None:
        """Start loop, resolver and workers now: none can start at process exit."""
        name = self._config.name
        self._workers.start()
        self._resolver = Resolver(f"{name}-resolver")
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(self._resolver)
        self._handover.attach(self._loop)
        self._thread = spawn(f"{name}-nats-loop", self._run)

    def check(self, deadline: Deadline) -> None:
        """Return once connected with a fit stream; raise what an attempt ended in."""
        servers = ", ".join(self._config.servers)
        self._readiness.wait(deadline, self._look_again, servers)

    def check_topic(self, topic: str) -> None:
        """Refuse what is no subject to publish to, and the server's own subjects."""
        if topic in self._known_topics:
            return
        try:
            encoded = topic.encode()
        except UnicodeEncodeError:
            encoded = b""
        if (
            not _topic(topic)
            or not encoded
            or len(encoded) > _MAX_TOPIC
            or topic.startswith("$")
        ):
            msg = (
                f"topic {topic[:100]!r} is not a legal NATS subject: use tokens joined "
                f"by dots, without blanks, control characters, * and >, not starting "
                f"with $, at most {_MAX_TOPIC} bytes"
            )
            raise EnvelopeError(msg, field="topic")
        if len(self._known_topics) >= MAX_KNOWN_TOPICS:
            self._known_topics.clear()
        self._known_topics.add(topic)

    def check_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """Refuse values that end a header line, or that a reader would find changed."""
        check_header_values(headers)

    # -- an event out --------------------------------------------------------------------

    def send(
        self, message: OutgoingMessage, delivery: Delivery, deadline: Deadline
    ) -> None:
        """Append to the hand-over and wake the loop once per burst."""
        del deadline  # the bus limits what is in flight, so there is always room
        if self._closing:
            raise BusClosed
        give_up_at = delivery.accepted_at + self._config.delivery_timeout
        self._handover.put(Record(message, delivery, give_up_at))

    def send_plain(self, message: OutgoingMessage, deadline: Deadline) -> None:
        """Append to the hand-over of plain messages."""
        del deadline  # waiting would not bring the server back
        if self._closing:
            raise BusClosed
        if len(self._handover.plain) >= MAX_PLAIN:
            msg = (
                f"{MAX_PLAIN} plain messages wait for a connection to "
                f"{', '.join(self._config.servers)}"
            )
            raise BackendBusy(msg)
        self._handover.put_plain(message)

    # -- the end -------------------------------------------------------------------------

    def close(self, deadline: Deadline) -> None:
        """Stop the loop, let the workers finish, and end every thread."""
        self._closing = True
        self._readiness.close()
        if not self._close_lock.acquire(timeout=deadline.remaining()):
            return
        try:
            loop, thread = self._loop, self._thread
            if loop is not None and thread is not None:
                # Half of it for what is handed over and not written yet.
                with suppress(RuntimeError):  # the loop is closed already
                    grace = deadline.remaining() / 2
                    loop.call_soon_threadsafe(self._pump.stop, grace)
                thread.join(deadline.remaining())
            elif loop is not None:
                loop.close()  # start() failed at the thread
            # After the loop: its last chunk is in the workers' queue by now. They
            # only parse and take locks of ours, so this does not wait for anybody.
            self._workers.close(deadline)
            # Last: a name server that is silent may take all that is left.
            if self._resolver is not None:
                self._resolver.close(deadline)
        finally:
            self._close_lock.release()

    # -- the loop's thread ---------------------------------------------------------------

    def _look_again(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._pump.look)

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None  # noqa: S101 - made before the thread
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(self._on_loop_error)
        try:
            loop.run_until_complete(self._pump.run())
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
            loop.close()

    def _on_loop_error(
        self, _: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        # asyncio would log from this thread, where no logging handler may run.
        self._sink.log(logging.DEBUG, f"asyncio: {context!r}")
