"""Figures as a table of text."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.figures import Measured


#: From here on a number is shown without its fraction.
_WHOLE: Final = 100


def lines(measured: Sequence[Measured], machine: dict[str, str]) -> Iterator[str]:
    """Yield the table, the machine below it."""
    rows = [("", "", "median", "lowest - highest", "")]
    rows += [_row(one) for one in measured]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for what, where, median, spread, details in rows:
        yield (
            f"{what:<{widths[0]}}  {where:<{widths[1]}}  {median:>{widths[2]}}  "
            f"{spread:>{widths[3]}}  {details}"
        ).rstrip()
    yield ""
    yield "; ".join(f"{name} {value}" for name, value in machine.items())


def _row(one: Measured) -> tuple[str, str, str, str, str]:
    low, high = one.spread
    details = ", ".join(f"{name} {shown(v)}" for name, v in one.details().items())
    wrong = "" if one.balanced else "  BOOKS DO NOT BALANCE"
    return (
        one.what,
        one.where,
        f"{shown(one.median)} {one.unit}",
        f"{shown(low)} - {shown(high)}",
        details + wrong,
    )


def shown(number: float) -> str:
    """Return *number* with as many digits as mean something."""
    if number == int(number) or abs(number) >= _WHOLE:
        return f"{number:,.0f}"
    return f"{number:.3g}"
