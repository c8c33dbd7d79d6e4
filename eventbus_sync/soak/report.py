"""What a soak came to: the plan, a table, one line of verdict, and JSON. Prints nothing."""

import collections

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from eventbus_sync.demo.audit import Violation
from eventbus_sync.demo.report import Paper, duration, laid_out
from eventbus_sync.observe import Stats
from eventbus_sync.soak.chaos import Struck
from eventbus_sync.soak.plan import Plan
from eventbus_sync.soak.schedule import Strike, overflow


@attrs.frozen(kw_only=True)
class Figures:
    """
    The outcome of one soak; times in seconds.

    Attributes:
        plan, title: what was asked for, and where it took place.
        stats: the counters of the bus, after ``close``.
        seconds: from the first publish to the last result.
        codes: error code → how many results had it.
        repeats: acks for what was stored before.
        reconnects: how often the connection came back.
        replaced: how often Kafka's producer was replaced.
        waited: publish calls that found no room and were made again.
        call, latency: median, 99th percentile and largest.
        stored: messages that the broker gave back; None if it could not be read.
        struck: what was done to it.
        violations: broken promises.
        failures: what else went wrong.
        memory: the most that this process has used, in bytes.
        interrupted: whether Ctrl-C ended the publishing early.
    """

    plan: Plan
    title: str
    stats: Stats
    seconds: float
    codes: dict[str, int]
    repeats: int
    reconnects: int
    waited: int
    call: tuple[float | None, float | None, float]
    latency: tuple[float | None, float | None, float]
    stored: int | None
    struck: Sequence[Struck]
    violations: Sequence[Violation]
    failures: Sequence[str]
    memory: int
    replaced: int = 0
    interrupted: bool = False

    @property
    def holds(self) -> bool:
        """Whether every promise was seen to hold."""
        return not self.violations and not self.failures and self.stored is not None

    @property
    def most_in_flight(self) -> int:
        """The most events that were in flight when something broke or was mended."""
        return max((max(s.caught, s.waiting) for s in self.struck), default=0)


def plan_text(plan: Plan, schedule: Sequence[Strike]) -> str:
    """Return the schedule, a line for each strike."""
    head = f"seed {plan.seed}, {plan.backend}, {plan.minutes:g} min: "
    head += f"{len(schedule)} strikes, overflow={overflow(plan)!r}"
    lines = [f"{s.at:10.3f} s  {s.lane:<8} {s}" for s in schedule]
    return "\n".join([head, *lines])


def table(figures: Figures, paper: Paper) -> str:
    """Return the figures, a line or more for each."""
    plan = figures.plan
    heading = f"{figures.title}: {plan.minutes:g} min from {plan.threads} threads, "
    heading += f"seed {plan.seed}"
    heading += " (interrupted)" if figures.interrupted else ""
    return laid_out(heading, _rows(figures), paper)


def verdict(figures: Figures, paper: Paper) -> str:
    """Return one line that says whether every promise held, and why not."""
    plan = figures.plan
    if figures.holds:
        text = (
            f"the books balance on {plan.backend}, seed {plan.seed}: "
            f"{figures.stats.accepted:,} events, {len(figures.struck)} faults, "
            "acked ⊆ stored ⊆ acked + unknown, each once and in order"
        )
    else:
        reasons = [*map(str, figures.violations), *figures.failures]
        why = "; ".join(reasons)
        text = f"THE BOOKS DO NOT BALANCE on {plan.backend}, seed {plan.seed}: {why}"
    early = "interrupted; " if figures.interrupted else ""
    return paper.verdict(paper.text(early + text), good=figures.holds)


def as_json(figures: Figures) -> dict[str, Any]:
    """Return everything in plain types; times in seconds."""
    names = ("p50", "p99", "max")
    return {
        "plan": attrs.asdict(attrs.evolve(figures.plan, url=None, kafka_home=None)),
        "title": figures.title,
        "stats": attrs.asdict(figures.stats),
        "seconds": figures.seconds,
        "error_codes": figures.codes,
        "repeats": figures.repeats,
        "reconnects": figures.reconnects,
        "replaced": figures.replaced,
        "waited": figures.waited,
        "publish_call": dict(zip(names, figures.call, strict=True)),
        "result_latency": dict(zip(names, figures.latency, strict=True)),
        "stored": figures.stored,
        "most_in_flight": figures.most_in_flight,
        "strikes": [
            {
                **attrs.asdict(struck.strike),
                "lasted": struck.seconds,
                "in_flight_before": struck.caught,
                "in_flight_after": struck.waiting,
            }
            for struck in figures.struck
        ],
        "violations": [attrs.asdict(violation) for violation in figures.violations],
        "failures": list(figures.failures),
        "memory": figures.memory,
        "interrupted": figures.interrupted,
        "balanced": figures.holds,
    }


def _rows(figures: Figures) -> Iterator[tuple[str, str, str]]:
    stats = figures.stats
    waited = f"{figures.waited:,} calls waited for room" if figures.waited else ""
    yield "accepted", f"{stats.accepted:,}", waited
    repeats = f"{figures.repeats:,} of them sent twice and stored once"
    yield "acked", f"{stats.acked:,}", repeats if figures.repeats else ""
    yield "rejected", f"{stats.rejected:,}", ""
    yield "unknown", f"{stats.unknown:,}", ""
    if figures.codes:
        codes = ", ".join(f"{code} {n:,}" for code, n in sorted(figures.codes.items()))
        yield "error codes", f"{len(figures.codes)}", codes
    dropped = "results that found the channel full"
    yield "dropped", f"{stats.dropped:,}", dropped if stats.dropped else ""
    rate = stats.accepted / figures.seconds if figures.seconds else 0.0
    yield "events/s", f"{rate:,.0f}", f"over {figures.seconds:,.0f} s"
    for label, (p50, p99, largest) in (
        ("publish call", figures.call),
        ("result latency", figures.latency),
    ):
        more = f"p99 {duration(p99)}, longest {duration(largest)}"
        yield f"{label} p50", duration(p50), more
    stored = "-" if figures.stored is None else f"{figures.stored:,}"
    yield "stored", stored, "read back" if stored != "-" else "could not be read back"
    if figures.replaced:
        more = "Kafka producers; what was unknown then has no order"
        yield "replaced", f"{figures.replaced}", more
    kinds = collections.Counter(struck.strike.kind for struck in figures.struck)
    done = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    more = f"{done}; {figures.reconnects} reconnects; up to "
    more += f"{figures.most_in_flight:,} events in flight"
    yield "faults", f"{len(figures.struck)}", more
    yield "memory", f"{figures.memory / 1e6:,.0f} MB", "of this process, at most"
