"""
The memory back end: the reference implementation of the contract.

``MemoryBroker`` plays the server and obeys on command: it stores, rejects, delays,
freezes, or drops acknowledgements. Users' unit tests run on it, and every sentence of
the contract is tested on it first.
"""

import threading
import time

from collections import deque
from collections.abc import Callable, Sequence

import attrs

from eventbus_sync._arguments import check_seconds
from eventbus_sync._threads import Deadline, WaitList, spawn
from eventbus_sync.backends.base import Ack, Delivery, OutgoingMessage, Settlement, Sink
from eventbus_sync.config import MemoryConfig
from eventbus_sync.errors import (
    Abandoned,
    BrokerUnreachable,
    BusClosed,
    ConfigError,
    DeliveryTimedOut,
    EnvelopeError,
    PublishError,
)


#: Seconds between two looks at deadlines while something is in flight.
TICK = 0.05
#: How many messages a back end's own broker keeps: they serve as its duplicate window.
KEPT = 10_000

Verdict = Callable[[OutgoingMessage], PublishError | None]


@attrs.frozen(slots=True)
class StoredMessage:
    """A message as the memory broker keeps it."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...]
    event_id: str
    position: int


class MemoryBroker:
    """
    A broker in this process that misbehaves on command. Thread-safe.

    A repeat of an event id on one topic is not stored again and is acknowledged as a
    duplicate, as JetStream does.

    Args:
        latency: seconds from message to answer.
        keep: of how many messages it knows, the latest ones; None is all of them.
    """

    def __init__(self, latency: float = 0.0, *, keep: int | None = None) -> None:
        #: Guards this object and the queue of the back end before it.
        self.lock = threading.Lock()
        #: Woken by every command, so that the worker looks again.
        self.changed = WaitList()
        self._keep = keep
        self._stored: deque[StoredMessage] = deque()
        self._next_position = 0
        self._positions: dict[tuple[str, str], int] = {}
        self._latency = latency
        self._frozen = False
        self._verdicts: list[tuple[Verdict, float]] = []
        self._drops = 0.0

    # -- commands -------------------------------------------------------------------

    def reject(
        self, error: PublishError, *, topic: str | None = None, times: float = 1
    ) -> None:
        """
        Refuse the next *times* messages (``math.inf``: all) with *error*.

        Args:
            error: goes into the results as it is.
            topic: refuse only messages to this topic.
            times: how many messages.

        Raises:
            ConfigError: *error* is no ``PublishError``, or *times* is not above 0.
        """
        if not isinstance(error, PublishError):
            msg = f"error must be a PublishError, not {type(error).__name__}"
            raise ConfigError(msg)
        _check_times(times)

        def verdict(message: OutgoingMessage) -> PublishError | None:
            return error if topic in {None, message.topic} else None

        with self.lock:
            self._verdicts.append((verdict, times))

    def accept(self) -> None:
        """Refuse nothing any more, whatever ``reject`` said."""
        with self.lock:
            self._verdicts.clear()

    def delay(self, seconds: float) -> None:
        """
        Answer every message *seconds* after it came, from now on.

        Raises:
            ConfigError: *seconds* is not a number of 0 or more.
        """
        check_seconds("seconds", seconds)
        with self.lock:
            self._latency = seconds
            self.changed.wake_all_locked()

    def freeze(self) -> None:
        """Answer nothing and store nothing until ``resume``."""
        with self.lock:
            self._frozen = True

    def resume(self) -> None:
        """Go on where ``freeze`` stopped; nothing is lost."""
        with self.lock:
            self._frozen = False
            self.changed.wake_all_locked()

    def drop_acks(self, times: float = 1) -> None:
        """
        Store the next *times* messages, but never say so.

        Raises:
            ConfigError: *times* is not above 0.
        """
        _check_times(times)
        with self.lock:
            self._drops += times

    def clear(self) -> None:
        """Forget stored messages and every command."""
        with self.lock:
            self._stored.clear()
            self._positions.clear()
            self._verdicts.clear()
            self._drops = 0.0
            self._frozen = False
            self.changed.wake_all_locked()

    def messages(self, topic: str | None = None) -> list[StoredMessage]:
        """Return what is stored, in order; of one topic if *topic* is given."""
        with self.lock:
            stored = tuple(self._stored)
        return [m for m in stored if topic in {None, m.topic}]

    def reset_after_fork(self) -> None:
        """Take a fresh lock, in a forked child: the old one may be held for ever."""
        self.lock = threading.Lock()
        self.changed = WaitList()

    # -- the back end's side --------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether the broker answers nothing now."""
        return self._frozen

    @property
    def latency(self) -> float:
        """Seconds from message to answer."""
        return self._latency

    def take(self, message: OutgoingMessage) -> Ack | PublishError | None:
        """Store *message* or refuse it; None: stored, but the answer got lost."""
        with self.lock:
            for index, (verdict, times) in enumerate(self._verdicts):
                error = verdict(message)
                if error is not None:
                    self._verdicts[index] = (verdict, times - 1)
                    self._verdicts = [(v, n) for v, n in self._verdicts if n > 0]
                    return error
            identity = (message.topic, message.event_id)
            position = self._positions.get(identity) if message.event_id else None
            duplicate = position is not None
            if position is None:
                position = self._next_position
                self._next_position += 1
                if message.event_id:
                    self._positions[identity] = position
                self._stored.append(
                    StoredMessage(
                        message.topic,
                        message.key,
                        message.value,
                        tuple(message.headers),
                        message.event_id,
                        position,
                    )
                )
                self._forget_locked()
            if self._drops > 0:
                self._drops -= 1
                return None
            return Ack(0, position, duplicate=duplicate)

    def _forget_locked(self) -> None:
        if self._keep is not None and len(self._stored) > self._keep:
            oldest = self._stored.popleft()
            self._positions.pop((oldest.topic, oldest.event_id), None)


