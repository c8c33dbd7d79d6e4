"""
The command line: ``python -m eventbus_sync …``, or ``eventbus-sync …``.

Each command has one function that adds its arguments and one that runs it; what a
command needs is imported when it runs, so that ``--help`` is quick and needs nothing.
"""

import argparse
import contextlib
import os
import signal
import sys

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import eventbus_sync

from eventbus_sync.cli_faults import add_faults
from eventbus_sync.cli_outbox import add_outbox
from eventbus_sync.cli_parser import Parser
from eventbus_sync.cli_relay import add_relay
from eventbus_sync.cli_soak import add_soak
from eventbus_sync.errors import EventBusError


#: Exit codes besides those of a command: 0 is success, 1 its own "no".
USAGE, INTERRUPTED, TERMINATED = 2, 130, 143

_DESCRIPTION = """\
Publish domain events to Kafka or NATS JetStream from threads: never wait for
the broker, lose no outcome.
"""

_EPILOG = """\
begin with:
  {prog} demo
  {prog} demo --outbox
  {prog} demo --help
  {prog} relay --help

exit codes of every command:
  0    success
  1    its own "no"; its --help says when
  2    wrong arguments, or something that is needed is not there
  3    the database cannot be reached
  130  interrupted by Ctrl-C
  143  ended by SIGTERM (128 and its number, 15), everything stopped before;
       the relay ends in good order then, with 0
"""

_DEMO_DESCRIPTION = """\
Publish order events to a broker from several threads while one thread reads
the results off the channel; then read the broker back and check the books:

  acked <= stored <= acked + unknown, nothing is stored twice, and the events
  of one aggregate are stored in the order in which each thread published them.

Without arguments it starts an embedded NATS server and an embedded Kafka
broker on 127.0.0.1, one after the other, and takes them away again. They come
with pip install 'eventbus-sync[demo]'; --backend memory and --url do without.
"""

