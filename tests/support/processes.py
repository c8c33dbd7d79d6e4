"""Real processes for tests: a script, its output, and how it ended."""

import os
import subprocess
import sys
import textwrap

from collections.abc import Mapping


def unmeasured(environment: Mapping[str, str]) -> dict[str, str]:
    """
    Return *environment* for a process that coverage must not watch.

    Under coverage nearly every call, on any thread, passes a lock of coverage's, which
    is taken in Python code. A process that forks while its threads are busy may find it
    held for ever in the child. A signal handler that raises, Ctrl-C's among them, may
    interrupt just behind the lock, which is then held for ever: every thread stops.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("COVERAGE_")
    }


def run_script(
    script: str, *args: str, timeout: float = 180, measured: bool = True
) -> subprocess.CompletedProcess[str]:
    """
    Run *script* in a Python of its own and return how it ended.

    A process that does not end is a failure of the test: ``TimeoutExpired``.

    Args:
        script: what to run.
        args: what the script finds in ``sys.argv``.
        timeout: seconds.
        measured: whether coverage may watch it, if it watches this process; not if it
            forks or gets signals, see ``unmeasured``.
    """
    return subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            textwrap.dedent(script),
            *args,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=dict(os.environ) if measured else unmeasured(os.environ),
    )
