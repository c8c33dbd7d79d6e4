"""The command line: ``python -m benchmarks COMMAND``."""

import argparse
import sys

from collections.abc import Sequence

from benchmarks import outbox


# Each adds a command, whose ``run`` takes the arguments and returns the exit code.
_COMMANDS = (outbox.add_command,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What things cost, measured side by side in one run.",
        epilog="exit codes: 0 all books balance, 1 some do not, 2 wrong arguments or "
        "nothing to measure with",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in _COMMANDS:
        add_command(commands)
    given = parser.parse_args(arguments)
    code: int = given.run(given)
    return code


if __name__ == "__main__":
    sys.exit(main())
