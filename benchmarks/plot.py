"""Bars of events per second: an SVG written here, or a PNG by matplotlib."""

import importlib.util

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from benchmarks.databases import NotHere
from benchmarks.figures import Measured


_UNITS: Final = {"events/s", "rows/s", "requests/s"}
_ROW, _LABEL, _BAR, _TITLE = 22, 520, 420, 40
_OURS, _PEERS = "#1f77b4", "#b0b0b0"
# How everything begins that is measured beside ours.
_OTHERS: Final = (
    "by hand",
    "bare",
    "literal",
    "publish and wait",
    "view without",
    "view publishes and waits",
    "naive",
)
#: What of the machine stands above the bars.
_ABOUT: Final = ("cpu", "system", "python")


def check(file: Path | None) -> None:
    """
    Look whether *file* can be drawn, before hours are spent on measuring.

    Raises:
        NotHere: the ending is no known one, or matplotlib is missing.
    """
    if file is None or file.suffix == ".svg":
        return
    if file.suffix != ".png":
        msg = f"--plot {file}: the name must end in .svg or .png"
        raise NotHere(msg)
    if importlib.util.find_spec("matplotlib") is None:
        msg = "a PNG needs matplotlib: pip install matplotlib, or --plot FILE.svg"
        raise NotHere(msg)


def draw(measured: Sequence[Measured], machine: dict[str, str], file: Path) -> None:
    """Draw rates as bars: the median, and a line from lowest to highest."""
    rates = [one for one in measured if one.unit in _UNITS and one.drawn]
    if file.suffix == ".svg":
        about = [machine[name] for name in _ABOUT if name in machine]
        file.write_text(_svg(rates, "; ".join(about)))
    else:
        _png(rates, file)


def _is_ours(one: Measured) -> bool:
    return not one.what.startswith(_OTHERS)


def _svg(rates: Sequence[Measured], caption: str) -> str:
    # Each kind of rate has a scale of its own: requests are fewer than events.
    most = {
        unit: max((one.spread[1] for one in rates if one.unit == unit), default=1.0)
        for unit in _UNITS
    }
    width, height = _LABEL + _BAR + 130, _TITLE + _ROW * len(rates) + 30
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"',
        f'width="{width}" height="{height}" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="24" font-size="14">{escape(caption)}</text>',
    ]
    for number, one in enumerate(rates):
        top = _TITLE + number * _ROW
        scale = _BAR / (most[one.unit] or 1.0)
        long, low, high = (v * scale for v in (one.median, *one.spread))
        middle = top + _ROW / 2
        colour = _OURS if _is_ours(one) else _PEERS
        label = escape(f"{one.where}: {one.what}")
        parts += [
            f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{label}</text>',
            f'<rect x="{_LABEL}" y="{top + 3}" width="{long:.1f}"',
            f'height="{_ROW - 6}" fill="{colour}"/>',
            f'<line x1="{_LABEL + low:.1f}" x2="{_LABEL + high:.1f}" y1="{middle}"',
            f'y2="{middle}" stroke="black"/>',
            f'<text x="{_LABEL + max(long, high) + 6:.1f}" y="{middle + 4}">',
            f"{one.median:,.0f} {one.unit}</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _png(rates: Sequence[Measured], file: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(12, 1 + 0.3 * len(rates)), layout="constrained")
    axes = figure.subplots()
    names = [f"{one.where}: {one.what}" for one in reversed(rates)]
    medians = [one.median for one in reversed(rates)]
    colours = [_OURS if _is_ours(one) else _PEERS for one in reversed(rates)]
    axes.barh(range(len(names)), medians, color=colours)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("per second")
    figure.savefig(file)
