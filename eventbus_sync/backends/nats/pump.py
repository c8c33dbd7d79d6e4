"""
The sending half of the NATS back end: connection after connection, in order.

One coroutine does all the sending, so the order on the wire is the order of hand-over:
it takes a connection, sends again what is unanswered, then what is new, until the
connection is lost, and starts over. Lives on the loop thread.
"""

import asyncio
import time

from collections.abc import Callable, Sequence

from eventbus_sync.backends.base import Settlement, Sink
from eventbus_sync.backends.nats.answers import Answered, Answers
from eventbus_sync.backends.nats.batches import Batches
from eventbus_sync.backends.nats.connection import Connection
from eventbus_sync.backends.nats.culprit import Culprit
from eventbus_sync.backends.nats.dialer import Dialer
from eventbus_sync.backends.nats.gates import Gates
from eventbus_sync.backends.nats.handover import HandOver
from eventbus_sync.backends.nats.patience import Patience
from eventbus_sync.backends.nats.pending import Pending
from eventbus_sync.backends.nats.readiness import Readiness
from eventbus_sync.backends.nats.record import Record
from eventbus_sync.backends.nats.refusals import Refusals
from eventbus_sync.backends.nats.sender import Sender
from eventbus_sync.backends.nats.stream import StreamCheck
from eventbus_sync.backends.nats.watch import Watch, failure
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import ConnectionLost, EventBusError


#: How long events wait for another look at a stream that was fit before, in seconds.
LOOK_AGAIN_SECONDS = 0.5
#: The part of delivery_timeout for which silence is borne at most.
MOST_PATIENCE = 0.9
#: Seconds between two attempts of a loop that failed.
FAILED_SECONDS = 1.0


