"""
The README: every python block is run, every table is held against the code.

A section with python blocks needs an entry in ``SECTIONS``: what runs them, and looks
whether what the README says came true.
"""

import ast
import importlib.util
import inspect
import json
import re
import shlex
import signal
import subprocess
import tomllib

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from support import readme
from support.eventually import eventually
from support.processes import run_script
from support.readme import ROOT, Workshop
from support.readme_outbox import COMMANDS
from support.readme_outbox import SECTIONS as OUTBOX
from support.readme_outcomes import marked
from support.readme_servers import (
    LOG_CONFIG,
    answers,
    flask_running,
    post_many,
    running,
)

import eventbus_sync

from eventbus_sync import (
    Envelope,
    EventBus,
    EventBusError,
    KafkaConfig,
    MemoryConfig,
    NatsConfig,
    Outcome,
    errors,
)
from eventbus_sync.cli import main
from eventbus_sync.config import BusConfig
from eventbus_sync.envelope.headers import FIELD_OF
from eventbus_sync.testing import KafkaServer, MemoryBroker, NatsServer
from eventbus_sync.testing._ports import free_port
from eventbus_sync.testing.conformance import BackendConformance
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import (
    StoredEvent,
    read_kafka_topic,
    read_nats_stream,
)


LANGUAGES = {"python", "console", "text", "sh"}


@attrs.frozen
class Stand:
    """Where one section is run: the README's files, and an empty broker of each kind."""

    workshop: Workshop
    nats: NatsServer
    kafka: KafkaServer

    def orders(self) -> list[str]:
        """Return the ids of what is stored in the README's stream, in order."""
        return [e.event_id for e in read_nats_stream(self.nats.url, "ORDERS")]

    def topic(self, name: str) -> list[StoredEvent]:
        """Return what is stored in a Kafka topic."""
        return read_kafka_topic(self.kafka.bootstrap_servers, name)


@pytest.fixture
def stand(
    tmp_path: Path, fresh_nats_server: NatsServer, fresh_kafka_server: KafkaServer
) -> Stand:
    """The README's files with the addresses of brokers that this test has alone."""
    addresses = {
        "localhost:4222": f"127.0.0.1:{fresh_nats_server.port}",
        "localhost:9092": fresh_kafka_server.bootstrap_servers,
        # Of the brokers that it starts itself.
        "port=4222": f"port={free_port()}",
        "port=9092": f"port={free_port()}",
    }
    workshop = Workshop(tmp_path, addresses)
    return Stand(workshop, fresh_nats_server, fresh_kafka_server)


# -- what runs each section --------------------------------------------------------------


def flask_view(stand: Stand) -> None:
    """The commands, and Flask's test client, order; the broker has every event."""
    with flask_running(stand.workshop, "Publish from a Flask view") as (_, answer):
        first = answer["event_id"]
        eventually(lambda: stand.orders() == [first], timeout=20)
    printed = stand.workshop.run(
        "-c",
        "import json, orders_flask\n"
        "client = orders_flask.app.test_client()\n"
        "assert client.post('/orders', json={'id': 'not legal'}).status_code == 400\n"
        "answers = [client.post('/orders', json={'id': n}) for n in range(20)]\n"
        "assert [a.status_code for a in answers] == [202] * 20\n"
        "print(json.dumps([a.json['event_id'] for a in answers]))\n",
    )
    assert stand.orders() == [first, *json.loads(printed)]


def django_view(stand: Stand) -> None:
    """Django's test client orders; the broker has every event that was answered for."""
    printed = stand.workshop.run(
        "-c",
        "import json, django\n"
        "from django.conf import settings\n"
        "settings.configure(\n"
        "    ROOT_URLCONF='orders_django', ALLOWED_HOSTS=['testserver'], USE_TZ=True\n"
        ")\n"
        "django.setup()\n"
        "from django.test import Client\n"
        "def order(number):\n"
        "    body = {'id': number}\n"
        "    return Client().post('/orders', body, content_type='application/json')\n"
        "assert order('not legal').status_code == 400\n"
        "answers = [order(number) for number in range(20)]\n"
        "assert [a.status_code for a in answers] == [202] * 20\n"
        "print(json.dumps([a.json()['event_id'] for a in answers]))\n",
    )
    stored = [event.event_id for event in stand.topic("orders")]
    assert sorted(stored) == sorted(json.loads(printed))


