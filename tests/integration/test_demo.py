"""The demo as a user runs it: real processes, real brokers, real faults, Ctrl-C."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import nats
import pytest

from support.eventually import eventually
from support.patience import SLACK
from support.processes import unmeasured
from support.rigs import unique

from eventbus_sync import KafkaConfig, NatsConfig
from eventbus_sync.demo import destinations
from eventbus_sync.demo.destinations import create_topic, subject_in
from eventbus_sync.demo.embedded import check_installed
from eventbus_sync.demo.own import own
from eventbus_sync.errors import StartFailed
from eventbus_sync.testing import BrokerNotInstalled, KafkaServer, NatsServer
from eventbus_sync.testing.pytest_plugin import skip_or_fail


COMMAND = [sys.executable, "-m", "eventbus_sync", "demo"]
TIMEOUT = 120

NATS = pytest.param("nats", marks=pytest.mark.nats)
KAFKA = pytest.param("kafka", marks=pytest.mark.kafka)
SLOW_KAFKA = pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the demo's brokers keep their files; nothing of it may be left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    yield temporary
    assert list(temporary.iterdir()) == []
    # A broker's working directory is in here, so this finds every one of them.
    eventually(lambda: not processes_in(temporary), timeout=5)


def processes_in(folder: Path) -> list[str]:
    """Return the processes that work in *folder*; Linux only, elsewhere none."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            where = link.readlink()
        except OSError:
            continue
        if where.is_relative_to(folder):
            found.append(str(link))
    return found


@pytest.fixture
def installed(request: pytest.FixtureRequest) -> None:
    """Skip, or in CI fail, where a broker of this test is not installed."""
    backend = request.node.callspec.params.get("backend", "both")
    try:
        for name in ("nats", "kafka") if backend == "both" else (backend,):
            check_installed(name)
    except BrokerNotInstalled as error:
        skip_or_fail(str(error))


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which the demo writes into *folder* only."""
    return {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


@contextmanager
def running_demo(
    folder: Path, *arguments: str, measured: bool = True
) -> Iterator["subprocess.Popen[str]"]:
    """Start the demo; it must have ended when the block does."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(folder) if measured else unmeasured(environment(folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Leaving ``with process`` closes the pipes. One that is left to the garbage collector
    # after a failure makes another test fail, whichever runs then.
    with process:
        try:
            yield process
            process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()


