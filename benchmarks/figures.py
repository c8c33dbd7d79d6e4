"""Measurements: several runs of the same thing, their medians, their books."""

import statistics

from collections.abc import Sequence
from typing import Any

import attrs


@attrs.define
class MeasuredRun:
    """
    One run.

    Attributes:
        events: how many.
        seconds: from the first to the last of them.
        books: what was found afterwards, as text.
        balanced: whether that is as it must be.
        details: further numbers, by name.
        value: what is shown; None is the rate.
    """

    events: int
    seconds: float
    books: str = ""
    balanced: bool = True
    details: dict[str, float] = attrs.field(factory=dict)
    value: float | None = None

    @property
    def shown(self) -> float:
        """The value, or else events per second."""
        if self.value is not None:
            return self.value
        return self.events / self.seconds if self.seconds else 0.0

    def note(self, books: str, *, balanced: bool) -> None:
        """Keep the books."""
        self.books, self.balanced = books, balanced


@attrs.define
class Measured:
    """
    Runs of one thing.

    Attributes:
        what: was measured.
        where: database and broker.
        unit: of the medians in the table.
        runs: in their order.
        target: the one of the targets that this is measured for; "" is none.
        histogram: seconds of single calls, sorted into powers of two; may be empty.
        drawn: whether a plot shows it; with all workloads it would be yards long.
    """

    what: str
    where: str
    unit: str = "events/s"
    runs: list[MeasuredRun] = attrs.field(factory=list)
    target: str = ""
    histogram: dict[str, int] = attrs.field(factory=dict)
    drawn: bool = True

    def add_run(self, events: int, seconds: float, **details: float) -> MeasuredRun:
        """Keep a run, and return it."""
        self.runs.append(MeasuredRun(events, seconds, details=details))
        return self.runs[-1]

    @property
    def median(self) -> float:
        """The median of the runs."""
        return statistics.median(run.shown for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest of the runs."""
        values = [run.shown for run in self.runs]
        return min(values), max(values)

    @property
    def balanced(self) -> bool:
        """Whether the books of every run balance."""
        return all(run.balanced for run in self.runs)

    def add_value(self, value: float, **details: float) -> MeasuredRun:
        """Keep a run of which a single number is shown, and return it."""
        self.runs.append(MeasuredRun(1, 0.0, details=details, value=value))
        return self.runs[-1]

    def details(self) -> dict[str, float]:
        """Return the median of each further number."""
        names = self.runs[0].details
        return {
            name: statistics.median(run.details[name] for run in self.runs)
            for name in names
        }


def ratio(what: str, ours: Measured, peer: Measured, target: str = "") -> Measured:
    """Return ours ÷ peer, run by run as they took turns."""
    found = Measured(what, ours.where, "x", target=target)
    for mine, its in zip(ours.runs, peer.runs, strict=True):
        run = found.add_value(mine.shown / its.shown if its.shown else 0.0)
        run.note(f"{mine.shown:,.0f} / {its.shown:,.0f}", balanced=True)
    return found


def as_json(measured: Sequence[Measured], machine: dict[str, str]) -> dict[str, Any]:
    """Return everything in plain types; times in seconds."""
    return {
        "machine": machine,
        "balanced": all(one.balanced for one in measured),
        "measured": [
            {
                "what": one.what,
                "where": one.where,
                "unit": one.unit,
                "median": one.median,
                "lowest": one.spread[0],
                "highest": one.spread[1],
                "target": one.target,
                "histogram": one.histogram,
                "details": one.details(),
                "runs": [{**attrs.asdict(run), "value": run.shown} for run in one.runs],
            }
            for one in measured
        ],
    }
