"""The command line: ``python -m benchmarks [COMMAND]``."""

import argparse
import sys

from collections.abc import Sequence
from typing import Final

from benchmarks import (
    counters,
    everything,
    flask_load,
    growth,
    idle,
    importing,
    latency,
    memory,
    outbox,
    slow_reader,
    steps,
    throughput,
)
from benchmarks.parts import Part, add_arguments, settings_of
from benchmarks.report import run_part
from eventbus_sync.cli_parser import Parser


#: Of the publishing comparison, in the order in which they run.
PARTS: Final = (
    throughput.PART,
    latency.PART,
    slow_reader.PART,
    memory.PART,
    growth.PART,
    idle.PART,
    importing.PART,
    steps.PART,
    flask_load.PART,
)
# Each adds a command, whose ``run`` takes the arguments and returns the exit code.
_COMMANDS: Final = (outbox.add_command, counters.add_command)

_DESCRIPTION: Final = """\
What things cost, ours and its peers measured side by side in one run. Without a command
the whole publishing comparison runs, and ends with the table of targets; --quick takes
about a minute, the full run about half an hour. Each command runs a part of it, and says with
--help what it measures and how to read it. Ratios count: absolute figures drift from
machine to machine. The books of every run are printed, and have to balance.
"""
_EPILOG: Final = """\
exit codes: 0 all books balance, 1 some do not (counters: one has grown), 2 wrong
arguments or nothing to measure with
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark, or all, and return the exit code."""
    parser: argparse.ArgumentParser = Parser(
        prog="python -m benchmarks",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    add_arguments(parser, uses_brokers=True)
    parser.set_defaults(run=lambda given: everything.run(PARTS, given, parser.prog))
    commands = parser.add_subparsers(metavar="COMMAND")
    for part in PARTS:
        _add_part(commands, part)
    for add_command in _COMMANDS:
        add_command(commands)
    given = parser.parse_args(arguments)
    code: int = given.run(given)
    return code


def _add_part(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", part: Part
) -> None:
    parser = commands.add_parser(
        part.name,
        help=part.help,
        description=part.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser, uses_brokers=part.uses_brokers)
    parser.set_defaults(
        run=lambda given: run_part(part, settings_of(given), given, parser.prog)
    )


if __name__ == "__main__":
    sys.exit(main())
