"""``soak``: its arguments, and what they teach."""

import argparse
import random
import sys

from pathlib import Path


#: Exit code for wrong arguments, or no broker.
_USAGE = 2

_DESCRIPTION = """\
Publish for minutes or hours while everything breaks, and prove at the end that
nothing was lost: read the broker back and check the books.

  acked <= stored <= acked + unknown, nothing is stored twice, every event has
  one outcome in time, and the events of one aggregate are stored in the order
  in which each thread published them.

The broker is an embedded one, behind a network that breaks too. What breaks
when is drawn from the seed: the same seed, the same schedule.
"""

_EPILOG = """\
examples:
  {prog} soak --backend nats --minutes 2 --seed 7
  {prog} soak --backend kafka --minutes 60 --json soak.json
  {prog} soak --kafka-home ~/kafka_2.13-4.2.0 --minutes 10
  {prog} soak --backend nats --minutes 60 --seed 7 --plan
  {prog} soak --url 'nats://localhost:4222?stream=ORDERS'

what breaks:
  NATS   the server is killed, frozen, restarted; the network is cut, goes deaf,
         gets slow; the reader of results is slow, or pauses
  Kafka  the same without kill and restart, since the embedded broker stores in
         memory and would lose what it has acknowledged; with --kafka-home,
         all of it

  Some faults outlast delivery_timeout (10 s here): their events are unknown,
  which is an answer. --plan prints the schedule and runs nothing.

Apache Kafka:
  --kafka-home is the folder of an unpacked download, or one with its jars. It
  needs Java 17. The soak starts one node of its own, with data of its own in a
  temporary folder, and changes nothing in that folder.

a broker of your own:
  --url takes what EventBus.from_url takes; the soak publishes to a topic or a
  stream of its own, which is deleted afterwards. Only the reader is disturbed:
  break the broker yourself, and look at the verdict.

exit codes:
  0    the books balance
  1    they do not: please report it, with the seed and the JSON
  2    wrong arguments, or no broker
  130  interrupted by Ctrl-C; the books are shown all the same
"""


def add_soak(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prog: str
) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "soak",
        help="publish for minutes or hours while everything breaks, and check the books",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--backend", choices=("nats", "kafka"), help="default: nats")
    parser.add_argument(
        "--kafka-home",
        type=Path,
        metavar="DIR",
        help="start Apache Kafka from there instead of the embedded Kafka broker",
    )
    parser.add_argument("--url", help="publish to a broker of yours instead")
    parser.add_argument(
        "--minutes",
        type=_minutes,
        default=1.0,
        metavar="N",
        help="how long to publish; default: 1, may have a fraction",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="a whole number; default: some other one each time, shown at the end",
    )
    parser.add_argument(
        "--threads",
        type=_from_one,
        default=4,
        metavar="N",
        help="how many threads publish, besides one that waits; default: 4",
    )
    parser.add_argument(
        "--rate",
        type=_from_zero,
        default=500,
        metavar="N",
        help="events for each second, in bursts; 0 for no limit; default: 500",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything there as JSON, too"
    )
    parser.add_argument(
        "--plan", action="store_true", help="print what would break when, and stop"
    )
    parser.set_defaults(run=lambda arguments: _soak(parser, arguments))


def _soak(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    from eventbus_sync.soak.plan import Plan  # noqa: PLC0415 - --help needs nothing
    from eventbus_sync.soak.run import run, show_plan  # noqa: PLC0415
    from eventbus_sync.testing.broker_errors import BrokerNotInstalled  # noqa: PLC0415

    home: Path | None = arguments.kafka_home
    if home is not None and (arguments.url is not None or arguments.backend == "nats"):
        parser.error("--kafka-home is a Kafka broker: leave --url and nats out")
    backend = arguments.backend or ("nats" if home is None else "kafka")
    if arguments.url is not None:
        if arguments.backend is not None:
            parser.error(
                "--backend chooses an embedded broker; with --url leave it out"
            )
        backend = "kafka" if arguments.url.startswith("kafka") else "nats"
    seed = arguments.seed
    plan = Plan(
        backend=backend,
        minutes=arguments.minutes,
        seed=random.randrange(1_000_000) if seed is None else seed,  # noqa: S311
        url=arguments.url,
        kafka_home=None if home is None else home.expanduser(),
        threads=arguments.threads,
        rate=arguments.rate,
    )
    if arguments.plan:
        return show_plan(plan, sys.stdout)
    try:
        return run(plan, sys.stdout, sys.stderr, file=arguments.json)
    except BrokerNotInstalled as error:
        advice = (
            "its brokers come with: pip install 'eventbus-sync[demo]', or use --url"
            if home is None
            else "https://kafka.apache.org/community/downloads has it"
        )
        sys.stderr.write(f"{parser.prog}: {error}\n{advice}\n")
        return _USAGE


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        message = f"{text!r} is not a number above 0"
        raise argparse.ArgumentTypeError(message)
    return minutes


def _from_one(text: str) -> int:
    return _whole_number(text, 1)


def _from_zero(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    try:
        number = int(text.replace(",", ""))
    except ValueError:
        number = -1
    if number < least:
        message = f"{text!r} is not a whole number from {least} up"
        raise argparse.ArgumentTypeError(message)
    return number