@contextmanager
def signalled_demo(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """
    Start a demo that gets signals; it must have ended when the block does.

    Coverage does not watch it: a Ctrl-C may land while coverage holds its lock, and then
    no thread gets on. What Ctrl-C does is measured in tests/unit/test_demo_runs.py.
    """
    with running_demo(folder, *arguments, measured=False) as process:
        yield process


def one_run(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Return the figures of a demo with one broker."""
    data = json.loads(done.stdout)
    assert data["balanced"] is (done.returncode == 0)
    (run,) = data["runs"]
    assert isinstance(run, dict)
    return run


# -- embedded brokers ------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", [NATS, KAFKA])
def test_a_small_run(backend: str, folder: Path) -> None:
    """All is acked, stored once and in order."""
    done = demo(folder, "--backend", backend, "--events", "2000", "--json")
    assert done.returncode == 0, done.stderr
    run = one_run(done)
    assert (run["accepted"], run["acked"], run["stored"]) == (2000, 2000, 2000)
    assert (run["violations"], run["failures"], run["faults"]) == ([], [], [])
    assert run["events_per_second"] > 0
    assert 0 < run["result_latency"]["p50"] <= run["result_latency"]["p99"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", [NATS, SLOW_KAFKA])
def test_a_small_run_that_breaks(backend: str, folder: Path) -> None:
    """Frozen, and on NATS killed, with events in flight: the books balance."""
    done = demo(folder, "--backend", backend, "--events", "2000", "--json", "--break")
    assert done.returncode == 0, done.stdout + done.stderr
    run = one_run(done)
    frozen, *killed = run["faults"]
    assert (frozen["done"], frozen["in_flight_after"] > 0) == ("frozen", True)
    assert 3.0 <= frozen["seconds"] < 10 + SLACK
    assert [(f["done"], f["in_flight_after"] > 0) for f in killed] == (
        [("killed", True)] if backend == "nats" else []
    )
    assert run["reconnects"] == len(killed)
    assert run["accepted"] == run["acked"] == run["stored"] == 2000
    assert "frozen" in done.stderr


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", ["both"])
def test_both_brokers_one_after_the_other(backend: str, folder: Path) -> None:
    del backend  # tells which must be installed
    done = demo(folder, "--events", "500")
    assert done.returncode == 0, done.stderr
    assert "NATS JetStream (embedded nats-server): 500 events" in done.stdout
    assert "Kafka (embedded tansu): 500 events" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(
        "the books balance on nats and kafka"
    )
    assert "\x1b" not in done.stdout + done.stderr


# -- Ctrl-C, SIGTERM, a reader that goes away --------------------------------------------


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", [NATS, KAFKA])
def test_ctrl_c_while_the_broker_is_frozen(backend: str, folder: Path) -> None:
    """The broker is resumed, the books are shown, nothing is left behind."""
    with signalled_demo(folder, "--backend", backend, "--break", "--json") as process:
        wait_for_line(process, "frozen")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    data = json.loads(out)
    assert (data["interrupted"], data["balanced"]) == (True, True)
    (run,) = data["runs"]
    assert 0 < run["accepted"] <= 20_000
    assert run["faults"][0]["seconds"] < 3 + SLACK


@pytest.mark.nats
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", ["nats"])
def test_ctrl_c_twice_is_for_the_impatient(backend: str, folder: Path) -> None:
    """The second one ends the bookkeeping too; still nothing is left behind."""
    started = time.monotonic()
    with signalled_demo(
        folder, "--backend", backend, "--events", "100_000_000"
    ) as process:
        wait_for_line(process, "in flight")
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "interrupted")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode in {130, 1}
    assert time.monotonic() - started < 30 + SLACK


@pytest.mark.nats
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", ["nats"])
def test_sigterm_leaves_nothing_behind(backend: str, folder: Path) -> None:
    with signalled_demo(folder, "--backend", backend, "--break") as process:
        wait_for_line(process, "frozen")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_reader_that_goes_away(folder: Path) -> None:
    """As in ``… demo | head -1``: no traceback, and not success."""
    with running_demo(folder, "--backend", "memory", "--events", "2000") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.stdout = None
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> None:
    """Read the progress until *text* appears in it."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    message = f"the demo ended without saying {text!r}"
    raise AssertionError(message)


# -- a broker of the user's own ----------------------------------------------------------


def on_jetstream(server: NatsServer, work: Any) -> Any:
    """Return what a coroutine function makes of the server's JetStream."""

    async def run() -> Any:
        client = await nats.connect(server.url)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


def streams(server: NatsServer) -> dict[str, int]:
    """Return every stream with the number of its messages."""

    async def ask(js: Any) -> dict[str, int]:
        return {
            info.config.name: info.state.messages for info in await js.streams_info()
        }

    found: dict[str, int] = on_jetstream(server, ask)
    return found


@pytest.mark.nats
def test_nats_by_url_gets_a_stream_that_goes_away(
    nats_server: NatsServer, folder: Path
) -> None:
    before = streams(nats_server)
    run = one_run(demo(folder, "--url", nats_server.url, "--events", "500", "--json"))
    assert (run["backend"], run["stored"], run["balanced"]) == ("nats", 500, True)
    assert run["title"] == f"NATS JetStream at {nats_server.url}"
    assert streams(nats_server) == before


@pytest.mark.nats
def test_a_stream_of_the_users_is_left_as_it_was(
    nats_server: NatsServer, folder: Path
) -> None:
    async def make(js: Any) -> None:
        await js.add_stream(name="SHOP", subjects=["till", "shop.*.created"])
        await js.publish("till", b"the user's own")

    on_jetstream(nats_server, make)
    before = streams(nats_server)
    url = f"{nats_server.url}?stream=SHOP"
    done = demo(folder, "--url", url, "--events", "500", "--json")
    assert one_run(done)["stored"] == 500, done.stderr
    assert streams(nats_server) == before
    assert before["SHOP"] == 1


@pytest.mark.nats
@pytest.mark.parametrize(
    ("stream", "complaint"),
    [("FLAT", "none of them has a wildcard"), ("ABSENT", "no stream 'ABSENT'")],
)
def test_a_stream_that_cannot_be_used(
    stream: str, complaint: str, nats_server: NatsServer, folder: Path
) -> None:
    async def make(js: Any) -> None:
        await js.add_stream(name="FLAT", subjects=["flat"])

    on_jetstream(nats_server, make)
    before = streams(nats_server)
    done = demo(folder, "--url", f"{nats_server.url}?stream={stream}")
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert streams(nats_server) == before


@pytest.mark.nats
def test_ctrl_c_clears_away_what_was_made(
    nats_server: NatsServer, folder: Path
) -> None:
    before = streams(nats_server)
    arguments = ["--url", nats_server.url, "--events", "100_000_000"]
    with signalled_demo(folder, *arguments, "--json") as process:
        wait_for_line(process, "in flight")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["balanced"] is True
    assert streams(nats_server) == before


@pytest.mark.kafka
def test_kafka_by_url_gets_a_topic_that_goes_away(
    fresh_kafka_server: KafkaServer, folder: Path
) -> None:
    servers = fresh_kafka_server.bootstrap_servers
    run = one_run(
        demo(folder, "--url", f"kafka://{servers}", "--events", "500", "--json")
    )
    assert (run["backend"], run["stored"], run["balanced"]) == ("kafka", 500, True)
    assert topics(servers) == set()


def topics(bootstrap_servers: str) -> set[str]:
    """Return the names of all topics."""
    settings = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    with confluent_kafka.Producer(settings) as client:
        return set(client.list_topics(timeout=5).topics)


@pytest.mark.kafka
def test_a_topic_that_cannot_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock cluster does not answer such a request."""
    monkeypatch.setattr(destinations, "_TIMEOUT", 0.5)
    with (
        KafkaServer(kind="librdkafka-mock") as server,
        pytest.raises(StartFailed, match="could not be created"),
        own(f"kafka://{server.bootstrap_servers}", print),
    ):
        pass


@pytest.mark.kafka
def test_a_topic_that_is_there_already(kafka_server: KafkaServer) -> None:
    config = KafkaConfig(bootstrap_servers=kafka_server.bootstrap_servers)
    topic = unique("topic")
    create_topic(config, topic)
    with pytest.raises(StartFailed, match=f"{topic}' could not be created: .*exists"):
        create_topic(config, topic)


@pytest.mark.kafka
def test_what_cannot_be_cleared_away_is_said(
    fresh_kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "_TIMEOUT", 0.5)
    said: list[str] = []
    url = f"kafka://{fresh_kafka_server.bootstrap_servers}"
    with own(url, said.append) as target:
        target.bus.close()
        fresh_kafka_server.kill()
    assert "could not be deleted; please delete it yourself" in said[0]


@pytest.mark.nats
def test_a_stream_is_found_on_the_second_server(
    nats_server: NatsServer, unused_tcp_port: int
) -> None:
    """What one server cannot answer another one may."""
    stream = unique("STREAM")

    async def make(js: Any) -> None:
        await js.add_stream(name=stream, subjects=[f"{stream}.*.b.>"])

    on_jetstream(nats_server, make)
    config = NatsConfig(servers=[f"127.0.0.1:{unused_tcp_port}", nats_server.url])
    assert subject_in(config, stream, "me") == f"{stream}.me.b.me"
    with pytest.raises(StartFailed, match=r"'absent' cannot be used.*not found"):
        subject_in(config, "absent", "me")