def reader_thread(stand: Stand) -> None:
    """The reader gets each result, says what it means, and ends with the bus."""
    printed = stand.workshop.run(
        "-c",
        "import logging, sys\n"
        "logging.basicConfig(\n"
        "    stream=sys.stdout, level=logging.INFO, format='%(message)s'\n"
        ")\n"
        "from eventbus_sync import Envelope\n"
        "from eventbus_sync.errors import BrokerFull, IllegalTopic\n"
        "from eventbus_sync.testing import MemoryBus\n"
        "from results import start_reader\n"
        "with MemoryBus() as bus:\n"
        "    reader = start_reader(bus)\n"
        "    bus.broker.reject(BrokerFull('no space'), topic='full')\n"
        "    bus.broker.reject(IllegalTopic('no name'), topic='illegal')\n"
        "    for topic in ('orders', 'full', 'illegal'):\n"
        "        event = Envelope('o-1', 'Made', 1, {}, event_id=topic)\n"
        "        bus.publish_envelope(topic, event)\n"
        "reader.join(10)\n"
        "assert not reader.is_alive()\n"
        "assert bus.stats().taken == 3\n",
    )
    assert sorted(printed.splitlines()) == [
        "dead: illegal: no name",
        "publish again: full: no space",
        "stored: orders",
    ]


def started_brokers(stand: Stand) -> None:
    """Both take an event at the addresses that are printed, until Enter or Ctrl-C."""
    _started_brokers(stand, lambda process: process.communicate("\n"))
    _started_brokers(stand, lambda process: process.communicate())  # closed stdin
    _started_brokers(stand, lambda process: process.send_signal(signal.SIGINT))


