"""Whether the books balance. Pure functions over the ledger of a run that has ended."""

from collections.abc import Container, Iterator

from eventbus_sync.demo.audit import MEANING, Violation
from eventbus_sync.observe import Stats
from eventbus_sync.soak.ledger import (
    ACKED,
    LATE,
    REJECTED,
    REPEATED,
    STORED,
    TWICE,
    UNKNOWN,
    Ledger,
)


class Tally:
    """
    What all events came to.

    Attributes:
        answers: answer → how many events had it.
        found: kind of violation → how many, and one of them.
    """

    def __init__(self) -> None:
        self.answers = dict.fromkeys((0, ACKED, REJECTED, UNKNOWN, TWICE), 0)
        self.found: dict[str, tuple[int, str]] = {}

    def note(self, kind: str, example: str, count: int = 1) -> None:
        """Note a violation."""
        before, first = self.found.get(kind, (0, example))
        self.found[kind] = (before + count, first)


def audit(ledger: Ledger, stats: Stats, *, replaced: bool = False) -> list[Violation]:
    """
    Return every way in which the run broke a promise; an empty list is the proof.

    Args:
        ledger: of a run whose threads have ended.
        stats: of its bus, after ``close``.
        replaced: whether a Kafka producer was replaced: what was in flight then has no
            outcome but unknown, and may be stored behind what the next one sent.
    """
    tally = Tally()
    excused = (0, UNKNOWN) if replaced else ()
    for thread in range(len(ledger.accepted)):
        _publisher(ledger, thread, tally, excused)
    # A full channel costs the reader results; which ones, nobody can tell.
    if silent := tally.answers[0] - stats.dropped:
        example = f"{tally.answers[0]:,} without a result, {stats.dropped:,} dropped"
        tally.note("unanswered", example, abs(silent))
    if stats.dropped:
        _sums(ledger, tally, stats)
    for text in ledger.foreign:
        tally.note("phantom", text)
    for text in _counters(ledger, tally, stats):
        tally.note("miscounted", text)
    return [
        Violation(kind, *tally.found[kind]) for kind in MEANING if kind in tally.found
    ]


def _publisher(
    ledger: Ledger, thread: int, tally: Tally, excused: Container[int]
) -> None:
    """Look at every event of one thread; those with *excused* answers have no order."""
    count = ledger.accepted[thread]
    answers = _padded(ledger.answers[thread], count)
    stored = _padded(ledger.stored[thread], count)
    good = 0
    for number in range(count):
        answer, storage = answers[number], stored[number]
        # Nearly all: acked, and stored once and in its place.
        if answer == ACKED and storage == STORED:
            good += 1
            continue
        tally.answers[answer] += 1
        if answer in excused:
            storage &= ~LATE
        for kind in _wrong(answer, storage):
            tally.note(kind, ledger.event_id(thread, number))
    tally.answers[ACKED] += good
    for number in range(count, len(answers)):
        if answers[number]:
            tally.note("uncalled", ledger.event_id(thread, number))


def _wrong(answer: int, storage: int) -> Iterator[str]:
    """Yield the violations of one event."""
    if answer == ACKED and not storage:
        yield "lost"
    if answer == REJECTED and storage:
        yield "phantom"
    if answer == TWICE:
        yield "answered_twice"
    if storage & REPEATED:
        yield "twice"
    if storage & LATE:
        yield "disordered"


def _sums(ledger: Ledger, tally: Tally, stats: Stats) -> None:
    """Look at sums: where results were dropped, that is all there is to compare."""
    stored = sum(len(table) - table.count(0) for table in ledger.stored)
    said = f"{stored:,} stored, {stats.acked:,} acked, {stats.unknown:,} unknown"
    if (missing := stats.acked - stored) > 0:
        tally.note("lost", said, missing)
    if (more := stored - stats.acked - stats.unknown) > 0:
        tally.note("phantom", said, more)


def _counters(ledger: Ledger, tally: Tally, stats: Stats) -> Iterator[str]:
    pairs = {"accepted": (stats.accepted, sum(ledger.accepted))}
    if not stats.dropped:
        pairs["acked"] = (stats.acked, tally.answers[ACKED])
        pairs["rejected"] = (stats.rejected, tally.answers[REJECTED])
        pairs["unknown"] = (stats.unknown, tally.answers[UNKNOWN])
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            yield f"{name}: {theirs:,} there, {ours:,} here"
    if not stats.balanced:
        yield f"its own equations: {stats}"


def _padded(table: bytearray, count: int) -> bytes:
    """Return at least *count* bytes: what nobody has noted is 0."""
    return bytes(table) + bytes(max(0, count - len(table)))
