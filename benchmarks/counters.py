"""
Counters that no clock can change, against a baseline: ``python -m benchmarks counters``.

They are counted in a process of its own (``counting_process.py``), where locks are
replaced before anything else is imported.
"""

import argparse
import json
import subprocess
import sys

from pathlib import Path
from typing import Any, Final


#: What is committed.
BASELINE: Final = Path(__file__).with_name("baseline.json")
#: What a counter may grow before that is an error: a part of it, and a bit beside, for
#: the ticks of a second that fall into the counting.
_TOLERANCE, _SLACK = 0.05, 0.02

_DESCRIPTION: Final = """\
What the path of an event does, counted with one publisher thread on a small fixed
workload: lock acquisitions, wake-ups of the event loop, jobs given to the executor, and
blocks and bytes of memory that an event in flight holds. None of it depends on the
clock, so it can gate: --check compares with benchmarks/baseline.json and fails if a
counter has grown by more than 5 %. Who makes the path longer on purpose renews the
baseline with --write, and says why in the commit.

  one by one   each event is published when the one before it was acked
  burst        the loop, or the poll thread, finds 200 events, or acks, at once
"""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "counters",
        help="counted steps per event, against a baseline",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--check", action="store_true", help="exit 1 if one has grown")
    which.add_argument("--write", action="store_true", help="renew the baseline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counters")
    parser.add_argument(
        "--baseline", type=Path, default=BASELINE, metavar="FILE", help="another one"
    )
    parser.set_defaults(run=_run)


def count() -> dict[str, float]:
    """Return every counter by its name."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.counting_process"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def grown(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """Return a text for each counter that has grown, or that nobody knows."""
    texts = []
    for name, value in found.items():
        if name not in baseline:
            texts.append(f"{name}: {value:g}, and the baseline does not know it")
        elif value > baseline[name] * (1 + _TOLERANCE) + _SLACK:
            texts.append(f"{name}: {value:g}, and the baseline says {baseline[name]:g}")
    gone = baseline.keys() - found.keys()
    return texts + [f"{name}: was not counted" for name in sorted(gone)]


def _version() -> str:
    # Objects have other sizes in other versions.
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _run(given: argparse.Namespace) -> int:
    found = count()
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    baselines: dict[str, Any] = {}
    if given.baseline.exists():
        baselines = json.loads(given.baseline.read_text())
    known = baselines.get(_version(), {})
    out = sys.stdout
    width = max(map(len, found))
    out.write(f"{'':<{width}}  {'counted':>9}  {'baseline':>9}\n")
    for name, value in found.items():
        before = f"{known[name]:g}" if name in known else ""
        out.write(f"{name:<{width}}  {value:>9g}  {before:>9}".rstrip() + "\n")
    if given.write:
        baselines[_version()] = found
        ordered = dict(sorted(baselines.items()))
        given.baseline.write_text(json.dumps(ordered, indent=2) + "\n")
        out.write(f"written to {given.baseline} for Python {_version()}\n")
        return 0
    if not given.check:
        return 0
    if not known:
        out.write(f"no baseline for Python {_version()}: run it there with --write\n")
        return 0
    texts = grown(found, known)
    for text in texts:
        out.write(f"HAS GROWN: {text}\n")
    if texts:
        out.write(
            "an event's path has become longer. If that is meant, renew the baseline: "
            "python -m benchmarks counters --write\n"
        )
        return 1
    out.write("no counter has grown\n")
    return 0