def _started_brokers(
    stand: Stand, end: Callable[["subprocess.Popen[str]"], object]
) -> None:
    workshop = stand.workshop
    with subprocess.Popen(
        workshop.python("brokers.py"),
        cwd=workshop.folder,
        env=workshop.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            nats, kafka = process.stdout.readline().strip().split(" and ")
            for url in (f"{nats}?stream=ORDERS", kafka):
                with EventBus.from_url(url) as bus:
                    event = Envelope("order-1", "Made", 1, {})
                    assert bus.publish_envelope_sync("orders", event).success
            assert process.stdout.read(15) == "Enter or Ctrl-C"
            end(process)
            process.wait(30)
        finally:
            process.kill()
    assert process.returncode == 0  # no traceback


def started_readers(stand: Stand) -> None:
    """The reader of the process that serves has every result, in Flask and in Django."""
    workshop = stand.workshop
    with flask_running(workshop, "Start the reader") as (process, curled):
        port = re.findall(r"http://127\.0\.0\.1:(\d+)", process.log)[0]
        accepted = {curled["event_id"]}
        accepted |= post_many(f"http://127.0.0.1:{port}/orders", range(1, 11))
        said = "INFO:orders.results:stored: "  # as the README has it
        eventually(lambda: set(process.lines(said)) == accepted, timeout=20)

    printed = workshop.run(
        "-c",
        "import logging, sys, threading\n"
        "logging.basicConfig(\n"
        "    stream=sys.stdout, level=logging.INFO, format='%(message)s'\n"
        ")\n"
        "import django\n"
        "from django.conf import settings\n"
        "settings.configure(\n"
        "    ROOT_URLCONF='orders_django', ALLOWED_HOSTS=['testserver'], USE_TZ=True,\n"
        "    INSTALLED_APPS=['orders_apps.OrdersConfig'],\n"
        ")\n"
        "django.setup()\n"
        "from django.test import Client\n"
        "from orders_django import bus\n"
        "def readers():\n"
        "    return [t for t in threading.enumerate() if t.name == 'results']\n"
        "assert readers() == []\n"
        "for n in range(3):\n"
        "    order = {'id': n}\n"
        "    Client().post('/orders', order, content_type='application/json')\n"
        "[reader] = readers()\n"
        "bus.close()\n"
        "reader.join(10)\n",
    )
    assert printed.count("stored: order-") == 3


def script(section: str) -> Callable[[Stand], str]:
    """Run the section's script; what must hold is asserted in it."""

    def run(stand: Stand) -> str:
        return stand.workshop.run("-c", stand.workshop.script(section))

    return run


def published_again(stand: Stand) -> None:
    """The repeat is stored once."""
    script("Publish an event again")(stand)
    assert len(stand.orders()) == 1


def waited_for(stand: Stand) -> None:
    """Event and notification are stored."""
    script("Wait for one result")(stand)
    assert [event.aggregate_id for event in stand.topic("orders")] == ["order-8"]
    [note] = stand.topic("cache-invalidation")
    assert note.value == b"order-8"


def scripts(stand: Stand) -> None:
    """``with`` leaves nothing in flight, and so does a SIGTERM made an exception."""
    script("Scripts")(stand)
    assert len(stand.topic("imports")) == 1000

    workshop = stand.workshop
    command = workshop.python(
        "-c",
        "import runpy, sys\n"
        "from eventbus_sync import EventBus\n"
        "def close(bus, real=EventBus.close):\n"
        "    real(bus)\n"
        "    print('acked', bus.stats().acked, 'of', bus.stats().accepted)\n"
        "EventBus.close = close\n"
        "runpy.run_path('forever.py')\n",
    )
    with running(command, workshop.folder, workshop.environment()) as process:
        eventually(lambda: len(stand.orders()) > 5, timeout=20)
        process.terminate()
        assert process.ended() == 143
    count = len(stand.orders())
    assert process.log == f"acked {count} of {count}\n"


def gunicorn(stand: Stand) -> None:
    """Both commands: what was accepted when SIGTERM came is stored, and was read."""
    accepted: set[str] = set()
    for command in readme.commands("gunicorn"):
        program, *arguments = shlex.split(command)
        assert program == "gunicorn"
        accepted |= served(stand, arguments, read=True)
    assert sorted(stand.orders()) == sorted(accepted)


def served(stand: Stand, arguments: Sequence[str], *, read: bool) -> set[str]:
    """
    Run gunicorn, order, freeze the broker, order more, end gunicorn, thaw the broker.

    Args:
        stand: where.
        arguments: gunicorn's.
        read: whether the README's hooks are there: a reader, which must have seen every
            event stored, and a close. Otherwise the bus's own exit hook must have run.

    Returns:
        The ids of the events that were accepted.
    """
    workshop = stand.workshop
    port = free_port()
    url = f"http://127.0.0.1:{port}/orders"
    settings = f"--bind 127.0.0.1:{port}"
    if not read:  # the README's hooks see to it themselves
        log_config = workshop.folder / "log.ini"
        log_config.write_text(LOG_CONFIG)
        settings += f" --log-config {log_config}"
    environment = workshop.environment(GUNICORN_CMD_ARGS=settings)
    command = workshop.python("-m", "gunicorn", *arguments)
    with running(command, workshop.folder, environment) as process:
        accepted = answers(url)
        accepted |= post_many(url, range(1, 41))
        stand.nats.freeze()
        accepted |= post_many(url, range(41, 61))
        process.terminate()
        # Every request is answered, and the last twenty events are not acknowledged.
        eventually(lambda: len(process.lines("Worker exiting")) == 2, timeout=20)
        stand.nats.resume()
        assert process.ended() == 0
    assert len(accepted) == 61
    assert "unanswered" not in process.log
    assert "Traceback" not in process.log
    if read:
        assert sorted(process.lines("stored: ")) == sorted(accepted)
    assert ("flushing at exit" in process.log) is not read
    return accepted


def celery(stand: Stand) -> None:
    """A prefork child that ends has closed its bus, and all that it sent is stored."""
    if importlib.util.find_spec("celery") is None:
        skip_or_fail("Celery is not installed: pip install celery")
    workshop = stand.workshop
    command = workshop.python(
        "-W",
        "default",  # Celery has warnings of its own
        "-c",
        "import tasks\n"
        "from celery.signals import worker_process_shutdown\n"
        "@worker_process_shutdown.connect\n"  # called after the README's
        "def say(**_):\n"
        "    state, stats = tasks.bus.health().state, tasks.bus.stats()\n"
        "    print(f'{state} with {stats.acked} acked')\n"
        "for number in range(20):\n"
        "    tasks.ship.delay(number)\n"
        "tasks.app.worker_main(['worker', '-P', 'prefork', '-c2', '-l', 'INFO'])\n",
    )
    environment = workshop.environment(CELERY_BROKER_URL="memory://")
    with running(command, workshop.folder, environment) as process:
        eventually(lambda: process.log.count(" succeeded in ") == 20, timeout=30)
        eventually(lambda: len(process.lines("stored: ")) == 20, timeout=20)
        process.terminate()
        process.ended(60)
    acked = [int(rest.split()[0]) for rest in process.lines("closed with ")]
    assert (len(acked), sum(acked)) == (2, 20), process.log
    assert len(set(stand.orders())) == len(stand.orders()) == 20


def own_tests(stand: Stand) -> None:
    """The tests that users are shown pass, on memory and on a real server."""
    workshop = stand.workshop
    files = ["test_orders.py", "test_outage.py"]
    printed = workshop.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert re.search(r"^3 passed", printed, re.MULTILINE), printed


def broken_network(stand: Stand) -> None:
    """The fixtures that break things are found by the conftest that is shown."""
    workshop = stand.workshop
    file = "test_network.py"
    printed = workshop.run("-m", "pytest", "-q", "-p", "no:cacheprovider", file)
    assert re.search(r"^1 passed", printed, re.MULTILINE), printed


def own_broker(stand: Stand) -> None:
    """The whole suite runs on the broker of the example."""
    workshop = stand.workshop
    file = "test_our_broker.py"
    printed = workshop.run("-m", "pytest", "-q", "-p", "no:cacheprovider", file)
    tests = [name for name in dir(BackendConformance) if name.startswith("test_")]
    assert re.search(rf"^{len(tests)} passed", printed, re.MULTILINE), printed


def watched(stand: Stand) -> None:
    """Callbacks, stats and health show what happened."""
    printed = script("Watching")(stand)
    assert set(re.sub(r":\d+:\d+:.*", "", printed).splitlines()) >= {
        "INFO:orders:acked order-9:OrderCreated",
        "INFO:orders:1 accepted, 1 acked",
        "INFO:orders:0 rejected, 0 unknown",
        "INFO:orders:0 in flight, since 0.0 s",
        "INFO:orders:1 unread, 0 dropped",
        "INFO:orders:running, connected: True",
        "INFO:orders:0 reconnects, last error: None",
    }


SECTIONS: dict[str, Callable[[Stand], object]] = {
    "Brokers to try it with": started_brokers,
    "Publish from a Flask view": flask_view,
    "Publish from a Django view": django_view,
    "Read the results": reader_thread,
    "Start the reader": started_readers,
    "Publish an event again": published_again,
    "Wait for one result": waited_for,
    "Configuration": script("Configuration"),
    "Scripts": scripts,
    "gunicorn": gunicorn,
    "Celery": celery,
    "Watching": watched,
    "Testing your code": own_tests,
    "Break things": broken_network,
    "Check your broker": own_broker,
    "What each outcome means": marked,
    **OUTBOX,
}


#: A prefork worker takes its time to start and to end.
SLOW = {"Celery"}


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.parametrize(
    "section",
    [
        pytest.param(section, marks=pytest.mark.slow if section in SLOW else ())
        for section in sorted(
            {block.section for block in readme.blocks() if block.language == "python"}
        )
    ],
)
def test_every_python_block_is_run(section: str, stand: Stand) -> None:
    """What the README shows works as it stands there."""
    run = SECTIONS.get(section)
    assert run is not None, f"nothing runs the python blocks of section {section!r}"
    run(stand)
    assert stand.workshop.not_run(section) == []


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.parametrize("section", sorted(COMMANDS))
def test_commands_without_python_blocks(section: str, stand: Stand) -> None:
    """They do what the README says."""
    COMMANDS[section](stand)


def test_every_block_is_of_a_kind_that_is_looked_at() -> None:
    """No block escapes by another name for Python, or by having none."""
    kinds = {block.language for block in readme.blocks()}
    assert kinds == LANGUAGES
    assert set(SECTIONS) <= {block.section for block in readme.blocks()}


@pytest.mark.nats
@pytest.mark.parametrize(
    "arguments", ["--threads 8", "--threads 8 --preload", "--worker-class sync"]
)
def test_gunicorn_needs_no_hooks(stand: Stand, arguments: str) -> None:
    """Without any configuration what was accepted is flushed when a worker ends."""
    # gunicorn would find it by itself.
    (stand.workshop.folder / "gunicorn.conf.py").unlink()
    given = ["--workers", "2", *arguments.split(), "orders_flask:app"]
    accepted = served(stand, given, read=False)
    assert sorted(stand.orders()) == sorted(accepted)


def test_gunicorn_says_why_an_application_cannot_be_imported(stand: Stand) -> None:
    """Once, and the README's hooks do not bury it under errors of their own."""
    workshop = stand.workshop
    (workshop.folder / "orders_flask.py").write_text("raise RuntimeError('no way')\n")
    environment = workshop.environment(
        GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:{free_port()} --workers 1"
    )
    command = workshop.python("-m", "gunicorn", "orders_flask:app")
    with running(command, workshop.folder, environment) as process:
        assert process.ended() == 3
    assert process.log.count("Traceback") == 1
    assert "RuntimeError: no way" in process.log


# -- commands and names ------------------------------------------------------------------


def test_the_two_commands() -> None:
    """They are one line each, begin with a dollar, and the second is what CI runs."""
    demo, test = readme.commands("Try it")
    assert demo == (
        "python3 -m venv .venv && .venv/bin/pip install -q '.[demo]' && "
        ".venv/bin/python -m eventbus_sync demo"
    )
    assert test == (
        "python3 -m venv .venv-test && .venv-test/bin/pip install -q -e '.[test]' && "
        ".venv-test/bin/python -m pytest -n 2 --dist loadfile"
    )
    lines = readme.README.read_text().splitlines()
    assert next(x for x in lines if re.match(r"^\$ .*pytest", x)) == f"$ {test}"


def test_the_options_of_the_demo_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """What the README says of the demo is in its help."""
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    shown = capsys.readouterr().out
    options = set(re.findall(r"demo[ `]+(--[a-z]+)", readme.README.read_text()))
    assert options >= {"--break", "--help"}
    assert all(option in shown for option in options - {"--help"})


def test_the_example_output_is_what_the_demo_prints() -> None:
    """The same lines in the same order, whatever the figures are."""
    [example] = readme.of_section("Try it", "text")
    done = run_script(
        """
        import sys
        from eventbus_sync.cli import main
        sys.exit(main(["demo", "--backend", "memory", "--events", "500"]))
        """
    )
    assert done.returncode == 0, done.stderr
    shown, printed = _labels(example.text), _labels(done.stdout)
    assert shown == [*printed[:-1], *printed]


def _labels(text: str) -> list[str]:
    """Return the label of each row, and what the last line says of the books."""
    rows = re.findall(r"^  ([a-z][a-z0-9 /]*?)  ", text, re.MULTILINE)
    return [
        *rows,
        *re.findall(r"^the books balance on [^:]*(:.*)$", text, re.MULTILINE),
    ]


def test_links_and_files_exist() -> None:
    """Links lead somewhere: to a heading of the README, or to a file."""
    text = readme.README.read_text()
    headings = {
        re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (ROOT / target).is_file(), target
    for path in re.findall(r"`((?:tests|\.ci)/[^`]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_promise_names_its_tests() -> None:
    """Ten promises, each with tests in the table that exist and are called after it."""
    text = readme.README.read_text()
    section = text.partition("\n## Guarantees\n")[2].partition("\n### ")[0]
    numbers = [str(number) for number in range(1, 11)]
    assert re.findall(r"^(\d+)\. ", section, re.MULTILINE) == numbers
    rows = readme.table("promise", "Guarantees")
    assert [number for number, _ in rows] == numbers
    defined = {
        name
        for folder in (ROOT / "tests", ROOT / "eventbus_sync" / "testing")
        for file in folder.rglob("*.py")
        for name in re.findall(r"def (test_promises?_\w+)\(", file.read_text())
    }
    for number, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, f"promise {number} names no test"
        assert set(named) <= defined, set(named) - defined
        for name in named:
            assert number in re.findall(r"\d+", name.split("promise")[1]), name
    assert set(re.findall(r"`(test_promises?_\w+)`", text)) <= defined


def test_the_way_of_an_event_exists() -> None:
    """Every function of "Follow one event" is where the README says."""
    for _, file, function in readme.table("step", "Follow one event"):
        tree = ast.parse((ROOT / "eventbus_sync" / file.strip("`")).read_text())
        found: ast.AST | None = tree
        for name in function.strip("`").split("."):
            found = _member(found, name)
        assert found is not None, f"{file} has no {function}"


def _member(tree: ast.AST | None, name: str) -> ast.AST | None:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in getattr(tree, "body", ()):
        if isinstance(node, kinds) and node.name == name:
            return node
    return None


# -- tables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind"),
    [(0, BusConfig), (1, KafkaConfig), (2, NatsConfig), (3, MemoryConfig)],
    ids=["bus", "kafka", "nats", "memory"],
)
def test_every_setting_is_in_its_table(number: int, kind: type[BusConfig]) -> None:
    """Names in their order, defaults that are the defaults, seconds where it is time."""
    inherited = () if kind is BusConfig else attrs.fields(BusConfig)
    known = {field.name for field in inherited}
    fields = [field for field in attrs.fields(kind) if field.name not in known]
    rows = readme.table("setting", "Configuration", number)
    assert [row[0].strip("`") for row in rows] == [field.name for field in fields]

    required: dict[str, Any] = {}
    if kind is KafkaConfig:
        required = {"bootstrap_servers": "k:1"}
    usual = kind(**required)
    for field, (_, default, unit, meaning) in zip(fields, rows, strict=True):
        assert (unit == "s") == (field.type is float), field.name
        assert meaning, field.name
        if field.name in required:
            assert default == "required"
            continue
        # Some defaults follow from other settings; to give them changes nothing.
        given = kind(**required, **{field.name: ast.literal_eval(default.strip("`"))})
        assert given == usual, field.name


def test_every_error_is_in_a_table() -> None:
    """All classes, each once, with the code and the attributes that it has."""
    shown = {
        row[0].strip("`"): row[1:4]
        for number in range(3)
        for row in readme.table("class", "Errors", number)
    }
    classes = {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, EventBusError)
    }
    assert list(shown) == sorted(shown, key=list(shown).index)
    assert set(shown) == set(classes)
    for name, kind in classes.items():
        error = kind()
        expected = [f"`{error.code}`", str(error.retriable), str(error.maybe_delivered)]
        assert shown[name] == expected, name


def test_errors_are_in_the_table_where_they_belong() -> None:
    """PublishError and below are carried by results; the bus raises the others."""
    carried = [row[0].strip("`") for row in readme.table("class", "Errors", 2)]
    for number in range(3):
        for row in readme.table("class", "Errors", number):
            kind = getattr(errors, row[0].strip("`"))
            assert issubclass(kind, errors.PublishError) == (number == 2)
    assert carried[0] == "PublishError"


def test_the_outcomes() -> None:
    """Three outcomes, and what is raised instead; each with what becomes of the row."""
    rows = readme.table("outcome", "Outcomes")
    assert {row[0].strip("`") for row in rows if "raised" not in row[0]} == set(Outcome)
    assert all(row[3] for row in rows)
    for outcome, _, retriable, _ in rows:
        if "raised" in outcome:
            kind = getattr(eventbus_sync, outcome.split("`")[1])
            assert retriable == f"`{kind().retriable}`"


def test_the_commands_of_the_memory_broker() -> None:
    """They exist, and take what the table says."""
    for command, _ in readme.table("command", "Testing your code"):
        name, _, arguments = command.strip("`").removesuffix(")").partition("(")
        method = getattr(MemoryBroker, name.rpartition(".")[2])
        own = list(inspect.signature(method).parameters.values())[1:]
        shown = [
            p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in own
        ]
        assert arguments == ", ".join(shown), name


def test_symptoms_name_what_exists() -> None:
    """Errors and codes that the troubleshooting names are ours; each row has a remedy."""
    classes = {n: k for n, k in vars(errors).items() if inspect.isclass(k)}
    codes = {k().code for k in classes.values() if issubclass(k, EventBusError)}
    fields = {f.name for k in (KafkaConfig, NatsConfig) for f in attrs.fields(k)}
    known = {*classes, *codes, *fields, "DeprecationWarning", "get"}
    for symptom, cause, remedy in readme.table("symptom", "Troubleshooting"):
        assert cause, symptom
        assert remedy, symptom
        for name in re.findall(r"`([A-Za-z_]+)[`(]", symptom):
            assert name in known, name


def test_the_extras() -> None:
    """Each of the package's extras is there, in its order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shown = [row[0].strip("`") for row in readme.table("extra", "Install")]
    assert shown == list(project["optional-dependencies"])


def test_the_wire() -> None:
    """Fields and headers in their order; the example is read and written unchanged."""
    full = Envelope("a", "b", 1, {}, trace_id="t", correlation_id="c", tenant_id=1)
    fields = readme.table("field", "On the wire")
    written = json.loads(full.to_bytes())
    assert [row[0].strip("`") for row in fields] == list(written)
    for (name, kind, _), value in zip(fields, written.values(), strict=True):
        assert (
            kind.split()[0] == {str: "string", int: "number", dict: "any"}[type(value)]
        ), name
    few = set(json.loads(Envelope("a", "b", 1, {}).to_bytes()))
    assert {r[0].strip("`") for r in fields if "left out" not in r[2]} == few

    *ours, (message_id, *_) = readme.table("header", "On the wire")
    assert message_id == "`Nats-Msg-Id`"
    assert [(h.strip("`"), v.strip("`")) for h, v, _ in ours] == list(FIELD_OF.items())
    assert {v.strip("`") for _, v, when in ours if when == "always"} < few

    [example] = readme.of_section("On the wire", "text")
    data = example.text.strip().encode()
    assert Envelope.from_bytes(data).to_bytes() == data


# -- addresses ---------------------------------------------------------------------------


def test_every_url_is_understood() -> None:
    """Each URL of the README makes a bus."""
    [block] = readme.of_section("URLs", "text")
    urls = block.text.split()
    assert {url.partition("://")[0] for url in urls} == {
        "kafka",
        "kafka+tls",
        "nats",
        "nats+tls",
        "tls",
        "memory",
    }
    for url in urls:
        assert isinstance(EventBus.from_url(url), EventBus)


def test_the_environment_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the README make a bus with these settings."""
    [block] = readme.of_section("Environment", "sh")
    for line in block.text.splitlines():
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    config = EventBus.from_env()._config
    assert isinstance(config, NatsConfig)
    assert (config.user, config.password, config.tls) == ("orders", "pa/ss", True)
    assert config.delivery_timeout == 20
