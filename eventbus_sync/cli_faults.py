"""``faults``: its arguments, and what they teach."""

import argparse
import sys


#: Exit code for wrong arguments, or no broker.
_USAGE = 2

_DESCRIPTION = """\
Break one thing after another while five threads publish, each on an embedded
broker of its own, and make a table of it: what broke, how many events were in
flight, how many were lost, how many were stored twice, and which outcomes they
had. After each fault the broker is read back and the books are checked:

  acked <= stored <= acked + unknown, nothing is stored twice, every event has
  one outcome in time, and the events of one aggregate are stored in the order
  in which each thread published them.
"""

_EPILOG = """\
examples:
  {prog} faults
  {prog} faults --list
  {prog} faults --backend nats --only killed
  {prog} faults --markdown
  {prog} faults --json | jq .balanced

  All of it takes about five minutes. The embedded Kafka broker stores in memory
  and is not killed: it would lose what it has acknowledged. For everything at
  once, and for a broker of your own, see soak.

exit codes:
  0    nothing was lost, doubled, out of order or late
  1    something was: please report it, with the JSON
  2    wrong arguments, or no broker
  130  interrupted by Ctrl-C; the table is shown all the same
"""


def add_faults(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prog: str
) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "faults",
        help="break one thing after another, and make a table of what was survived",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend", choices=("nats", "kafka"), help="default: one after the other"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="only faults with this text in them, see --list; may be repeated",
    )
    parser.add_argument(
        "--rate",
        type=_from_one,
        default=10_000,
        metavar="N",
        help="events for each second, in bursts; default: 10000",
    )
    parser.add_argument(
        "--list", action="store_true", help="print what would break, and stop"
    )
    style = parser.add_mutually_exclusive_group()
    for name, what in (("markdown", "a table in Markdown"), ("json", "JSON")):
        style.add_argument(
            f"--{name}",
            dest="style",
            action="store_const",
            const=name,
            default="text",
            help=f"print {what}",
        )
    parser.set_defaults(run=lambda arguments: _faults(parser, arguments))


def _faults(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    from eventbus_sync.soak.lines import LINES  # noqa: PLC0415 - --help needs nothing
    from eventbus_sync.soak.survival import survive  # noqa: PLC0415
    from eventbus_sync.testing.broker_errors import BrokerNotInstalled  # noqa: PLC0415

    wanted = arguments.only or [""]
    for text in wanted:
        if not any(text in line.fault for line in LINES):
            parser.error(f"no fault contains {text!r}; see --list")
    lines = [
        (line, broker)
        for line in LINES
        if any(text in line.fault for text in wanted)
        for broker in line.brokers
        if arguments.backend in {None, broker}
    ]
    if not lines:
        parser.error("no fault is left: see --list")
    if arguments.list:
        sys.stdout.writelines(f"{broker:<6}{line.fault}\n" for line, broker in lines)
        return 0
    try:
        return survive(lines, arguments.rate, sys.stdout, sys.stderr, arguments.style)
    except BrokerNotInstalled as error:
        advice = "its brokers come with: pip install 'eventbus-sync[demo]'"
        sys.stderr.write(f"{parser.prog}: {error}\n{advice}\n")
        return _USAGE


def _from_one(text: str) -> int:
    number = int(text.replace(",", ""))
    if number < 1:
        message = f"{text!r} is not a whole number from 1 up"
        raise argparse.ArgumentTypeError(message)
    return number
