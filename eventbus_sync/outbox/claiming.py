"""Rows from the database: when to claim, and for how long to wait otherwise."""

import time
import uuid

from collections.abc import Callable
from typing import Final

from eventbus_sync._threads import Deadline
from eventbus_sync.bus import EventBus
from eventbus_sync.errors import (
    BrokerUnreachable,
    BusClosed,
    EventBusError,
)
from eventbus_sync.outbox.appetite import Appetite
from eventbus_sync.outbox.breaker import Breaker
from eventbus_sync.outbox.held import HeldRows
from eventbus_sync.outbox.hidden import HiddenRows
from eventbus_sync.outbox.lines import Lease
from eventbus_sync.outbox.publishing import OVERDUE, Publisher
from eventbus_sync.outbox.record import Claim
from eventbus_sync.outbox.scanning import Scan
from eventbus_sync.outbox.settings import Settings
from eventbus_sync.outbox.store import OutboxStore
from eventbus_sync.outbox.trouble import Trouble


#: Seconds of the shortest poll.
FIRST_PAUSE: Final = 0.02
#: Seconds between two looks at leases and overdue outcomes while rows are held.
MAINTENANCE: Final = 0.25
#: Seconds between two purges when there is little to purge.
PURGE_INTERVAL: Final = 60.0
#: When there is more: the pause, in times what the last purge took. A pause of fixed
#: length would let a busy outbox grow faster than it is purged.
PURGE_REST: Final = 5.0
#: Seconds after the database failed: at first, and at most.
FIRST_BACKOFF: Final = 0.2
LONGEST_BACKOFF: Final = 2.0
#: Seconds between two looks at rows that an older transaction hides; at most, and less
#: if ``poll_interval`` is: its end wakes nobody.
LONGEST_HIDDEN_PAUSE: Final = 2.0