_DEMO_EPILOG = """\
examples:
  {prog} demo
  {prog} demo --break
  {prog} demo --backend kafka --events 200_000
  {prog} demo --outbox
  {prog} demo --json | jq .balanced
  {prog} demo --url kafka://localhost:9092
  {prog} demo --url 'nats://localhost:4222?stream=ORDERS'

a broker of your own:
  --url takes what EventBus.from_url takes. The demo creates a topic (Kafka) or
  a stream (NATS) of its own and deletes it afterwards. With ?stream=X it
  publishes to a subject of its own in X and purges that afterwards: X must
  take a subject with a wildcard, and whoever consumes X sees these events.
  Your broker is never broken: --break is for the embedded ones.

--break:
  The broker is frozen for 3 s in the middle of the run; NATS is killed later
  on, too, and restarted after 1 s. Kafka is not, since the embedded one stores
  in memory. Every event must still be settled, and the books must balance.

--outbox:
  Threads change orders in an SQLite database and add an event to the outbox in
  the same transaction; every tenth is rolled back. A relay publishes the rows.
  In the middle the broker goes away for 3 s, and the transactions go on (yours,
  behind --url, stays). In the end every committed event must be stored, no
  rolled-back one, and the events of each order in their order. NATS unless
  --backend says otherwise.

figures:
  events/s counts from the first publish to the last result. The publish call
  is publish_envelope(). The result latency runs from acceptance to outcome; it
  is long here, because events are published as fast as they can be.

exit codes:
  0    the books balance
  1    they do not
  2    wrong arguments, or no broker
  130  interrupted by Ctrl-C; the books are shown all the same
  143  ended by SIGTERM (128 and its number, 15); the brokers are stopped
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command and return its exit code.

    Args:
        argv: arguments without the program's name; default ``sys.argv[1:]``.

    Raises:
        SystemExit: from argparse, for ``--help``, ``--version`` and wrong arguments;
            and after SIGTERM.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    run = getattr(arguments, "run", None)
    if run is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        with _terminated_in_order():
            code: int = run(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EventBusError as error:
        sys.stderr.write(f"{parser.prog} {arguments.command}: {error}\n")
        return USAGE
    return code


def _parser() -> argparse.ArgumentParser:
    prog = Path(sys.argv[0]).name
    if not prog.startswith("eventbus-sync"):
        prog = "python -m eventbus_sync"
    parser: argparse.ArgumentParser = Parser(
        prog=prog,
        description=_DESCRIPTION,
        epilog=_EPILOG.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"eventbus-sync {eventbus_sync.__version__}",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="command"
    )
    _add_demo(commands, prog)
    add_relay(commands, prog)
    add_outbox(commands, prog)
    add_soak(commands, prog)
    add_faults(commands, prog)
    return parser


# -- demo ------------------------------------------------------------------------------

#: --backend → embedded brokers, in the order of their runs.
_BACKENDS = {
    "both": ("nats", "kafka"),
    "nats": ("nats",),
    "kafka": ("kafka",),
    "memory": ("memory",),
}
#: How many events, unless told; each is a transaction with --outbox.
_EVENTS, _ROWS = 20_000, 5000


def _add_demo(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prog: str
) -> None:
    parser = commands.add_parser(
        "demo",
        help="see for yourself that the books balance, also when a broker breaks",
        description=_DEMO_DESCRIPTION,
        epilog=_DEMO_EPILOG.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend",
        choices=tuple(_BACKENDS),
        help="which embedded broker; default: both, or nats with --outbox",
    )
    parser.add_argument("--url", help="publish to a broker of yours instead")
    parser.add_argument(
        "--events",
        type=_whole_number,
        metavar="N",
        help=f"how many events for each broker; default: {_EVENTS}, or "
        f"{_ROWS} with --outbox",
    )
    parser.add_argument(
        "--threads",
        type=_whole_number,
        default=4,
        metavar="N",
        help="how many threads publish; default: 4",
    )
    parser.add_argument(
        "--break",
        dest="broken",
        action="store_true",
        help="freeze the broker in the middle, and kill and restart NATS",
    )
    parser.add_argument(
        "--outbox",
        action="store_true",
        help="write rows in transactions, and have a relay publish them",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the figures as JSON, times in seconds",
    )
    parser.set_defaults(run=lambda arguments: _demo(parser, arguments))


def _demo(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.url is not None and arguments.backend is not None:
        parser.error("--backend chooses an embedded broker; with --url leave it out")
    if arguments.url is not None and arguments.broken:
        parser.error(
            "--break breaks embedded brokers only, not yours; leave out --url or --break"
        )
    from eventbus_sync.demo.plan import Plan  # noqa: PLC0415 - see above
    from eventbus_sync.demo.run import run  # noqa: PLC0415
    from eventbus_sync.testing.broker_errors import BrokerNotInstalled  # noqa: PLC0415

    url, outbox = arguments.url, arguments.outbox
    backend = arguments.backend or ("nats" if outbox else "both")
    plan = Plan(
        backends=_BACKENDS[backend] if url is None else ("",),
        url=url,
        events=arguments.events or (_ROWS if outbox else _EVENTS),
        threads=arguments.threads,
        broken=arguments.broken,
        outbox=outbox,
    )
    try:
        return run(plan, sys.stdout, sys.stderr, as_data=arguments.json)
    except BrokerNotInstalled as error:
        advice = (
            f"{parser.prog}: {error}\n"
            "The demo's brokers come with: pip install 'eventbus-sync[demo]'\n"
            "Without them try --backend memory, or --url for a broker of yours.\n"
        )
        sys.stderr.write(advice)
        return USAGE


# -- what all commands share -----------------------------------------------------------


def _whole_number(text: str) -> int:
    try:
        number = int(text.replace(",", ""))
    except ValueError:
        number = 0
    if number < 1:
        msg = f"{text!r} is not a whole number from 1 up"
        raise argparse.ArgumentTypeError(msg)
    return number


@contextlib.contextmanager
def _terminated_in_order() -> Iterator[None]:
    """Make SIGTERM end the command like an exception, so that everything is stopped."""

    def end(number: int, frame: object) -> NoReturn:
        del number, frame
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
