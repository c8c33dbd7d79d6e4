"""
What the broker said about each event: results, and the channel they arrive on.

``PublishResultChannel`` is a ``queue.Queue``: bounded, put or drop, one per bus. It is
filled by the bus alone, a whole chunk of results for one lock and one wake-up.
"""

import enum
import queue
import threading
import time

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import attrs

from eventbus_sync._threads import WaitList
from eventbus_sync.errors import ConfigError, PublishError, ResultChannelClosed


class Outcome(enum.StrEnum):
    """The three ways in which an accepted event can end."""

    #: The broker said that the event is stored.
    ACKED = "acked"
    #: The broker refused every attempt: the event is not stored.
    REJECTED = "rejected"
    #: An attempt went unanswered: the event may be stored. Publish it again and
    #: expect that the broker or the consumer recognises the repeat.
    UNKNOWN = "unknown"


@attrs.frozen(slots=True)
class PublishResult:
    """
    What became of one accepted event.

    Attributes:
        event_id: the envelope's event id.
        topic: Kafka topic or NATS subject.
        outcome: acked, rejected or unknown.
        error: why it is not acked, else None. Its ``retriable`` and
            ``maybe_delivered`` say what an outbox should do.
        settled_at: when the outcome was known, seconds since the epoch.
        latency: seconds from acceptance to outcome.
        partition, offset: where Kafka stored it, else None.
        stream, sequence: where JetStream stored it, else None. An event that went as
            part of a batch (``publish_mode="batch"``) has no sequence.
        duplicate: JetStream had it already, which is a success. Of an event in a batch
            this is not told.
    """

    event_id: str
    topic: str
    outcome: Outcome
    error: PublishError | None
    settled_at: float
    aggregate_id: str
    event_type: str
    tenant_id: int
    latency: float
    partition: int | None = None
    offset: int | None = None
    stream: str | None = None
    sequence: int | None = None
    duplicate: bool = False

    @property
    def success(self) -> bool:
        """True when the broker said that the event is stored."""
        return self.outcome is Outcome.ACKED

    @property
    def timestamp(self) -> datetime:
        """When the outcome was known, in UTC."""
        return datetime.fromtimestamp(self.settled_at, UTC)


class ChannelCounts(NamedTuple):
    """One consistent reading of a channel's counters."""

    capacity: int
    queued: int
    taken: int
    dropped: int


