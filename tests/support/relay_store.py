"""A store in memory that keeps the contract of ``outbox/store.py``, for relay tests."""

import contextlib
import itertools
import threading
import time

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import attrs

from eventbus_sync import Envelope
from eventbus_sync._threads import Deadline
from eventbus_sync.errors import EventBusError
from eventbus_sync.outbox.record import (
    TRANSITIONS,
    Change,
    Claim,
    Mark,
    OutboxRecord,
    OutboxRow,
    OutboxStats,
    Requeued,
    RowState,
)
from eventbus_sync.outbox.store import OnDead, Ordering


class DatabaseAway(EventBusError):
    """The database is out of reach."""

    default_code = "store_failed"
    default_retriable = True


@attrs.define(eq=False)
class Row:
    """One row."""

    position: int
    topic: str
    envelope: Envelope
    created: float
    headers: dict[str, str] = attrs.field(factory=dict)
    state: RowState = RowState.PENDING
    attempts: int = 0
    due: float = 0.0
    lease: str | None = None
    until: float = 0.0
    settled: float | None = None
    failing: float | None = None
    error: str = ""
    payload: Any = None

    def free(self, now: float) -> bool:
        return self.lease is None or self.until <= now


class MemoryStore:
    """Rows in a dict; misbehaves on command. Thread-safe."""

    def __init__(self, *, notifies: bool = False) -> None:
        self.lock = threading.Lock()
        self.rows_by_id: dict[str, Row] = {}
        self.away = False
        self.notifies = notifies
        self.calls: list[str] = []
        self.marked: list[list[Mark]] = []
        self.claims: list[int] = []
        self.hidden = False
        #: Called before a claim or mark, outside of the lock; may raise or sleep.
        self.before_claim: Any = None
        self.before_mark: Any = None
        self._positions = itertools.count(1)
        self._woken = threading.Event()

    # -- the application's side -------------------------------------------------------

    def add(
        self, topic: str, *envelopes: Envelope, not_before: float = 0.0, **settings: Any
    ) -> None:
        with self.lock:
            now = time.monotonic()
            for envelope in envelopes:
                row = Row(next(self._positions), topic, envelope, now, **settings)
                row.due = now + not_before
                self.rows_by_id[envelope.event_id] = row
        if self.notifies:
            self._woken.set()

    def state(self, event_id: str) -> RowState:
        return self.rows_by_id[event_id].state

    def count(self, state: RowState) -> int:
        with self.lock:
            return sum(row.state is state for row in self.rows_by_id.values())

    def leased(self) -> int:
        with self.lock:
            return sum(row.lease is not None for row in self.rows_by_id.values())

    # -- the relay's side -------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[float]:
        if self.away:
            raise DatabaseAway
        with self.lock:
            self.calls.append(what)
            yield time.monotonic()

    def claim(
        self,
        lease: str,
        *,
        limit: int,
        seconds: float,
        scan_from: int,  # noqa: ARG002 - always the whole table
        ordering: Ordering,
        on_dead: OnDead,
        without: Collection[str] = (),
        max_bytes: int | None = None,
    ) -> Claim:
        if self.before_claim is not None:
            self.before_claim()
        with self._transaction("claim") as now:
            blocked = set(without)
            chosen: list[Row] = []
            due: list[float] = []
            room = float("inf") if max_bytes is None else max_bytes
            for row in sorted(self.rows_by_id.values(), key=lambda r: r.position):
                aggregate = row.envelope.aggregate_id
                if row.state is RowState.DEAD and on_dead == "hold":
                    blocked.add(aggregate)
                if row.state is not RowState.PENDING:
                    continue
                if ordering == "aggregate" and aggregate in blocked:
                    continue
                free = row.free(now) and row.due <= now
                room -= len(row.envelope.payload) if free else 0
                if not free or len(chosen) >= limit or (chosen and room < 0):
                    blocked.add(aggregate)
                    if row.due > now:
                        due.append(row.due - now)
                    continue
                chosen.append(row)
            for row in chosen:
                row.lease, row.until = lease, now + seconds
                if row.failing is not None:
                    row.failing += now - row.due
                    row.due = now
            self.claims.append(len(chosen))
            return Claim(
                tuple(self._record(row, now) for row in chosen),
                hidden=self.hidden,
                next_due=min(due, default=None),
            )

    def _record(self, row: Row, now: float) -> OutboxRecord:
        envelope = row.envelope
        return OutboxRecord(
            row.position,
            envelope.event_id,
            row.topic,
            envelope.aggregate_id,
            envelope.event_type,
            envelope.event_version,
            envelope.timestamp_text,
            envelope.trace_id,
            envelope.correlation_id,
            envelope.tenant_id,
            envelope.payload if row.payload is None else row.payload,
            row.headers,
            row.attempts,
            0.0 if row.failing is None else now - row.failing,
            row.lease or "",
        )

    def renew(self, leases: Collection[str], *, seconds: float) -> int:
        with self._transaction("renew") as now:
            rows = [
                row
                for row in self.rows_by_id.values()
                if row.lease in leases and row.until > now
            ]
            for row in rows:
                row.until = now + seconds
            return len(rows)

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        if self.before_mark is not None:
            self.before_mark()
        with self._transaction("mark") as now:
            self.marked.append(list(marks))
            moved = set()
            for mark in marks:
                row = self.rows_by_id.get(mark.record.event_id)
                transition = TRANSITIONS[mark.change]
                if (
                    row is None
                    or row.state is not transition.source
                    or row.lease != mark.record.lease
                ):
                    continue
                row.state, row.lease = transition.target, None
                row.attempts, row.error = mark.attempts, mark.error
                if mark.change is Change.RETRY:
                    if mark.reached:
                        row.failing = now if row.failing is None else row.failing
                    elif row.failing is not None:
                        row.failing += now + mark.delay - row.due
                    row.due = now + mark.delay
                if row.state is not RowState.PENDING:
                    row.settled = now
                moved.add(row.position)
            return moved

    def purge(self, *, older_than: float, limit: int) -> int:
        with self._transaction("purge") as now:
            old = [
                event_id
                for event_id, row in self.rows_by_id.items()
                if row.settled is not None
                and row.state is not RowState.DEAD
                and row.settled < now - older_than
            ][:limit]
            for event_id in old:
                del self.rows_by_id[event_id]
            return len(old)

    def wait(self, deadline: Deadline) -> bool:
        if not self.notifies:
            return False
        self._woken.wait(deadline.remaining())
        self._woken.clear()
        return True

    def wake(self) -> None:
        self._woken.set()

    def stats(self, *, settled: bool = True) -> OutboxStats:  # noqa: ARG002
        with self._transaction("stats"):
            states = [row.state for row in self.rows_by_id.values()]
        return OutboxStats(
            pending=states.count(RowState.PENDING),
            leased=self.leased(),
            waiting=0,
            published=states.count(RowState.PUBLISHED),
            dead=states.count(RowState.DEAD),
            discarded=states.count(RowState.DISCARDED),
            oldest_age=0.0,
        )

    def rows(
        self, state: RowState | None = None, *, limit: int = 100
    ) -> list[OutboxRow]:
        raise NotImplementedError

    def requeue(self, event_ids: Collection[str] | None = None) -> Requeued:
        with self._transaction("requeue"):
            done = []
            for event_id, row in self.rows_by_id.items():
                chosen = event_ids is None or event_id in event_ids
                if row.state is RowState.DEAD and chosen:
                    row.state, row.attempts, row.due = RowState.PENDING, 0, 0.0
                    row.failing = None
                    done.append(event_id)
            return Requeued(tuple(done), ())

    def discard(self, event_ids: Collection[str]) -> tuple[str, ...]:
        raise NotImplementedError

    def close(self) -> None:
        pass
