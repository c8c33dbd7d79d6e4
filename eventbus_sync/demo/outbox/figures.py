"""What one run of the outbox came to, as plain values, and all of it as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from eventbus_sync.demo.faults import Struck
from eventbus_sync.demo.figures import Spread, struck_as_json
from eventbus_sync.demo.outbox.audit import Violation
from eventbus_sync.observe import Stats
from eventbus_sync.outbox import RelayStats


@attrs.frozen(kw_only=True)
class Figures:
    """
    The outcome of one run.

    Attributes:
        backend, title: which broker.
        events, threads: what was asked for.
        committed, rolled_back: events, as the writing threads counted them.
        rows: how many rows in which state in the end.
        relay, bus: what they counted.
        reconnects: how often the connection came back.
        oldest: the longest that an event was seen to wait, in seconds.
        most: the most rows that were seen to wait.
        seconds: from the first transaction to the last row published.
        commit: how long transactions took.
        stored: how many messages the broker gave back; None if it was not asked.
        struck: what was done to the broker.
        violations: broken promises.
        failures: what else went wrong.
        interrupted: whether Ctrl-C ended the writing early.
    """

    backend: str
    title: str
    events: int
    threads: int
    committed: int
    rolled_back: int
    rows: Mapping[str, int]
    relay: RelayStats
    bus: Stats
    reconnects: int
    oldest: float
    most: int
    seconds: float
    commit: Spread
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
        """Rows published for each second, the broker's absence included."""
        return self.rows.get("published", 0) / self.seconds if self.seconds else 0.0


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
    relay = attrs.asdict(figures.relay)
    error = relay.pop("last_error")
    return {
        "backend": figures.backend,
        "title": figures.title,
        "events": figures.events,
        "threads": figures.threads,
        "committed": figures.committed,
        "rolled_back": figures.rolled_back,
        "rows": dict(figures.rows),
        "relay": {**relay, "last_error": None if error is None else str(error)},
        "bus": attrs.asdict(figures.bus),
        "reconnects": figures.reconnects,
        "oldest_age": figures.oldest,
        "most_pending": figures.most,
        "seconds": figures.seconds,
        "events_per_second": figures.rate,
        "commit": {"p50": figures.commit.p50, "p99": figures.commit.p99},
        "stored": figures.stored,
        "faults": [struck_as_json(struck) for struck in figures.struck],
        "violations": [attrs.asdict(violation) for violation in figures.violations],
        "failures": list(figures.failures),
        "interrupted": figures.interrupted,
        "balanced": figures.balanced,
    }