class PublishResultChannel(queue.Queue[PublishResult]):
    """
    The bounded queue on which the outcome of every accepted event arrives.

    Any number of threads may read, but each result goes to one of them only: give one
    channel one reader. Results come in no promised order. After the bus is closed and
    the last result is taken, ``get`` raises ``ResultChannelClosed`` and iteration ends.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(maxsize=capacity)
        self._ended = False
        self._readers = WaitList()
        # What was taken is the difference to what is still there, so that a reader who
        # is interrupted half way leaves the books right.
        self._inserted = 0
        self._dropped = 0
        # Threads that wait in get(): at exit nobody waits for them.
        self._waiting: set[int] = set()
        # Wakes publishers which wait for room; set by the bus in "reserve" mode.
        self._on_taken: Callable[[], None] | None = None
        # Tells the name of who reads alone now, a relay perhaps; None: whoever likes.
        self._sole_reader: Callable[[], str | None] | None = None

    # -- the reader's side ---------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None) -> PublishResult:  # noqa: FBT001, FBT002 - queue.Queue's signature
        """
        Return the next result, waiting for it at most *timeout* seconds.

        Raises:
            queue.Empty: nothing came in time.
            ResultChannelClosed: the bus is closed and nothing is left.
            ConfigError: a relay or a ``ResultConsumer`` reads this channel.
            ValueError: *timeout* is negative.
        """
        result = self._take(1, block=block, timeout=timeout)
        if not result:
            raise queue.Empty
        return result[0]

    def get_many(
        self, max_items: int = 1000, timeout: float | None = None
    ) -> list[PublishResult]:
        """
        Return 1 to *max_items* results at once, or ``[]`` after *timeout* seconds.

        One lock for the whole batch: the cheap way to read, and what a database
        wants. Waits for the first result only, never for a full batch.

        Raises:
            ResultChannelClosed: the bus is closed and nothing is left.
            ConfigError: a relay or a ``ResultConsumer`` reads this channel.
            ValueError: *max_items* is below 1 or *timeout* is negative.
        """
        if max_items < 1:
            msg = f"max_items must be at least 1, not {max_items!r}"
            raise ValueError(msg)
        return self._take(max_items, block=True, timeout=timeout)

    def _take_alone(self, max_items: int, timeout: float | None) -> list[PublishResult]:
        """``get_many`` for the one who reads alone."""
        return self._take(max_items, block=True, timeout=timeout, alone=True)

    def __iter__(self) -> Iterator[PublishResult]:
        """Yield results until the bus is closed and none is left."""
        try:
            while True:
                yield self.get()
        except ResultChannelClosed:
            return

    def put(
        self,
        item: PublishResult,
        block: bool = True,  # noqa: FBT001, FBT002 - queue.Queue's signature
        timeout: float | None = None,
    ) -> None:
        """Refused: only the bus puts results here, or its books would not balance."""
        del item, block, timeout
        msg = "results are put here by the bus alone; use a queue of your own"
        raise TypeError(msg)

    def shutdown(self, immediate: bool = False) -> None:  # noqa: FBT001, FBT002 - queue.Queue's signature
        """Refused: the channel ends when the bus is closed, not before."""
        del immediate
        msg = "the result channel ends with its bus; call bus.close()"
        raise TypeError(msg)

    def _read_by(self, sole_reader: Callable[[], str | None]) -> None:
        """Refuse results to everybody else, also to who waits for one already."""
        with self.mutex:
            self._sole_reader = sole_reader
            self._readers.wake_all_locked()

    def _refuse_second_reader(self, alone: bool) -> None:  # noqa: FBT001 - of two callers
        name = None if alone or self._sole_reader is None else self._sole_reader()
        if name is not None:
            msg = (
                f"the results of this bus are read by {name!r}, which would wait for ever "
                "for those that you take: read a bus of your own, or stop the other one"
            )
            raise ConfigError(msg)

    def _take(
        self, most: int, *, block: bool, timeout: float | None, alone: bool = False
    ) -> list[PublishResult]:
        """Return up to *most* results, or none in time. Raises at the end of stream."""
        if timeout is not None and timeout < 0:
            msg = "'timeout' must be a non-negative number"
            raise ValueError(msg)
        self._refuse_second_reader(alone)
        with self.mutex:
            batch = self._pop_locked(most)
        if batch:
            self._tell_taken()
            return batch
        give_up_at = None if timeout is None else time.monotonic() + timeout
        me = threading.get_ident()
        ticket = None
        try:
            while True:
                self._refuse_second_reader(alone)
                with self.mutex:
                    self._readers.leave_locked(ticket)
                    batch = self._pop_locked(most)
                    if batch:
                        break
                    if self._ended:
                        msg = "the bus is closed and its last result was taken"
                        raise ResultChannelClosed(msg)
                    if not block:
                        return []
                    remaining = -1.0
                    if give_up_at is not None:
                        remaining = give_up_at - time.monotonic()
                        if remaining <= 0:
                            return []
                    self._waiting.add(me)
                    ticket = self._readers.enlist_locked()
                ticket.acquire(timeout=remaining)
        finally:
            self._waiting.discard(me)
        self._tell_taken()
        return batch

    def _pop_locked(self, most: int) -> list[PublishResult]:
        waiting = self.queue
        if most == 1:
            return [waiting.popleft()] if waiting else []
        if len(waiting) > most:
            return [waiting.popleft() for _ in range(most)]
        batch = list(waiting)
        waiting.clear()
        return batch

    def _tell_taken(self) -> None:
        if self._on_taken is not None:
            self._on_taken()

    # -- the bus's side ------------------------------------------------------------

    def _offer(self, results: list[PublishResult]) -> int:
        """
        Move *results* in here: what fits is queued, the rest dropped. Never blocks.

        *results* is empty afterwards, or as it was if this is interrupted before.

        Returns:
            How many were dropped.
        """
        with self.mutex:
            room = 0 if self._ended else self.maxsize - len(self.queue)
            fits = results[:room]
            inserted, dropped = len(fits), len(results) - len(fits)
            # No call between these lines: an exception from outside lands before all
            # of them or after.
            self.queue += fits
            self._inserted += inserted
            self.unfinished_tasks += inserted
            self._dropped += dropped
            del results[:]
            self._readers.wake_all_locked()
        return dropped

    def _end(self) -> None:
        """End the stream: readers get what is left, then ``ResultChannelClosed``."""
        with self.mutex:
            self._ended = True
            self._readers.wake_all_locked()

    def _counts(self) -> ChannelCounts:
        with self.mutex:
            return ChannelCounts(
                capacity=self.maxsize,
                queued=len(self.queue),
                taken=self._inserted - len(self.queue),
                dropped=self._dropped,
            )

    def _reset_after_fork(self) -> None:
        """
        Empty the channel in place and give it fresh locks, in a forked child.

        The inherited lock may be held by a thread that does not exist here, so
        nothing of the old state is touched through it.
        """
        self.mutex = threading.Lock()
        self.not_empty = threading.Condition(self.mutex)
        self.not_full = threading.Condition(self.mutex)
        self.all_tasks_done = threading.Condition(self.mutex)
        self.queue.clear()
        self.unfinished_tasks = 0
        self._inserted = self._dropped = 0
        self._waiting = set()
        self._readers = WaitList()
        self._on_taken = self._sole_reader = None
        self._ended = False
