"""Runs parts, says what they find as they find it, and writes table, JSON and plot."""

import argparse
import json
import sys

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from benchmarks import plot, targets
from benchmarks.databases import NotHere
from benchmarks.figures import Measured, as_json
from benchmarks.machine import machine
from benchmarks.parts import Part, Settings
from benchmarks.table import lines
from eventbus_sync.errors import ConfigError, EventBusError
from eventbus_sync.testing import BrokerNotInstalled


#: Exit codes.
DONE, UNBALANCED, USAGE = 0, 1, 2
#: Calls of a histogram that one mark stands for, at least.
_WIDTH: Final = 40


class Report:
    """
    Collects measurements and says them on the way.

    Args:
        out: where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.measured: list[Measured] = []
        self.skipped: list[str] = []

    def say(self, line: str = "") -> None:
        """Write a line now."""
        self._out.write(line + "\n")
        self._out.flush()

    def take(self, measured: Iterable[Measured]) -> None:
        """Collect, and say the books of every run."""
        for one in measured:
            self.measured.append(one)
            for run in one.runs:
                wrong = "" if run.balanced else "  DOES NOT BALANCE"
                self.say(f"{one.what}; {one.where}: {run.books}{wrong}")

    def end(self, *, all_targets: bool, file: Path | None, drawing: Path | None) -> int:
        """Print the tables, write the files, and return the exit code."""
        about = machine()
        self.say("\n" + "\n".join(lines(self.measured, about)))
        for line in histograms(self.measured):
            self.say(line)
        if all_targets:
            self.say("\n" + "\n".join(targets.lines(self.measured)))
        for reason in self.skipped:
            self.say(f"not measured: {reason}")
        found = as_json(self.measured, about)
        found["targets"] = targets.as_json(self.measured)
        found["not measured"] = self.skipped
        if file is not None:
            file.write_text(json.dumps(found, indent=2) + "\n")
        if drawing is not None:
            plot.draw(self.measured, about, drawing)
        return DONE if found["balanced"] else UNBALANCED


def histograms(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield the histograms as text."""
    for one in measured:
        if not one.histogram:
            continue
        most = max(one.histogram.values())
        yield ""
        yield f"{one.what}; {one.where}; calls that took less than so many µs"
        for less_than, calls in one.histogram.items():
            bar = "#" * round(_WIDTH * calls / most)
            yield f"{int(less_than):>12,}  {calls:>8,}  {bar}".rstrip()


def run_part(
    part: Part,
    settings: Settings,
    given: argparse.Namespace,
    prog: str,
) -> int:
    """Run a single part, and return the exit code."""
    report = Report(sys.stdout)
    try:
        plot.check(given.plot)
        report.take(part.measure(settings))
    except (NotHere, BrokerNotInstalled, ConfigError, EventBusError) as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return USAGE
    return report.end(all_targets=False, file=given.json, drawing=given.plot)
