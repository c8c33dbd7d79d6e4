"""
What the outbox holds: rows as values, their states, and every transition between them.

Pure: no database, no clock, no broker. Stores move rows along ``TRANSITIONS`` and no
other way; each of their UPDATEs carries the guard of its transition.
"""

import enum

from collections.abc import Mapping
from typing import Final

import attrs


class RowState(enum.Enum):
    """Where a row stands. The values are what the database holds."""

    #: To be published; perhaps leased by a relay, perhaps waiting for its next attempt.
    PENDING = "pending"
    #: The broker said that it is stored. Purged after a while.
    PUBLISHED = "published"
    #: Given up, with a reason. Waits for ``requeue`` or ``discard``.
    DEAD = "dead"
    #: Dead, and an operator said that it never has to be sent. Purged after a while.
    DISCARDED = "discarded"


class Change(enum.Enum):
    """What can happen to a row."""

    #: A relay takes it for the time of a lease.
    CLAIM = "claim"
    #: The relay that has it keeps it for longer.
    RENEW = "renew"
    #: The relay that has it gives it back untried.
    RELEASE = "release"
    #: It is stored by the broker.
    PUBLISH = "publish"
    #: An attempt failed; there will be another one.
    RETRY = "retry"
    #: No attempt will succeed, or there were enough of them.
    BURY = "bury"
    #: An operator wants a dead row tried again.
    REQUEUE = "requeue"
    #: An operator gives a dead row up.
    DISCARD = "discard"


@attrs.frozen
class Transition:
    """
    One change: from which state to which, and who may do it.

    Attributes:
        source: the state a row must have.
        target: the state it has afterwards.
        leased: True: only who holds its lease; False: only if nobody does; None:
            leases do not matter.
        keeps_lease: whether a lease stands afterwards.
    """

    source: RowState
    target: RowState
    leased: bool | None
    keeps_lease: bool


TRANSITIONS: Final[Mapping[Change, Transition]] = {
    Change.CLAIM: Transition(
        RowState.PENDING, RowState.PENDING, leased=False, keeps_lease=True
    ),
    Change.RENEW: Transition(
        RowState.PENDING, RowState.PENDING, leased=True, keeps_lease=True
    ),
    Change.RELEASE: Transition(
        RowState.PENDING, RowState.PENDING, leased=True, keeps_lease=False
    ),
    Change.PUBLISH: Transition(
        RowState.PENDING, RowState.PUBLISHED, leased=True, keeps_lease=False
    ),
    Change.RETRY: Transition(
        RowState.PENDING, RowState.PENDING, leased=True, keeps_lease=False
    ),
    Change.BURY: Transition(
        RowState.PENDING, RowState.DEAD, leased=True, keeps_lease=False
    ),
    Change.REQUEUE: Transition(
        RowState.DEAD, RowState.PENDING, leased=None, keeps_lease=False
    ),
    Change.DISCARD: Transition(
        RowState.DEAD, RowState.DISCARDED, leased=None, keeps_lease=False
    ),
}


@attrs.frozen(slots=True)
class OutboxRecord:
    """
    A claimed row: what is to be published, and the lease under which.

    Attributes:
        position: the insertion order; identifies the row in its table.
        event_id: the row's id, and the event id on the wire.
        topic: where it goes.
        aggregate_id, event_type, event_version, timestamp, trace_id, correlation_id,
            tenant_id, payload: of the envelope; ``timestamp`` as RFC 3339 text with all
            its digits, ``payload`` as the raw JSON bytes.
        headers: extra headers for the wire, ``traceparent`` among them.
        attempts: how many attempts counted so far.
        failing_for: for how many seconds it has been failing when it was claimed, by
            the database's clock: since the first attempt that reached a broker failed,
            without the time in which nobody tried it though it was due, and without
            attempts that reached no broker; 0.0 without a failure.
        lease: the fencing token of the claim.
    """

    position: int
    event_id: str
    topic: str
    aggregate_id: str
    event_type: str
    event_version: int
    timestamp: str
    trace_id: str
    correlation_id: str
    tenant_id: int
    payload: bytes
    headers: Mapping[str, str]
    attempts: int
    failing_for: float
    lease: str


@attrs.frozen(slots=True)
class Mark:
    """
    What became of one claimed row. Counts only while its lease still stands.

    Attributes:
        record: the row.
        change: ``PUBLISH``, ``RETRY``, ``BURY`` or ``RELEASE``.
        attempts: attempts counted afterwards.
        delay: for ``RETRY``: seconds until the next attempt, by the database's clock.
        error: for ``RETRY`` and ``BURY``: why, as a text for people, with its code.
        reached: for ``RETRY``: whether the attempt may have reached a broker. If not,
            neither it nor the pause after it counts into ``failing_for``.
        tried: for ``RETRY``: whether the bus had it. If not, it was held back since its
            topic takes nothing; databases do not care.
    """

    record: OutboxRecord
    change: Change
    attempts: int
    delay: float = 0.0
    error: str = ""
    reached: bool = True
    tried: bool = True


@attrs.frozen(slots=True)
class Claim:
    """
    One answer to ``claim``.

    Attributes:
        records: the rows claimed, by position; rows of one aggregate are a gapless run
            from the oldest unpublished one on (``ordering="aggregate"``).
        scanned_to: the position to go on scanning from; 0 after the end was reached, so
            that the next scan begins at the oldest row again.
        hidden: whether rows were left alone that an older, still open transaction of
            the database could overtake (PostgreSQL only): look again soon.
        next_due: seconds until the earliest row that waits for its next attempt or its
            ``not_before`` is due, among those scanned; None if there is none.
        seen_to: the position up to which all rows were seen, and none was hidden; 0 if
            the store does not tell. A relay may leave rows up to there for later.
    """

    records: tuple[OutboxRecord, ...]
    scanned_to: int = 0
    hidden: bool = False
    next_due: float | None = None
    seen_to: int = 0


@attrs.frozen(slots=True, kw_only=True)
class OutboxStats:
    """
    The outbox at one moment, by the database's clock.

    Attributes:
        pending: rows to be published, the leased ones among them.
        leased: rows that a relay has now.
        waiting: pending rows that wait for their next attempt or ``not_before``.
        published, dead, discarded: rows in these states.
        oldest_age: seconds since the first of the pending rows that are due, or were
            tried, was due: when it was written, its ``not_before`` if that is later, or
            when it was requeued; 0.0 without one.
        hidden: pending rows that wait for older transactions to end (PostgreSQL).
        blocked_by: what is known of the transaction that they wait for, else "".
    """

    pending: int
    leased: int
    waiting: int
    published: int
    dead: int
    discarded: int
    oldest_age: float
    hidden: int = 0
    blocked_by: str = ""


@attrs.frozen(slots=True, kw_only=True)
class OutboxRow:
    """A row as ``list`` shows it to people; times are seconds since the epoch, UTC."""

    position: int
    event_id: str
    topic: str
    aggregate_id: str
    event_type: str
    state: RowState
    attempts: int
    created_at: float
    next_attempt_at: float
    leased_until: float | None
    settled_at: float | None
    error: str


@attrs.frozen(slots=True)
class Requeued:
    """
    What ``requeue`` did.

    Attributes:
        event_ids: the rows that are pending again.
        overtaken: those of them after which later events of the same aggregate were
            published already, or are in flight with a relay: their order is lost.
        perhaps_overtaken: the others of which that cannot be excluded, since such events
            may have been published and purged: no published row is left of the time
            before they were written.
    """

    event_ids: tuple[str, ...]
    overtaken: tuple[str, ...]
    perhaps_overtaken: tuple[str, ...] = ()
