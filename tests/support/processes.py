"""Real processes for tests: a script, its output, and how it ended."""

import os
import subprocess
import sys
import textwrap


def run_script(
    script: str, *args: str, timeout: float = 60, measured: bool = True
) -> subprocess.CompletedProcess[str]:
    """
    Run *script* in a Python of its own and return how it ended.

    A process that does not end is a failure of the test: ``TimeoutExpired``.

    Args:
        script: what to run.
        args: what the script finds in ``sys.argv``.
        timeout: seconds.
        measured: whether coverage may watch it, if it watches this process. Not a
            process that forks while its threads are busy: coverage has a lock that is
            then held for ever in the child.
    """
    environment = dict(os.environ)
    if not measured:
        for name in list(environment):
            if name.startswith("COVERAGE_"):
                del environment[name]
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
        env=environment,
    )