@attrs.define(slots=True, eq=False)
class _Queued:
    message: OutgoingMessage
    delivery: Delivery | None
    came: float
    due: float


class MemoryBackend:
    """Keeps the contract of ``backends/base.py`` with one thread and no I/O."""

    def __init__(
        self, config: MemoryConfig, sink: Sink, broker: MemoryBroker | None = None
    ) -> None:
        # Nobody else sees a broker of our own: it must not grow for ever.
        self.broker = broker or MemoryBroker(config.latency, keep=KEPT)
        self._config = config
        self._sink = sink
        self._lock = self.broker.lock
        self._changed = self.broker.changed
        self._queue: deque[_Queued] = deque()
        self._unanswered: deque[_Queued] = deque()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the worker thread."""
        self._thread = spawn(f"{self._config.name}-memory", self._run)

    def check(self, deadline: Deadline) -> None:
        """Return at once unless the broker is frozen until *deadline*."""
        ticket = None
        while True:
            with self._lock:
                self._changed.leave_locked(ticket)
                if not self.broker.frozen:
                    return
                remaining = deadline.remaining()
                if remaining <= 0:
                    msg = "the memory broker is frozen; call broker.resume()"
                    raise BrokerUnreachable(msg)
                ticket = self._changed.enlist_locked()
            ticket.acquire(timeout=remaining)

    def check_topic(self, topic: str) -> None:
        """Refuse a topic that is blank or holds blanks or control characters."""
        if not topic.isprintable() or not topic or " " in topic:
            msg = (
                f"topic {topic!r} is not legal: use a non-empty name without blanks "
                "and control characters"
            )
            raise EnvelopeError(msg, field="topic")

    def check_headers(self, headers: Sequence[tuple[str, str]]) -> None:
        """Accept every header: memory keeps them as they are."""

    def send(
        self, message: OutgoingMessage, delivery: Delivery, deadline: Deadline
    ) -> None:
        """Queue *message* for the worker."""
        del deadline  # there is always room
        self._enqueue(message, delivery)

    def send_plain(self, message: OutgoingMessage, deadline: Deadline) -> None:
        """Queue *message*; nobody hears of its outcome."""
        del deadline
        self._enqueue(message, None)

    def close(self, deadline: Deadline) -> None:
        """Settle what is left as abandoned and end the worker."""
        with self._lock:
            self._closing = True
            left = [*self._unanswered, *self._queue]
            self._unanswered.clear()
            self._queue.clear()
            self._changed.wake_all_locked()
        error = Abandoned()
        self._sink.settle([(q.delivery, error) for q in left if q.delivery])
        if self._thread is not None:
            self._thread.join(deadline.remaining())

    def _enqueue(self, message: OutgoingMessage, delivery: Delivery | None) -> None:
        with self._lock:
            if self._closing:
                raise BusClosed
            now = time.monotonic()
            due = now + self.broker.latency
            self._queue.append(_Queued(message, delivery, now, due))
            # The worker sleeps only when the queue was empty, or for a due time.
            if len(self._queue) == 1:
                self._changed.wake_all_locked()

    def _run(self) -> None:
        self._sink.connected()
        while True:
            ticket = None
            with self._lock:
                if self._closing:
                    return
                pause = self._pause_locked()
                if pause > 0:
                    ticket = self._changed.enlist_locked()
            if ticket is not None:
                ticket.acquire(timeout=pause)
            with self._lock:
                self._changed.leave_locked(ticket)
                if self._closing:
                    return
                ready = self._ready_locked()
            chunk = self._answer(ready)
            chunk += self._timed_out()
            if chunk:
                self._sink.settle(chunk)
            self._sink.expire()

    def _ready_locked(self) -> list[_Queued]:
        if self.broker.frozen:
            return []
        now = time.monotonic()
        ready = []
        while self._queue and self._queue[0].due <= now:
            ready.append(self._queue.popleft())
        return ready

    def _pause_locked(self) -> float:
        """Return how long nothing will happen unless somebody wakes us."""
        if self._queue and not self.broker.frozen:
            return min(TICK, max(0.0, self._queue[0].due - time.monotonic()))
        if self._unanswered or self._queue:
            return TICK
        # Idle; but an event whose publisher was interrupted still needs expire().
        return 5 * TICK

    def _answer(self, ready: Sequence[_Queued]) -> list[Settlement]:
        chunk: list[Settlement] = []
        for queued in ready:
            said = self.broker.take(queued.message)
            if queued.delivery is None:
                continue
            if said is None:
                with self._lock:
                    self._unanswered.append(queued)
            else:
                chunk.append((queued.delivery, said))
        return chunk

    def _timed_out(self) -> list[Settlement]:
        horizon = time.monotonic() - self._config.delivery_timeout
        with self._lock:
            overdue = []
            for line in (self._unanswered, self._queue):
                while line and line[0].came <= horizon:
                    overdue.append(line.popleft())
        error = DeliveryTimedOut()
        return [(q.delivery, error) for q in overdue if q.delivery is not None]


def _check_times(times: object) -> None:
    if isinstance(times, bool) or not isinstance(times, int | float) or not times > 0:
        msg = f"times must be a number above 0 (math.inf: all), not {times!r}"
        raise ConfigError(msg)
