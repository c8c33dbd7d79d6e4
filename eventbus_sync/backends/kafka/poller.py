"""
The poll thread: makes producers, serves their reports, replaces and ends them.

A producer can be lost: by a fatal error, or by fencing, after which it answers every
event alike for ever. It is then withdrawn from the publishers, emptied and replaced;
publishers that come in between wait for the next one.
"""

import logging
import random
import time

from typing import Any

from confluent_kafka import KafkaException

from eventbus_sync._threads import Deadline
from eventbus_sync.backends.base import Sink
from eventbus_sync.backends.kafka.client import Client
from eventbus_sync.backends.kafka.link import Link
from eventbus_sync.backends.kafka.settings import GIVE_UP_LEAD
from eventbus_sync.backends.kafka.slot import Slot
from eventbus_sync.errors import (
    BackendFailed,
    ConfigError,
    EventBusError,
    ProducerLost,
    PublishError,
)


# A report ends a poll at once, closing does not: so polls are shorter while there is
# something to do. The driver chops those of 0.2 s and more.
_BUSY_POLL = 0.05
_IDLE_POLL = 0.19
_IDLE_AFTER = 1.0

#: Seconds between two looks for events that the driver forgot.
_EXPIRE_EVERY = 0.25

#: Seconds until a lost producer is replaced: the first time, doubled, at most.
_FIRST_BACKOFF = 0.1
_LAST_BACKOFF = 5.0
#: Seconds until settings that were refused are tried again: somebody may mend them.
_REFUSED_BACKOFF = 30.0

#: Seconds after delivery_timeout at which a producer is given up that may hold what a
#: broker has stored: late, for an answer may still come, but before the driver gives the
#: event up; and how long it takes for it at most.
_GIVE_UP_AFTER, _GIVE_UP_PATIENCE = GIVE_UP_LEAD / 1000 - 0.3, 0.15
#: So old, as a part of delivery_timeout, is the oldest event before anybody looks.
_WATCH_PART = 0.2

#: Seconds for which a withdrawn producer is emptied: publishers may still hold it.
_RETIRED_FOR = 2.0
#: Seconds after which one that does not get empty is given up.
_RETIRED_AT_MOST = 60.0

#: Seconds to end in good order, even if the closer has no time at all.
_CLOSE_AT_LEAST = 0.5


