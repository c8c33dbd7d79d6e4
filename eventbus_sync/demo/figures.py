"""What one run came to, as plain values, and all of it as JSON."""

import math

from collections.abc import Sequence
from typing import Any

import attrs

from eventbus_sync.demo.audit import Violation
from eventbus_sync.demo.faults import Struck
from eventbus_sync.demo.journal import Journal
from eventbus_sync.observe import Stats


@attrs.frozen
class Spread:
    """
    Two exact percentiles of a sample, in seconds; None for an empty one.
    """

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, sample: Sequence[float]) -> "Spread":
        """Return the percentiles by nearest rank: both are values that occurred."""
        ordered = sorted(sample)
        if not ordered:
            return cls(None, None)
        p50, p99 = (
            ordered[math.ceil(len(ordered) * share) - 1] for share in (0.50, 0.99)
        )
        return cls(p50, p99)


@attrs.frozen(kw_only=True)
class Figures:
    """
    The outcome of one run on one broker.

    Attributes:
        backend, title: which broker.
        events, threads: what was asked for.
        accepted, acked, rejected, unknown, dropped: the counters of ``bus.stats()``.
        waited: publish calls that found no room and were made again.
        repeats: acks for what was stored before: retries that the broker recognised.
        reconnects: how often the connection came back.
        codes: error code → how many results had it.
        seconds: from the first publish to the last result.
        call: how long ``publish_envelope`` took.
        latency: from acceptance to outcome.
        stored: how many messages the broker gave back; None if it was not asked.
        struck: what was done to the broker.
        violations: broken promises.
        failures: what else went wrong.
        interrupted: whether Ctrl-C ended the publishing early.
    """

    backend: str
    title: str
    events: int
    threads: int
    accepted: int
    acked: int
    rejected: int
    unknown: int
    dropped: int
    waited: int
    repeats: int
    reconnects: int
    codes: dict[str, int]
    seconds: float
    call: Spread
    latency: Spread
    stored: int | None
    struck: Sequence[Struck] = ()
    violations: Sequence[Violation] = ()
    failures: Sequence[str] = ()
    interrupted: bool = False

    @property
    def balanced(self) -> bool:
        """Whether every promise was seen to hold."""
        return not self.violations and not self.failures and self.stored is not None

    @property
    def rate(self) -> float:
        """Results for each second; 0.0 if none came."""
        settled = self.acked + self.rejected + self.unknown - self.dropped
        return settled / self.seconds if self.seconds else 0.0


def figures_of(  # noqa: PLR0913 - where each figure comes from
    *,
    backend: str,
    title: str,
    events: int,
    journal: Journal,
    stats: Stats,
    reconnects: int,
    stored: int | None,
    struck: Sequence[Struck],
    violations: Sequence[Violation],
    failures: Sequence[str],
    interrupted: bool,
) -> Figures:
    """Return the figures of a run whose threads have ended."""
    return Figures(
        backend=backend,
        title=title,
        events=events,
        threads=len(journal.publishers),
        accepted=stats.accepted,
        acked=stats.acked,
        rejected=stats.rejected,
        unknown=stats.unknown,
        dropped=stats.dropped,
        waited=journal.waited,
        repeats=journal.reader.repeats,
        reconnects=reconnects,
        codes=dict(journal.reader.codes),
        seconds=journal.seconds,
        call=Spread.of([s for log in journal.publishers for s in log.calls]),
        latency=Spread.of(journal.reader.latencies),
        stored=stored,
        struck=tuple(struck),
        violations=tuple(violations),
        failures=tuple(failures),
        interrupted=interrupted,
    )


def as_json(
    all_figures: Sequence[Figures], *, interrupted: bool = False
) -> dict[str, Any]:
    """Return everything in plain types; times in seconds."""
    return {
        "interrupted": interrupted,
        "balanced": bool(all_figures) and all(f.balanced for f in all_figures),
        "runs": [_run_as_json(figures) for figures in all_figures],
    }


def _run_as_json(figures: Figures) -> dict[str, Any]:
    return {
        "backend": figures.backend,
        "title": figures.title,
        "events": figures.events,
        "threads": figures.threads,
        "accepted": figures.accepted,
        "acked": figures.acked,
        "rejected": figures.rejected,
        "unknown": figures.unknown,
        "dropped": figures.dropped,
        "waited": figures.waited,
        "repeats": figures.repeats,
        "reconnects": figures.reconnects,
        "error_codes": figures.codes,
        "seconds": figures.seconds,
        "events_per_second": figures.rate,
        "publish_call": {"p50": figures.call.p50, "p99": figures.call.p99},
        "result_latency": {"p50": figures.latency.p50, "p99": figures.latency.p99},
        "stored": figures.stored,
        "faults": [struck_as_json(struck) for struck in figures.struck],
        "violations": [attrs.asdict(violation) for violation in figures.violations],
        "failures": list(figures.failures),
        "interrupted": figures.interrupted,
        "balanced": figures.balanced,
    }


def struck_as_json(struck: Struck) -> dict[str, Any]:
    """Return a fault in plain types."""
    return {
        "done": struck.fault.done,
        "seconds": struck.seconds,
        "in_flight_before": struck.caught,
        "in_flight_after": struck.waiting,
    }
