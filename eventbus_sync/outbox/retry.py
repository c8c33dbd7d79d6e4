"""
What follows from an outcome: the mark that a row gets, and when it is tried again.

Pure: no clock, no database; chance comes in as an argument.

An *attempt* is a refusal by a broker. What was never written to any broker is none, nor
is an attempt that went unanswered: an outage must not use up the attempts of a backlog.
"""

from collections.abc import Callable
from typing import Final

import attrs

from eventbus_sync.config import fields as _fields
from eventbus_sync.errors import BrokerUnavailable
from eventbus_sync.outbox.record import Change, Mark, OutboxRecord
from eventbus_sync.results import Outcome, PublishResult


# More do not fit into a column; only rows in which somebody wrote have so many.
_MOST_ATTEMPTS: Final = 2**31 - 1
#: Beyond this a power of two is more than any longest backoff.
_MAX_DOUBLINGS: Final = 40


@_fields.by_name
@attrs.frozen(kw_only=True)
class RetryPolicy:
    """
    How often and for how long an event is tried.

    Args:
        max_attempts: after so many refusals a row is dead.
        max_age: seconds for which an event may fail, by refusals or by attempts without
            an answer, before its row is dead. Counted by the database from its first
            failure, so restarts and other relays do not begin anew. Time in which no
            broker is reached, or no relay tries it, does not count.
        backoff: seconds before the second attempt; doubled for each further one.
        max_backoff: the longest pause.
        jitter: whether a pause is drawn evenly between 0 and that ("full jitter"), so
            that rows which failed together do not come back together.

    Raises:
        ConfigError: a setting is wrong; it says which.
    """

    max_attempts: int = attrs.field(default=20, validator=_fields.whole(1))
    max_age: float = attrs.field(
        default=7 * 86400.0, validator=_fields.seconds(zero=False)
    )
    backoff: float = attrs.field(default=1.0, validator=_fields.seconds(zero=True))
    max_backoff: float = attrs.field(
        default=300.0, validator=_fields.seconds(zero=True)
    )
    jitter: bool = attrs.field(default=True, validator=_fields.flag)

    def pause(self, attempts: int, random: Callable[[], float]) -> float:
        """
        Return the seconds to wait after *attempts* refusals.

        A drawn pause has two significant digits: marks that share their values make a
        short statement.
        """
        doublings = min(max(0, attempts - 1), _MAX_DOUBLINGS)
        longest = min(self.max_backoff, self.backoff * 2.0**doublings)
        if not self.jitter:
            return longest
        return min(longest, float(f"{longest * random():.2g}"))


def decide(
    result: PublishResult,
    record: OutboxRecord,
    policy: RetryPolicy,
    random: Callable[[], float],
) -> Mark:
    """
    Return what becomes of a row.

    ============================  =====================================  =============
    outcome                       the row                                an attempt
    ============================  =====================================  =============
    acked                         is published                           -
    rejected for good             is dead                                counts
    rejected, retriable           waits, longer each time                counts
    rejected, no broker reached   is tried again, whatever its age       does not count
    unknown                       is tried again; expect a duplicate     does not count
    ============================  =====================================  =============

    Args:
        result: what the bus said.
        record: the row.
        policy: the limits.
        random: gives numbers from 0 up to 1.
    """
    attempts = record.attempts
    if result.outcome is Outcome.ACKED:
        return Mark(record, Change.PUBLISH, attempts)
    error = result.error
    why = result.outcome.value if error is None else f"{error.code}: {error}"
    if isinstance(error, BrokerUnavailable):
        pause = policy.pause(1, random)
        return Mark(record, Change.RETRY, attempts, pause, why, reached=False)
    refused = result.outcome is Outcome.REJECTED
    limit = ""
    if refused:
        attempts = _one_more(attempts)
        if attempts >= policy.max_attempts:
            limit = f"refused {attempts} times"
    limit = limit or _too_old(record, policy)
    if refused and error is not None and not error.retriable:
        return Mark(record, Change.BURY, attempts, error=why)
    if limit:
        return Mark(record, Change.BURY, attempts, error=f"{why} ({limit})")
    # An unknown outcome says nothing against the event: no long pause.
    pause = policy.pause(attempts if refused else 1, random)
    return Mark(record, Change.RETRY, attempts, pause, why)


def unanswered(
    record: OutboxRecord, policy: RetryPolicy, random: Callable[[], float]
) -> Mark:
    """Return the mark of a row whose outcome never came: dropped by a full channel."""
    why = "no_outcome: the outcome did not arrive; it may be stored"
    limit = _too_old(record, policy)
    if limit:
        return Mark(record, Change.BURY, record.attempts, error=f"{why} ({limit})")
    return Mark(record, Change.RETRY, record.attempts, policy.pause(1, random), why)


def held_back(record: OutboxRecord, pause: float, why: str) -> Mark:
    """Return the mark of a row that is not tried now, since its topic failed by *why*."""
    return Mark(
        record,
        Change.RETRY,
        record.attempts,
        pause,
        f"topic_held: {why}",
        reached=False,
        tried=False,
    )


def refused(record: OutboxRecord, error: Exception) -> Mark:
    """Return the mark of a row that can never be published: damaged, or illegal."""
    code = getattr(error, "code", type(error).__name__)
    # Whoever wrote rubbish into a row may have written it here, too.
    attempts: object = record.attempts
    count = attempts if isinstance(attempts, int) else 0
    return Mark(record, Change.BURY, count, error=f"{code}: {error}")


def failed(
    record: OutboxRecord,
    error: Exception,
    policy: RetryPolicy,
    random: Callable[[], float],
) -> Mark:
    """Return the mark of a row at which publishing failed in a way nobody foresaw."""
    attempts = _one_more(record.attempts)
    why = f"{type(error).__name__}: {error}"
    if attempts >= policy.max_attempts:
        why += f" (failed {attempts} times)"
        return Mark(record, Change.BURY, attempts, error=why)
    return Mark(record, Change.RETRY, attempts, policy.pause(attempts, random), why)


def _one_more(attempts: int) -> int:
    return min(attempts + 1, _MOST_ATTEMPTS)


def _too_old(record: OutboxRecord, policy: RetryPolicy) -> str:
    """Return why a row that failed once more is dead by its age, else ""."""
    if record.failing_for <= policy.max_age:
        return ""
    return f"failing for longer than max_age={policy.max_age:g}"
