"""
What the demo shows people in the end: a table, and one line about the books.

Nothing here prints. Texts hold no control characters unless colour is asked for.
"""

import os
import shutil
import textwrap

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol, TextIO

import attrs

from eventbus_sync.demo.figures import Figures


_PLAIN: Final = str.maketrans({"µ": "u", "…": "...", "⊆": "<="})
_LABEL, _VALUE, _GAP = 18, 11, 3
_NARROWEST = 40
_ROUNDS_TO_1000 = 999.5
_GREEN, _RED, _BOLD, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"


@attrs.frozen(kw_only=True)
class Paper:
    """
    What a text is written on.

    Attributes:
        width: columns.
        live: whether a line can be written over.
        colour: whether there is colour.
        rich: whether it can show more than ASCII.
    """

    width: int = 80
    live: bool = False
    colour: bool = False
    rich: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> "Paper":
        """Return what *stream* can show: without a terminal only plain text."""
        terminal = stream.isatty()
        try:
            "µ…⊆".encode(stream.encoding or "ascii")
        except UnicodeEncodeError:
            rich = False
        else:
            rich = True
        live = terminal and os.environ.get("TERM") != "dumb"
        return cls(
            width=max(_NARROWEST, shutil.get_terminal_size((80, 24)).columns),
            live=live,
            colour=live and not os.environ.get("NO_COLOR"),
            rich=rich,
        )

    def text(self, text: str) -> str:
        """Return *text* in characters that can be shown."""
        return text if self.rich else text.translate(_PLAIN)

    def bold(self, text: str) -> str:
        """Return *text*, bold where there is colour."""
        return f"{_BOLD}{text}{_RESET}" if self.colour else text

    def verdict(self, text: str, *, good: bool) -> str:
        """Return *text* in green or red where there is colour."""
        if not self.colour:
            return text
        return f"{_BOLD}{_GREEN if good else _RED}{text}{_RESET}"


class Checked(Protocol):
    """Figures of a run on some broker."""

    @property
    def backend(self) -> str:
        """Which one."""


def table(figures: Figures, paper: Paper) -> str:
    """Return the figures of one run, a line or more for each."""
    heading = f"{figures.title}: {figures.events:,} events from {figures.threads} "
    heading += "thread" if figures.threads == 1 else "threads"
    heading += " (interrupted)" if figures.interrupted else ""
    return laid_out(heading, _rows(figures), paper)


def laid_out(heading: str, rows: Iterable[tuple[str, str, str]], paper: Paper) -> str:
    """Return a table of labels, values and notes, as wide as the paper at most."""
    lines = [paper.bold(line) for line in textwrap.wrap(heading, paper.width)]
    room = paper.width - 2 - _LABEL - _VALUE - _GAP
    for label, value, note in rows:
        line = f"  {label:<{_LABEL}}{value:>{_VALUE}}"
        indent = " " * (2 + _LABEL + _VALUE + _GAP)
        if note and room < _NARROWEST // 2:
            # Too narrow for three columns: the note goes below.
            lines.append(line)
            line, indent = "", "    "
        first, *more = textwrap.wrap(note, paper.width - len(indent)) or [""]
        lines.append((f"{line}{indent[len(line) :]}{first}").rstrip())
        lines += [indent + rest for rest in more]
    return paper.text("\n".join(lines))


def verdict(
    all_figures: Sequence[Figures], paper: Paper, *, interrupted: bool = False
) -> str:
    """Return one line that says whether the books balance, and why not."""
    early = "interrupted; " if interrupted else ""
    wrong = [figures for figures in all_figures if not figures.balanced]
    if not all_figures:
        text = f"{early}there are no books to balance"
    elif wrong:
        reasons = [f"{f.backend}: {reason}" for f in wrong for reason in _reasons(f)]
        text = f"THE BOOKS DO NOT BALANCE on {listed(wrong)}: {'; '.join(reasons)}"
        text = early + text
    else:
        proof = "acked ⊆ stored ⊆ acked + unknown, each once and in order"
        text = f"{early}the books balance on {listed(all_figures)}: {proof}"
    return paper.verdict(paper.text(text), good=bool(all_figures) and not wrong)


def duration(seconds: float | None) -> str:
    """Return a duration with three digits and its unit."""
    if seconds is None:
        return "-"
    value, unit = seconds * 1e6, "µs"
    for larger in ("ms", "s"):
        if value >= _ROUNDS_TO_1000:
            value, unit = value / 1000, larger
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0  # noqa: PLR2004
    return f"{value:.{digits}f} {unit}"


def _rows(figures: Figures) -> Iterator[tuple[str, str, str]]:
    waited = f"{figures.waited:,} calls waited for room" if figures.waited else ""
    yield "accepted", f"{figures.accepted:,}", waited
    repeats = f"{figures.repeats:,} of them sent twice and stored once"
    yield "acked", f"{figures.acked:,}", repeats if figures.repeats else ""
    codes = ", ".join(f"{code} {n:,}" for code, n in figures.codes.items())
    yield "rejected", f"{figures.rejected:,}", codes if figures.rejected else ""
    only_unknown = figures.unknown and not figures.rejected
    yield "unknown", f"{figures.unknown:,}", codes if only_unknown else ""
    dropped = "results that found the channel full"
    yield "dropped", f"{figures.dropped:,}", dropped if figures.dropped else ""
    took = f"{duration(figures.seconds)} from first publish to last result"
    yield "events/s", f"{figures.rate:,.0f}", took
    yield "publish call p50", duration(figures.call.p50), ""
    yield "publish call p99", duration(figures.call.p99), ""
    yield "result latency p50", duration(figures.latency.p50), ""
    yield "result latency p99", duration(figures.latency.p99), ""
    stored = "-" if figures.stored is None else f"{figures.stored:,}"
    yield "stored", stored, _stored_note(figures)
    if figures.struck:
        back = "reconnect" if figures.reconnects == 1 else "reconnects"
        did = "; ".join(str(struck) for struck in figures.struck)
        yield "faults", f"{len(figures.struck)}", f"{did}; {figures.reconnects} {back}"


def _stored_note(figures: Figures) -> str:
    if figures.stored is None:
        return "could not be read back"
    if figures.balanced:
        return "read back: each once, in order"
    return "read back: see below"


def _reasons(figures: Figures) -> Iterator[str]:
    yield from (str(violation) for violation in figures.violations)
    yield from figures.failures


def listed(all_figures: Sequence[Checked]) -> str:
    """Return the names of the brokers."""
    return " and ".join(figures.backend for figures in all_figures)
