"""One driver producer, from its making to its end, and the reports it gives."""

import contextlib
import ctypes
import re
import time

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from eventbus_sync.backends.base import Ack, Delivery, Settlement, Sink
from eventbus_sync.backends.kafka.errors import (
    LASTING,
    PRODUCER_ID_REFUSED,
    PURGED,
    TOO_LARGE,
    producer_id_refused,
    producer_lost,
    publish_error,
)
from eventbus_sync.backends.kafka.link import Link
from eventbus_sync.backends.kafka.unanswered import Unanswered
from eventbus_sync.errors import PublishError, PublishRejected


#: One call of poll() may serve all reports there are, a hundred thousand. So that no
#: result waits for the last of them, and publishers get room as it becomes free, the
#: reports are handed over whenever so many have come, also in the middle of a poll().
CHUNK = 1000

_CLOSE_ATTEMPTS = 3

_TIMED_OUT = KafkaError(KafkaError._MSG_TIMED_OUT)  # noqa: SLF001 - so they spell it

_HAS_PRODUCER_ID = re.compile(r'"idemp_state": *"Assigned"')


class _TooLarge(NamedTuple):
    """The report of an event whose batch was larger than the broker takes."""

    delivery: Delivery
    error: KafkaError
    place: tuple[str | None, int | None]
    alone: bool


class Report:
    """
    Takes the delivery report of one event; what ``produce()`` is given to call.

    Runs on the poll thread, inside the driver: it must not call the driver, and what
    it raised would come out of ``poll()``. An object that is called is cheaper to make
    than a bound method, a partial or a closure, and no dearer to call.
    """

    __slots__ = ("client", "delivery")

    def __init__(self, delivery: Delivery, client: "Client") -> None:
        self.delivery = delivery
        self.client = client

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        """Append the outcome, and hand over when enough have come."""
        client = self.client
        try:
            if error is None:
                said: Ack | PublishError = Ack(message.partition(), message.offset())
                client.acked = True
            elif error.code() in TOO_LARGE:
                client.refuse_size(error, message, self.delivery)
                return
            else:
                said = client.outcome(error, self.delivery)
            client.reports.append((self.delivery, said))
            if len(client.reports) >= CHUNK:
                client.hand_over()
        except Exception as exc:  # noqa: BLE001 - told to the poll loop, see poll()
            client.broken = exc


def _closed(*_: object, **__: object) -> None:
    raise RuntimeError("this producer is closed")  # noqa: EM101, TRY003 - as the driver says


