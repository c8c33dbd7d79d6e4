"""Which of the rows seen a claim takes. Pure: no database."""

import itertools

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs


_SMALLEST_WINDOW: Final = 64
_WIDTH: Final = 4
#: A claim takes no more rows than this, and looks at four times as many.
LARGEST_CLAIM: Final = 10_000


@attrs.define(slots=True)  # not frozen: a claim makes thousands, in a third of the time
class Seen:
    """
    A pending row, as a claim sees it.

    Attributes:
        position, aggregate_id: of the row.
        free: nobody has a lease that stands.
        due_in: seconds until it is due; 0 or less if it is.
        visible: no transaction that is still open can have an older row.
        size: its bytes, where it is known as early as this.
    """

    position: int
    aggregate_id: str
    free: bool
    due_in: float
    visible: bool
    size: int = 0

    @property
    def claimable(self) -> bool:
        """Whether the row itself could be taken."""
        return self.free and self.due_in <= 0 and self.visible


def seen_to(seen: Sequence[Seen]) -> int:
    """Return the last position before the first row that is not visible; 0 if none."""
    shown = itertools.takewhile(lambda row: row.visible, seen)
    return max((row.position for row in shown), default=0)


def window_size(limit: int) -> int:
    """Return how many rows are looked at to find *limit* that can be claimed."""
    return max(_SMALLEST_WINDOW, _WIDTH * min(limit, LARGEST_CLAIM))


def runs(seen: Iterable[Seen], without: Collection[str]) -> dict[str, list[int]]:
    """
    Return for each aggregate its claimable rows from its first row on, without a hole.

    An aggregate of which somebody has a row is left out, and so is one *without*
    which the caller wants its answer.
    """
    found: dict[str, list[int]] = {}
    cut = set(without)
    taken = set()
    for row in seen:
        name = row.aggregate_id
        if not row.free:
            taken.add(name)
        if name in cut:
            continue
        if row.claimable:
            found.setdefault(name, []).append(row.position)
        else:
            cut.add(name)
    return {name: run for name, run in found.items() if name not in taken}


def by_age(runs: Iterable[list[int]]) -> list[list[int]]:
    """Return *runs* in the order of their heads, the oldest first."""
    return sorted(runs, key=lambda run: run[0])


def share(candidates: Iterable[Sequence[int]], limit: int) -> set[int]:
    """
    Return up to *limit* positions out of runs: first the head of each, oldest first.

    Then the runs go on, oldest rows first, so that one hot aggregate can fill a batch
    but takes no other's place in it.
    """
    oldest = sorted(candidates, key=lambda run: run[0])[:limit]
    chosen = {run[0] for run in oldest}
    rest = sorted(position for run in oldest for position in run[1:])
    chosen.update(rest[: limit - len(chosen)])
    return chosen


def without_holes(
    candidates: Iterable[Sequence[int]], available: Collection[int]
) -> list[list[int]]:
    """Return of each run the part before the first row that is not *available*."""
    kept = []
    for run in candidates:
        part = list(itertools.takewhile(available.__contains__, run))
        if part:
            kept.append(part)
    return kept


def fitting(
    runs: Iterable[Sequence[int]], sizes: Mapping[int, int], most: int | None
) -> set[int]:
    """
    Return the positions that have up to *most* bytes together, in the order of ``share``.

    The first of them is there whatever it has, or nobody would ever take it. What comes
    behind one that is too much is left too, so that runs have no holes.
    """
    known = list(runs)
    heads = sorted(run[0] for run in known)
    rest = sorted(position for run in known for position in run[1:])
    fit: set[int] = set()
    total = 0
    for position in (*heads, *rest):
        total += sizes[position]
        if fit and most is not None and total > most:
            break
        fit.add(position)
    return fit


def go_on_from(
    seen: Sequence[Seen], size: int, claimable: Iterable[int], chosen: Collection[int]
) -> int:
    """
    Return where the next claim should look on; 0 is from the oldest row again.

    That is the first row that could have been claimed but was one too many, or the end
    of the window.
    """
    left = [position for position in claimable if position not in chosen]
    if left:
        return min(left) - 1
    return seen[-1].position if len(seen) >= size else 0