class Pump:
    """
    Everything between the hand-over and the wire.

    Args:
        config: of the bus.
        sink: is given outcomes that need no parsing, and news of the connection.
        handover: where events come from.
        readiness: is told whether events can be published.
        hand_over: takes a chunk of answers to the ack workers.
    """

    def __init__(
        self,
        config: NatsConfig,
        sink: Sink,
        handover: HandOver,
        readiness: Readiness,
        hand_over: Callable[[list[Answered]], None],
    ) -> None:
        self._config = config
        self._sink = sink
        self._handover = handover
        self._readiness = readiness
        self._pending = Pending()
        self._gates = Gates(self._pending, sink)
        self._stream = StreamCheck(config, sink, readiness)
        # Below delivery_timeout: what has no outcome by then is settled, and silence
        # about it cannot be noticed any more.
        longest = max(config.ack_wait, MOST_PATIENCE * config.delivery_timeout)
        self._patience = Patience(config.ack_wait, longest)
        self._answers = Answers(
            self._pending, self._gates, hand_over, self._release, self._patience
        )
        self._refusals = Refusals(self._pending, sink, handover.wake)
        self._batches = Batches(
            self._stream, self._answers, self._refusals, self._go_on
        )
        self._sender = Sender(
            self._pending,
            self._gates,
            handover,
            self._stream,
            sink,
            self._batches,
            self._refusals,
        )
        self._dialer = Dialer(
            config, self, failed=self._attempt_failed, exhausted=readiness.failed
        )
        self._watch = Watch(
            sink,
            lambda: bool(self._pending or handover.events or handover.plain),
            lambda _: handover.look(),
            self._expire,
            lambda _: sink.expire(),
            self._refusals.look,
            self._look_at_connection,
            self._look_at_stream,
            self._probe,
        )
        self._connection: Connection | None = None
        self._serving_since = float("inf")
        # The run of the server to which events have been written last.
        self._written_to = ""
        self._culprit = Culprit()
        self._stop = asyncio.Event()
        self._grace = 0.0
        self._looking: asyncio.Task[None] | None = None
        # The Listener's methods, without a detour for each acknowledgement.
        self.answered = self._answers.answered
        self.acknowledged = self._answers.acknowledged
        self.batched = self._batches.answered

    # -- life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until ``stop``; afterwards everything that was taken over is settled."""
        life = asyncio.ensure_future(self._live())
        watch = asyncio.ensure_future(self._watch.run())
        try:
            await self._stop.wait()
            if self._connection is None:
                life.cancel()
            await asyncio.wait({life}, timeout=self._grace)
        finally:
            # More than once: some coroutines of nats-py swallow a cancellation.
            for _ in range(3):
                life.cancel()
                watch.cancel()
                await asyncio.wait({life, watch}, timeout=0.3)
            self._settle_rest()

    def stop(self, grace: float) -> None:
        """End ``run`` soon: what is handed over gets *grace* seconds to be written."""
        self._grace = grace
        self._stop.set()
        self._handover.wake()

    def look(self) -> None:
        """Somebody wants to know whether events can be published."""
        self._stream.look_now()

    async def _live(self) -> None:
        while not self._stop.is_set():
            try:
                connection = await self._dialer.dial()
                await self._use(connection)
            except Exception as exc:  # noqa: BLE001 - the thread must live on
                self._sink.report(failure(exc))
                await asyncio.sleep(FAILED_SECONDS)

    async def _use(self, connection: Connection) -> None:
        """Send on *connection* until it is lost or we stop."""
        self._connection = connection
        self._serving_since = float("inf")
        try:
            self._sink.connected()
            await self._look_at_stream_first(connection)
            await self._serve(connection)
            await connection.close(self._grace)
        finally:
            self._connection = None
            self._refusals.interrupted()
            self._pending.interrupted()
            self._dialer.learn(connection)
            if self._answers.last_at > self._serving_since:
                self._dialer.useful()
            await connection.discard()

    def _reason(self) -> str:
        """Return what is wrong at the moment, as a clause to add to an outcome."""
        error = self._stream.error
        return self._dialer.reason or (f"; {error}" if error is not None else "")

    def _settle_rest(self) -> None:
        self._answers.flush()
        left = [*self._pending.take_all(), *self._handover.close()]
        reason = self._reason()
        chunk: list[Settlement] = [(r.delivery, r.abandoned(reason)) for r in left]
        if chunk:
            self._sink.settle(chunk)

    async def _serve(self, connection: Connection) -> None:
        """Write what there is, in order, until the connection is lost or we stop."""
        self._answers.last_at = self._serving_since = time.monotonic()
        self._settle_forgotten(connection)
        self._sender.restart()
        if self._culprit.wanted:
            await self._sender.send_one_by_one(connection, self._culprit)
        while not connection.lost:
            await self._batches.clear_up(connection)
            parts = self._sender.next_parts(connection)
            if parts:
                await connection.write(parts)
            elif self._sender.idle:
                if self._stop.is_set() and self._sender.done:
                    return
                await self._handover.wait()
                continue
            await asyncio.sleep(0)

    def _settle_forgotten(self, connection: Connection) -> None:
        """Settle what the stream may have stored and forgotten: it cannot go again."""
        before, self._written_to = self._written_to, connection.run
        reason = self._stream.forgets
        if reason and (not connection.run or connection.run != before):
            left = self._pending.take_unanswered()
            self._sink.settle([(r.delivery, r.forgotten(reason)) for r in left])

    # -- what the connection tells -------------------------------------------------------

    def lost(self, connection: Connection, error: EventBusError) -> None:
        """Stop sending on a lost connection."""
        self._culprit.ended(connection)
        self._dialer.note(error)
        self._disconnected(error)
        self._handover.wake()

    def refused(self, subject: str, error: Exception) -> None:
        """Have what permissions refused settled, and a batch with it in it ended."""
        self._refusals.refused(subject, error)
        self._batches.refused(subject)

    def _release(self, records: Sequence[Record]) -> None:
        self._sender.release(records)

    def _go_on(self, records: Sequence[Record]) -> None:
        """A batch is over: *records* go again, and then what waited for its end."""
        self._sender.release(records)
        self._handover.wake()

    def _attempt_failed(self, error: EventBusError) -> None:
        self._culprit.server_was_away()
        self._disconnected(error)

    def _disconnected(self, error: EventBusError) -> None:
        self._readiness.lost(error)
        self._sink.disconnected(error)

    # -- what the clock brings -----------------------------------------------------------

    def _expire(self, now: float) -> None:
        reason = self._reason()
        # Behind a full socket, or with no server at all, records wait unsent.
        expired = self._pending.take_expired(now)
        overdue = [*expired, *self._handover.take_overdue(now)]
        if overdue:
            self._refusals.gave_up(r for r in expired if r.outstanding)
            self._sink.settle([(r.delivery, r.timed_out(reason)) for r in overdue])

    def _look_at_connection(self, now: float) -> None:
        connection = self._connection
        if connection is None or connection.lost:
            return
        connection.check()
        wait = self._patience.wait
        # Of a batch whose events are all settled nobody else would know.
        stalled = self._pending.stalled(now, wait) or self._batches.stalled(now, wait)
        if now - self._answers.last_at > wait and stalled:
            self._patience.given_up()
            text = f"{connection.server} acknowledged nothing for {wait:g} s"
            connection.abandon(ConnectionLost(text))

    async def _look_at_stream_first(self, connection: Connection) -> None:
        known = self._stream.usable
        self._looking = asyncio.ensure_future(self._stream.look(connection))
        # The first time events wait for the stream, which may have to be made; later
        # only for a moment, since a server may take its time and they have less of it.
        patience = LOOK_AGAIN_SECONDS if known else None
        await asyncio.wait({self._looking}, timeout=patience)

    def _look_at_stream(self, now: float) -> None:
        connection = self._connection
        busy = self._looking is not None and not self._looking.done()
        if connection is None or connection.lost or busy or not self._stream.due(now):
            return
        # A task of its own: the server may take its time, deadlines don't.
        self._looking = asyncio.ensure_future(self._stream.look(connection))

    def _probe(self, now: float) -> None:
        connection = self._connection
        if connection is not None and not connection.lost:
            self._sender.release(list(self._gates.due(now)))
