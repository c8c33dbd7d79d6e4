"""
What the outbox demo shows people in the end: a table, and one line with the verdict.

Nothing here prints.
"""

from collections.abc import Iterator, Sequence

from eventbus_sync.demo.outbox.figures import Figures
from eventbus_sync.demo.report import Paper, duration, laid_out, listed


def table(figures: Figures, paper: Paper) -> str:
    """Return the figures of one run, a line or more for each."""
    heading = f"the outbox on SQLite, and {figures.title}: {figures.events:,} events "
    heading += f"from {figures.threads} "
    heading += "thread" if figures.threads == 1 else "threads"
    heading += " (interrupted)" if figures.interrupted else ""
    return laid_out(heading, _rows(figures), paper)


def verdict(
    all_figures: Sequence[Figures], paper: Paper, *, interrupted: bool = False
) -> str:
    """Return one line that says whether the outbox kept its word, and why not."""
    early = "interrupted; " if interrupted else ""
    wrong = [figures for figures in all_figures if not figures.balanced]
    if not all_figures:
        text = f"{early}there is nothing to check"
    elif wrong:
        reasons = [f"{f.backend}: {reason}" for f in wrong for reason in _reasons(f)]
        where = listed(wrong)
        text = f"{early}THE OUTBOX BROKE ITS WORD on {where}: {'; '.join(reasons)}"
    else:
        proof = "every committed event is stored, no other one, and all in order"
        text = f"{early}the outbox kept its word on {listed(all_figures)}: {proof}"
    return paper.verdict(paper.text(text), good=bool(all_figures) and not wrong)


def _rows(figures: Figures) -> Iterator[tuple[str, str, str]]:
    yield "committed", f"{figures.committed:,}", "orders changed, each with its event"
    undone = "transactions after their event was added"
    yield "rolled back", f"{figures.rolled_back:,}", undone
    yield "commit p50", duration(figures.commit.p50), ""
    yield "commit p99", duration(figures.commit.p99), ""
    for state in ("pending", "published", "dead"):
        yield (
            f"rows {state}",
            f"{figures.rows.get(state, 0):,}",
            _row_note(figures, state),
        )
    bus = figures.bus
    yield "accepted", f"{bus.accepted:,}", "by the relay's bus"
    yield "acked", f"{bus.acked:,}", ""
    yield "rejected", f"{bus.rejected:,}", ""
    tried = "tried again by the relay" if bus.unknown else ""
    yield "unknown", f"{bus.unknown:,}", tried
    took = f"{duration(figures.seconds)} from first commit to last row published"
    yield "events/s", f"{figures.rate:,.0f}", took
    stored = "-" if figures.stored is None else f"{figures.stored:,}"
    yield "stored", stored, _stored_note(figures)
    if figures.struck:
        back = "reconnect" if figures.reconnects == 1 else "reconnects"
        did = "; ".join(str(struck) for struck in figures.struck)
        yield "faults", f"{len(figures.struck)}", f"{did}; {figures.reconnects} {back}"


def _row_note(figures: Figures, state: str) -> str:
    if state != "pending" or not figures.most:
        return ""
    return f"at most {figures.most:,}, the oldest for {duration(figures.oldest)}"


def _stored_note(figures: Figures) -> str:
    if figures.stored is None:
        return "could not be read back"
    if not figures.balanced:
        return "read back: see below"
    repeats = figures.stored - figures.committed
    if repeats > 0:
        return (
            f"read back: in order, {repeats:,} of them repeats with the same event id"
        )
    return "read back: each once, in order"


def _reasons(figures: Figures) -> Iterator[str]:
    yield from (str(violation) for violation in figures.violations)
    yield from figures.failures
    if figures.stored is None and not figures.failures:
        yield "what is stored could not be read back"