class Poller:
    """
    What runs on the poll thread; everything but ``close_by`` belongs to it alone.

    Args:
        settings: for the driver's producers.
        sink: gets outcomes and errors.
        link: gets what concerns the connection.
        slot: where publishers find the producer.
    """

    def __init__(
        self, settings: dict[str, Any], sink: Sink, link: Link, slot: Slot
    ) -> None:
        self._settings = settings
        self._timeout = (settings["message.timeout.ms"] - GIVE_UP_LEAD) / 1000
        self._idempotent = bool(settings["enable.idempotence"])
        self._sink = sink
        self._link = link
        self._slot = slot
        #: When the first closer wants to be done; set before the slot is closed.
        self.close_by = Deadline(0.0)
        self._client: Client | None = None
        self._retired: list[tuple[Client, float]] = []
        self._connect_at = 0.0
        self._losses = 0
        self._expire_at = 0.0
        self._active_at = 0.0

    def run(self) -> None:
        """Work until the slot is closed, then empty and close every producer."""
        while not self._slot.closing:
            try:
                self._turn()
            except Exception as exc:  # noqa: BLE001 - this thread must outlive anything
                self._failed(exc)
        try:
            self._end()
        except Exception as exc:  # noqa: BLE001 - the bus settles what is left
            self._report("failed while it ended", exc)
            for client in self._all():
                client.keep()

    def _turn(self) -> None:
        """Serve the producer once, and whatever else is due."""
        now = time.monotonic()
        client = self._client
        if client is not None:
            self._serve(client, now)
        elif now >= self._connect_at:
            self._connect()
        else:
            self._slot.pause(min(_BUSY_POLL, self._connect_at - now))
        self._tend_retired()
        if now >= self._expire_at:
            self._expire_at = now + _EXPIRE_EVERY
            self._sink.expire()

    def _serve(self, client: Client, now: float) -> None:
        before = client.handed_over
        idle = now - self._active_at > _IDLE_AFTER
        client.poll(_IDLE_POLL if idle else _BUSY_POLL)
        if client.handed_over != before:
            self._active_at = now
        if client.acked:
            self._losses = 0
        if client.failure is not None:
            self._replace(client, client.failure)
        elif not self._idempotent:
            pass  # a message that is sent again is stored again: nothing to protect
        elif client.repeats:
            self._give_up(client, patience=0.0)
        elif now - client.made_at > self._timeout * _WATCH_PART:
            self._look_at_oldest(client, now)

    # -- from one producer to the next -------------------------------------------------

    def _connect(self) -> None:
        """Make a producer, which may block, and give it to the publishers."""
        try:
            client = Client(self._settings, self._sink, self._link, self._slot.withdraw)
        except (KafkaException, ValueError, TypeError) as exc:
            said = exc.args[0].str() if isinstance(exc, KafkaException) else str(exc)
            # Without the driver's exception, whose text may hold a secret.
            verdict = ConfigError(
                "the Kafka driver does not accept these settings: "
                f"{self._link.masked(said)}"
            )
            self._connect_at = time.monotonic() + _REFUSED_BACKOFF
            self._slot.offer(None, verdict)
            self._sink.report(verdict)
            return
        self._client = client
        self._active_at = time.monotonic()
        self._slot.offer(client, None)

    def _replace(self, client: Client, why: PublishError) -> None:
        """Withdraw *client*, settle what it holds, and fix when the next one comes."""
        self._sink.log(logging.ERROR, f"the Kafka producer is replaced: {why}")
        self._sink.report(why)
        now = time.monotonic()
        if client.refusal is not None:
            self._connect_at = now + _REFUSED_BACKOFF
            self._slot.offer(None, client.refusal)
        else:
            backoff = min(_LAST_BACKOFF, _FIRST_BACKOFF * 2**self._losses)
            self._losses = min(self._losses + 1, 10)
            # Many processes lose their producers to one and the same event.
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            self._connect_at = now + backoff * jitter
        self._retire(client, why)

    def _look_at_oldest(self, client: Client, now: float) -> None:
        """
        Give the producer up before an event times out that a broker may have got.

        When the first events of a batch time out, the driver sends the others again under
        a new epoch. Its sequence numbers begin anew there, so that a broker that had
        stored the batch without acknowledging it stores them a second time.

        What was never sent, because there is no leader or no connection to it, times out
        alone, and what else the producer holds stays. Where nobody knew that it was sent,
        since that was a moment ago, ``Client.repeats`` tells, and it is a matter of
        milliseconds: the driver needs an answer from a broker for its new epoch.
        """
        oldest = self._sink.oldest_at()
        age = 0.0 if oldest is None else now - oldest
        client.unanswered.watching = age > self._timeout * _WATCH_PART
        if oldest is None or age < self._timeout + _GIVE_UP_AFTER:
            return
        if client.may_repeat(oldest):
            self._give_up(client, _GIVE_UP_PATIENCE)

    def _give_up(self, client: Client, patience: float) -> None:
        """Replace a producer that would send again what a broker may have stored."""
        trouble = self._link.trouble
        last = f"; last connection error: {trouble}" if trouble else ""
        why = ProducerLost(
            "a broker does not acknowledge in time what it may have stored, and to send "
            "again what is younger might store that twice: the producer was replaced"
            f"{last}"
        )
        self._sink.log(logging.ERROR, f"the Kafka producer is replaced: {why}")
        self._sink.report(why)
        self._slot.withdraw(client)
        # What the other brokers have is acknowledged meanwhile.
        until, before = Deadline.after(patience), None
        while client.handed_over != before and not until.expired():
            before = client.handed_over
            client.poll(_BUSY_POLL)
        self._connect_at = now = time.monotonic()
        client.overdue_before = now - self._timeout
        self._retire(client, why)

    def _retire(self, client: Client, why: PublishError) -> None:
        self._client = None
        self._slot.withdraw(client)
        self._retired.append((client, time.monotonic()))
        client.retire(why)

    def _tend_retired(self) -> None:
        """Empty withdrawn producers for a while, then close them."""
        if self._retired:
            self._retired = [one for one in self._retired if not self._ended(*one)]

    def _ended(self, client: Client, since: float) -> bool:
        """Empty a withdrawn producer once more; return whether it needs no more care."""
        try:
            empty = client.drain(0.0)
            age = time.monotonic() - since
            if age <= _RETIRED_FOR or not (empty or age > _RETIRED_AT_MOST):
                return False
            client.close()
        except Exception as exc:  # noqa: BLE001 - it must not cost the next one
            self._report("failed to empty a lost producer", exc)
            client.keep()
        return True

    def _failed(self, exc: Exception) -> None:
        """Report what escaped a turn, and go on with another producer."""
        self._report("failed, and goes on", exc)
        self._connect_at = time.monotonic() + _FIRST_BACKOFF
        client = self._client
        if client is None:
            self._slot.pause(_FIRST_BACKOFF)
            return
        lost = ProducerLost("the poll thread failed, and the producer is replaced")
        lost.__cause__ = exc
        try:
            self._retire(client, lost)
        except Exception as again:  # noqa: BLE001 - expire() settles what it holds
            self._report("failed to empty a producer", again)

    def _report(self, what: str, exc: Exception) -> None:
        error: EventBusError = BackendFailed(f"the Kafka poll thread {what}: {exc!r}")
        error.__cause__ = exc
        self._sink.log(logging.ERROR, str(error))
        self._sink.report(error)

    # -- the end -----------------------------------------------------------------------

    def _end(self) -> None:
        """Empty and close every producer."""
        by = Deadline(max(self.close_by.at, time.monotonic() + _CLOSE_AT_LEAST))
        clients = self._all()
        if self._client is not None:
            self._give_a_chance(self._client, Deadline.after(by.remaining() / 2))
        for client in clients:
            client.retire(None)
        while not by.expired():
            before = [client.handed_over for client in clients]
            left = [client for client in clients if not client.drain(_BUSY_POLL)]
            # Until a whole round brings nothing: a publisher that took a client before
            # it was withdrawn may have been about to call produce().
            if not left and before == [client.handed_over for client in clients]:
                break
        for client in clients:
            client.close()

    def _give_a_chance(self, client: Client, until: Deadline) -> None:
        """Let plain messages go out, for which the bus has not waited."""
        while client.holds and self._link.up and not until.expired():
            client.poll(_BUSY_POLL)

    def _all(self) -> list[Client]:
        current = [] if self._client is None else [self._client]
        return [client for client, _ in self._retired] + current