class Claimer:
    """
    Claims, keeps leases, purges, and sleeps when there is nothing to do.

    One thread calls ``step``; the rest may be called from any thread.
    """

    def __init__(  # noqa: PLR0913 - the parts of a relay
        self,
        store: OutboxStore,
        bus: EventBus,
        held: HeldRows,
        breaker: Breaker,
        publisher: Publisher,
        trouble: Trouble,
        settings: Settings,
        ended: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._bus = bus
        self._held = held
        self._breaker = breaker
        self._publisher = publisher
        self._trouble = trouble
        self._settings = settings
        self._ended = ended
        self._clock = clock
        self._scan = Scan(clock(), settings.poll_interval)
        self._pause = FIRST_PAUSE
        # Of its own: the end of an old transaction wakes nobody, and rows that are hidden
        # for a moment only must not wait for the long pause of a quiet table.
        self._hidden_pause = FIRST_PAUSE
        self._hidden = HiddenRows(store, settings.name)
        # The newest row that was ever claimed.
        self._newest = 0
        self._appetite = Appetite(settings.batch_size)
        self._backoff = FIRST_BACKOFF
        self._purge_at = float("inf") if settings.purge_after is None else clock()
        self._nudged = False
        self._wants_room = False
        self._went_back = False
        self._connected: bool | None = None
        # Aggregates were left out of the last claim, as of this count of closed ones.
        self._left_out: int | None = None
        # The count of closed ones at the last claim.
        self._closed = 0

    @property
    def quiet_round(self) -> int:
        """The latest look at the whole table which found nothing that is due."""
        return self._scan.quiet_round

    def want_round(self) -> int:
        """Have the whole table looked at, from now on; return the number of the look."""
        number = self._scan.want_round()
        self.nudge()
        return number

    def nudge(self) -> None:
        """Make the claim thread look at once."""
        self._nudged = True
        self._held.wake()
        self._store.wake()

    def step(self) -> None:
        """
        Do what is to be done now, or sleep for a while.

        Raises:
            BusClosed: nothing will ever go out again.
        """
        self._nudged = False
        try:
            self._keep_leases()
            self._publisher.sweep(self._settings.delivery_timeout + OVERDUE)
            self._watch_bus()
            self._publisher.pump()
            self._purge()
            limit = self._limit()
            if not limit:
                self._wants_room = True
                self._rest(MAINTENANCE)
                self._wants_room = False
                return
            claim = self._claim(limit)
            self._look_for_hidden(claim)
        except BusClosed:
            raise
        except EventBusError as error:
            # An outage of the database does not end a relay.
            self._trouble.note("the database failed", error)
            self._held.wait(self._ended, Deadline.after(self._backoff))
            self._backoff = min(LONGEST_BACKOFF, self._backoff * 2)
            return
        self._backoff = FIRST_BACKOFF
        self._publisher.pump()
        if claim.records:
            self._pause = FIRST_PAUSE
        midst = self._scan.in_midst
        if len(claim.records) >= limit or (midst and claim.records):
            return
        if midst:
            # What can be claimed now lies further on; or is left out, since we have the
            # rows before it, and will be claimable as soon as these are settled.
            if self._held.held:
                self._rest(FIRST_PAUSE)
            return
        self._rest(self._idle_pause(), listen=self._listen_for())
        longest = self._settings.poll_interval
        self._pause = min(longest, self._pause * 2)
        if self._scan.round.hides:
            self._hidden_pause = min(
                longest, LONGEST_HIDDEN_PAUSE, self._hidden_pause * 2
            )

    # -- the parts of a step ----------------------------------------------------------

    def _keep_leases(self) -> None:
        margin = self._settings.margin
        # In the middle between claimed and too short to publish.
        leases = self._held.to_renew(margin + (self._settings.lease - margin) / 2)
        if not leases:
            return
        before = time.monotonic()
        seconds = self._settings.lease
        rows = self._store.renew([lease.token for lease in leases], seconds=seconds)
        self._held.renewed(leases, rows, before + seconds)

    def _watch_bus(self) -> None:
        health = self._bus.health()
        if health.state == "closed":
            raise BusClosed
        self._connected = health.connected
        if health.connected:
            self._breaker.connected()
        if health.connected is False and self._breaker.disconnected():
            error = health.last_error or BrokerUnreachable()
            self._trouble.note("the breaker opened: the bus is not connected", error)

    def _limit(self) -> int:
        """Return how many rows to claim now; 0 for none."""
        held = self._held.held
        if self._breaker.is_open:
            # Others may have a broker; and what is leased here would only wait.
            self._held.release_waiting()
            if held or not self._breaker.may_probe(connected=self._connected):
                return 0
            return 1
        if self._is_full():
            return 0
        return self._appetite.rows(self._held.bytes)

    def _is_full(self) -> bool:
        return self._appetite.is_sated(self._held.held, self._held.bytes)

    def _claim(self, limit: int) -> Claim:
        settings = self._settings
        scan_from = self._scan.begin(
            self._clock(), self._held.take_resume(), held=self._held.held > 0
        )
        closed = self._held.closed
        aggregates: tuple[str, ...] = ()
        if settings.ordering == "aggregate":
            aggregates = self._held.aggregates()
        self._closed = closed
        self._left_out = closed if aggregates else None
        lease = Lease(uuid.uuid4().hex, time.monotonic() + settings.lease)
        try:
            claim = self._store.claim(
                lease.token,
                limit=limit,
                seconds=settings.lease,
                scan_from=scan_from,
                ordering=settings.ordering,
                on_dead=settings.on_dead,
                without=aggregates,
                max_bytes=self._appetite.bytes(self._held.bytes),
            )
        except Exception:
            self._appetite.failed()
            self._scan.failed()
            raise
        self._appetite.took(claim.records)
        if claim.records:
            self._held.add(lease, claim.records)
        elif self._breaker.is_open:
            self._breaker.give_back_probe()
        before = self._scan.quiet_round
        self._scan.note(claim, self._clock())
        if self._scan.quiet_round != before:
            self._held.wake()
        return claim

    def _look_for_hidden(self, claim: Claim) -> None:
        newest = claim.records[-1].position if claim.records else 0
        if newest > self._newest:
            # While rows flow, the newest are hidden for a moment, and that is no news.
            # Older rows that are tried again do not show that anything flows.
            self._newest = newest
            self._hidden.gone()
        if claim.records or not claim.hidden:
            self._hidden_pause = FIRST_PAUSE
        if self._scan.in_midst:
            return
        # The whole table was seen, or all that is new.
        if self._scan.round.hides:
            self._hidden.seen()
        else:
            self._hidden.gone()

    def _purge(self) -> None:
        settings = self._settings
        began = self._clock()
        if settings.purge_after is None or began < self._purge_at:
            return
        limit = settings.purge_batch
        # Set before, so that a failing purge is not what the relay is busy with.
        self._purge_at = began + PURGE_INTERVAL
        if self._store.purge(older_than=settings.purge_after, limit=limit) >= limit:
            now = self._clock()
            self._purge_at = now + PURGE_REST * (now - began)

    # -- sleeping ---------------------------------------------------------------------

    def _idle_pause(self) -> float:
        """Return how long to sleep if nobody wakes us."""
        if self._scan.round.hides:
            return self._not_past_round(max(2 * FIRST_PAUSE, self._hidden_pause))
        return self._not_past_due(max(self._pause, self._round_rest()))

    def _listen_for(self) -> float:
        """Return how long to sleep if commits wake us; 0 for not to rely on that."""
        if self._scan.round.hides:
            return 0.0  # the end of an old transaction sends no notification
        longest = max(self._settings.poll_interval, self._round_rest())
        return self._not_past_due(longest)

    def _round_rest(self) -> float:
        """Return how long to spare the database; a notification or nudge ends it."""
        if self._scan.tail is not None:
            return 0.0  # to look at the tail costs little
        return self._scan.round.rest(self._clock(), self._settings.poll_interval)

    def _not_past_due(self, pause: float) -> float:
        now = self._clock()
        if self._scan.tail is None:
            return self._scan.round.not_past_due(pause, now, self._purge_at)
        return self._not_past_round(min(pause, max(0.001, self._purge_at - now)))

    def _not_past_round(self, pause: float) -> float:
        if self._scan.tail is None:
            return pause
        return min(pause, max(0.001, self._scan.round_in(self._clock())))

    def _rest(self, seconds: float, *, listen: float = 0.0) -> None:
        held = self._held
        deadline = Deadline.after(seconds)
        if held.held:
            longest = FIRST_PAUSE if held.has_ready else MAINTENANCE
            deadline = Deadline.after(min(seconds, longest))
        elif listen and not self._nudged and not self._ended():
            with held.lock:
                # What was settled since the claim looked may have later rows, or is to
                # be tried again; no commit tells of these.
                if self._closed != held.closed:
                    return
            if self._store.wait(Deadline.after(listen)):
                return
        held.wait(self._has_to_look, deadline)
        self._left_out = None

    def _has_to_look(self) -> bool:
        """Whether the claim thread has to go on; called under the lock."""
        if self._nudged or self._ended():
            return True
        if self._wants_room:
            return not self._is_full() and not self._breaker.is_open
        # An aggregate that was left out is free again: it may have more rows.
        return self._left_out is not None and self._left_out != self._held.closed
