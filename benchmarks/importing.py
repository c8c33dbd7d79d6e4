"""What ``import eventbus_sync`` costs: ``python -m benchmarks import``."""

import json
import subprocess
import sys

from collections.abc import Iterator
from typing import Final

from benchmarks.figures import Measured
from benchmarks.parts import Part, Settings


_DESCRIPTION: Final = """\
The time of "import eventbus_sync" in fresh interpreters, with its bytecode compiled
already, and how many drivers it loads: confluent_kafka, nats, sqlalchemy. None must be.
"""

_PROGRAM: Final = """
import json, sys, time
before = time.perf_counter()
import eventbus_sync
took = time.perf_counter() - before
drivers = [n for n in ("confluent_kafka", "nats", "sqlalchemy") if n in sys.modules]
print(json.dumps([took, drivers]))
"""


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield the time of the import."""
    found = Measured("import eventbus_sync", "fresh interpreters", "ms", target="T11")
    _import()  # compiles
    for _ in range(settings.rounds(full=15, quick=5)):
        seconds, drivers = _import()
        run = found.add_value(seconds * 1000, **{"drivers loaded": len(drivers)})
        told = f"loads {', '.join(drivers) or 'no driver'}"
        run.note(told, balanced=not drivers)
    yield found


def _import() -> tuple[float, list[str]]:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", _PROGRAM], capture_output=True, check=True, text=True
    )
    seconds, drivers = json.loads(done.stdout)
    return seconds, drivers


PART: Final = Part(
    "import",
    "time of the import, and drivers loaded",
    _DESCRIPTION,
    measure,
    uses_brokers=False,
)