class Client:
    """
    A producer that is made, polled, emptied and closed by the poll thread alone.

    ``produce`` may be called from any thread at any time: after ``close`` it raises
    RuntimeError, after a fatal error KafkaException.

    Args:
        settings: for ``confluent_kafka.Producer``.
        sink: gets the outcomes.
        link: gets what concerns the connection, until the client is retired.
        on_failure: called at once, possibly inside a delivery report, when the producer
            is found to be of no more use. Must not call the driver.

    Raises:
        KafkaException, ValueError, TypeError: the settings are wrong.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        sink: Sink,
        link: Link,
        on_failure: Callable[["Client"], None],
    ) -> None:
        self._sink = sink
        self._link = link
        self._on_failure = on_failure
        self._batch_bytes = int(settings["batch.size"])
        self._errors: dict[tuple[int, bool, str], PublishError] = {}
        self._too_large: list[_TooLarge] = []
        self._retired = False
        #: Outcomes that were not handed over yet.
        self.reports: list[Settlement] = []
        #: How many outcomes were handed over.
        self.handed_over = 0
        #: Whether the broker has acknowledged anything.
        self.acked = False
        #: Whether the broker has granted the id that idempotence needs.
        self.has_producer_id = False
        #: Why this producer is of no more use, and what becomes of its events.
        self.failure: PublishError | None = None
        #: What becomes of new events, if another producer would be refused as well.
        self.refusal: PublishRejected | None = None
        #: What a broker may have stored without saying so.
        self.unanswered = Unanswered()
        #: What was accepted before this has timed out when the producer is emptied.
        self.overdue_before = float("-inf")
        #: Set when an event timed out that may be stored: see ``Poller._give_up``.
        self.repeats = False
        #: When it was made.
        self.made_at = time.monotonic()
        #: What a delivery report raised.
        self.broken: Exception | None = None
        self._producer = Producer(
            settings
            | {
                "error_cb": self._on_error,
                "stats_cb": self._on_statistics,
                "logger": self,
            }
        )
        self.produce: Callable[..., None] = self._producer.produce

    # -- while it works ----------------------------------------------------------------

    def poll(self, timeout: float) -> None:
        """
        Serve what is there, waiting for it at most *timeout* seconds, and hand it over.

        Raises:
            Exception: a delivery report or the driver failed in an unforeseen way.
        """
        try:
            self._producer.poll(timeout)
        except KafkaException as exc:
            error = exc.args[0]
            if not error.fatal():
                raise
            self._fail(error)
        except UnicodeDecodeError:
            # A log line of the driver's that is not UTF-8: nothing is lost but it.
            pass
        finally:
            self._judge_sizes()
            self.hand_over()
        if self.broken is not None:
            broken, self.broken = self.broken, None
            raise broken

    def hand_over(self) -> None:
        """Give the sink what has been reported; it never blocks."""
        self._errors.clear()
        if self.reports:
            chunk, self.reports = self.reports, []
            self.handed_over += len(chunk)
            if not self._retired and isinstance(chunk[-1][1], Ack):
                self._link.acknowledged()
            self._sink.settle(chunk)

    def outcome(self, error: KafkaError, delivery: Delivery) -> PublishError:
        """Return what the report *error* means for the event."""
        code = error.code()
        if code in LASTING:
            self._fail(error)
        if self.failure is not None and code in PURGED:
            if delivery.accepted_at > self.overdue_before:
                return self.failure
            # What the driver would have said a moment later.
            error, code = _TIMED_OUT, _TIMED_OUT.code()
        elif code == _TIMED_OUT.code():
            self.repeats |= self.may_repeat(delivery.accepted_at)
        doubted = self._link.doubts(delivery.accepted_at)
        # Outages end thousands of events with one and the same error.
        trouble = self._link.trouble_of(delivery.accepted_at)
        known = self._errors.get((code, doubted, trouble))
        if known is None:
            known = publish_error(error, trouble=trouble, doubted=doubted)
            self._errors[code, doubted, trouble] = known
        return known

    def may_repeat(self, accepted_at: float) -> bool:
        """Return whether it would send again what was stored, if such an event ended."""
        if not self.acked and self._link.hung_up_at is not None:
            return False  # it was never let in
        return self.unanswered.may_hold(accepted_at) or self._link.unanswered(
            accepted_at, since=self.made_at
        )

    def refuse_size(
        self, error: KafkaError, message: Message, delivery: Delivery
    ) -> None:
        """Take the report that a batch was too large; the end of the poll tells why."""
        # An event longer than a batch may be travels alone. (Headers are not counted:
        # reports don't bring them.)
        alone = len(message) + len(message.key() or b"") > self._batch_bytes
        place = message.topic(), message.partition()
        self._too_large.append(_TooLarge(delivery, error, place, alone))

    def _judge_sizes(self) -> None:
        """Tell events that are too large themselves from those in their company."""
        if not self._too_large:
            return
        refused, self._too_large = self._too_large, []
        # All events of a batch are reported in one poll. So an event that is the only
        # one of its partition was the only one in its batch.
        company = Counter(one.place for one in refused)
        for delivery, error, place, alone in refused:
            said = publish_error(
                error,
                doubted=self._link.doubts(delivery.accepted_at),
                alone=alone or company[place] == 1,
            )
            self.reports.append((delivery, said))

    def list_topics(self, timeout: float) -> None:
        """
        Return if a broker answers within *timeout* seconds; callable from any thread.

        Raises:
            KafkaException: none did.
            RuntimeError: the producer is closed.
        """
        self._producer.list_topics(timeout=timeout)

    def log(self, level: int, _: str, facility: str, __: str, text: str) -> None:
        """What the driver's ``logger=`` must have: format, facility, name and text."""
        self._link.log(level, facility, text)

    def _on_error(self, error: KafkaError) -> None:
        if not self._retired:
            self._link.failed(error)

    def _on_statistics(self, text: str) -> None:
        if not self._retired:
            # Parsing them all would cost 20 µs a partition; this part is at their end.
            self.has_producer_id = _HAS_PRODUCER_ID.search(text[-1000:]) is not None
            self._link.statistics(text)
            self.unanswered.statistics(text, time.monotonic())

    def _fail(self, error: KafkaError) -> None:
        if self.failure is not None:
            return
        if error.code() in PRODUCER_ID_REFUSED and error.fatal():
            self.refusal = producer_id_refused(error)
        # Without an id nothing was ever sent, so the refusal is certain. An id that
        # was granted, used and then refused leaves a doubt.
        if self.refusal is not None and not self.acked:
            self.failure = self.refusal
        else:
            self.failure = producer_lost(error)
        self._on_failure(self)

    # -- its end -----------------------------------------------------------------------

    def retire(self, why: PublishError | None) -> None:
        """
        Settle everything the producer still holds, and stop telling the link.

        Args:
            why: the outcome, unless the producer failed; None: the bus is closing.
        """
        self._retired = True
        if self.failure is None:
            self.failure = why
        self.purge()

    def purge(self) -> None:
        """
        Throw out what the producer holds; the reports come with the next polls.

        To be repeated: a publisher that took this client before it was withdrawn may
        call ``produce`` only now.
        """
        # The driver turns the last flag round: True is "don't block".
        self._producer.purge(in_queue=True, in_flight=True, blocking=True)

    def drain(self, timeout: float) -> bool:
        """Purge and poll once; return whether nothing is left."""
        self.purge()
        # What this producer still has to complain about is of no interest any more.
        with contextlib.suppress(KafkaException):
            self.poll(timeout)
        return self.holds == 0

    @property
    def holds(self) -> int:
        """Messages that wait for a broker or a poll, and events that wait for a poll."""
        return len(self._producer)

    def close(self) -> None:
        """
        End the producer's threads and connections; needs to be drained before.

        One that holds messages all the same is left as it is.
        """
        self._retired = True
        # A message that comes from here on would make the driver's close wait for it.
        self.produce = _closed
        # Log lines count as well, and may come at any moment.
        for _ in range(_CLOSE_ATTEMPTS):
            if self.holds == 0:
                self._producer.close()
                return
            self.drain(0.0)
        self.keep()

    def keep(self) -> None:
        """
        Keep the producer as it is, for ever.

        Freeing it would drop its messages without a report, and may wait for its
        threads; closing it would wait for the broker. So it gets one reference too
        many, which also the end of the interpreter does not take away.
        """
        self._retired = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))
