"""``outbox …`` and ``relay`` on the command line: what they say, refuse and return."""

import contextlib
import datetime as dt
import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from sqlalchemy import create_engine, text, update
from support.eventually import eventually
from support.outbox_rows import expire, let_time_pass, take

from eventbus_sync import (
    Envelope,
    KafkaConfig,
    MemoryConfig,
    cli,
    cli_once,
    cli_relay,
    cli_rows,
    cli_status,
)
from eventbus_sync.errors import ConfigError, IllegalTopic, StoreFailed
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay, RelayStats, RetryPolicy
from eventbus_sync.testing import MemoryBus


pytest_plugins = ["support.databases"]

Run = Callable[..., tuple[int, str, str]]

SECRET = "hush-hush"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'app.db'}"


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``outbox …`` on the test's database: exit code, stdout, stderr."""

    def run(*arguments: str, db: str = url) -> tuple[int, str, str]:
        try:
            code = cli.main(["outbox", *arguments, "--db", db])
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def outbox(url: str, run: Run) -> Iterator[SqlAlchemyOutbox]:
    assert run("init")[0] == 0
    engine = create_engine(url)
    yield SqlAlchemyOutbox(engine)
    engine.dispose()


def add(outbox: SqlAlchemyOutbox, *event_ids: str) -> None:
    with outbox.engine.begin() as connection:
        for event_id in event_ids:
            envelope = Envelope(event_id[0], "E", 1, 0, event_id=event_id)
            outbox.add(connection, "orders", envelope)


def relayed(outbox: SqlAlchemyOutbox, *, dead: int = 0) -> None:
    """Publish what is due; the first *dead* events are refused for good."""
    with MemoryBus(MemoryConfig(delivery_timeout=1)) as bus:
        if dead:
            bus.broker.reject(IllegalTopic("bad\x1b[2Jname"), times=dead)
        relay = OutboxRelay(outbox, bus, name="eventbus-relay", purge_after=None)
        assert relay.drain(20)


def test_init_may_be_repeated(run: Run) -> None:
    for _ in range(2):
        code, out, _ = run("init")
        assert (code, out) == (0, "table eventbus_outbox is ready\n")


def test_stats(run: Run, outbox: SqlAlchemyOutbox) -> None:
    add(outbox, "a-1", "a-2", "b-1")
    code, out, _ = run("stats")
    assert code == 0
    assert re.search(r"^pending +3$", out, re.MULTILINE)
    assert "oldest unpublished: " in out
    code, out, _ = run("stats", "--json")
    assert code == 0
    assert {k: v for k, v in json.loads(out).items() if v and k != "oldest_age"} == {
        "pending": 3
    }
    assert json.loads(out)["oldest_age"] > 0


def test_stats_says_by_its_code_that_rows_are_dead(
    run: Run, outbox: SqlAlchemyOutbox
) -> None:
    add(outbox, "a-1", "b-1")
    relayed(outbox, dead=1)
    code, out, _ = run("stats")
    assert code == 1
    assert re.search(r"^dead +1$", out, re.MULTILINE)


def test_list(run: Run, outbox: SqlAlchemyOutbox) -> None:
    assert run("list") == (1, "", "no rows\n")
    add(outbox, "a-1", "a-2", "b-1")
    relayed(outbox, dead=1)
    code, out, _ = run("list")
    assert code == 0
    heading = "position state written attempts topic aggregate event id"
    assert out.splitlines()[0].split() == heading.split()
    assert len(re.findall(r"^ +\d+ ", out, re.MULTILINE)) >= 3
    code, out, _ = run("list", "--state", "dead")
    assert "a-1" in out
    assert "illegal_topic: bad" in out
    assert "\x1b" not in out  # what rows hold does not reach the terminal
    code, out, _ = run("list", "--json", "--limit", "2")
    rows = json.loads(out)
    assert [row["event_id"] for row in rows] == ["a-1", "a-2"]
    assert [row["state"] for row in rows] == ["dead", "pending"]
    assert run("list", "--json", "--state", "discarded")[:2] == (1, "[]\n")


def test_list_tells_what_is_for_later_from_what_is_tried_again(
    run: Run, outbox: SqlAlchemyOutbox
) -> None:
    later = dt.datetime(2099, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    with outbox.engine.begin() as connection:
        for name in ("a-1", "b-1"):
            event = Envelope(name, "E", 1, 0, event_id=name)
            outbox.add(connection, "orders", event, not_before=later)
        failed = outbox.table.c.event_id == "b-1"
        connection.execute(update(outbox.table).where(failed).values(error="full: no"))
    lines = run("list")[1].splitlines()
    assert lines[2] == "          not before 2099-01-02T03:04:05Z"
    assert lines[4] == "          next attempt 2099-01-02T03:04:05Z; full: no"


def test_requeue(run: Run, outbox: SqlAlchemyOutbox) -> None:
    # What is there of the time before shows that nothing was purged since.
    add(outbox, "z-1")
    relayed(outbox)
    let_time_pass(outbox, 1)
    add(outbox, "a-1", "b-1", "c-1")
    relayed(outbox, dead=2)
    code, out, err = run("requeue", "a-1", "nobody")
    assert (code, out) == (1, "a-1\n")
    assert err == "requeued 1 row\nthere is no row with the event id nobody\n"
    code, out, err = run("requeue", "a-1", "z-1")
    assert (code, out) == (1, "")
    assert err == (
        "requeued 0 rows\n"
        "a-1 is pending: only dead rows can be requeued\n"
        "z-1 is published: only dead rows can be requeued\n"
    )
    assert run("requeue", "--all") == (0, "b-1\n", "requeued 1 row\n")
    assert run("requeue", "--all") == (1, "", "requeued 0 rows\n")
    relayed(outbox)
    assert outbox.stats().published == 4


def test_requeue_says_when_the_order_is_lost(
    run: Run, outbox: SqlAlchemyOutbox
) -> None:
    add(outbox, "a-1", "a-2")
    with MemoryBus(MemoryConfig(delivery_timeout=1)) as bus:
        bus.broker.reject(IllegalTopic())
        relay = OutboxRelay(outbox, bus, name="eventbus-relay", on_dead="skip")
        assert relay.drain(20)
    code, out, _ = run("requeue", "a-1")
    assert code == 0
    assert "later events of its aggregate were published already" in out
    outbox.purge(older_than=-1, limit=10)
    relayed(outbox, dead=1)
    code, out, _ = run("requeue", "--all")
    said = "a-1  perhaps later events of its aggregate were published and purged\n"
    assert (code, out) == (0, said)


def test_discard_lets_the_aggregate_go_on(run: Run, outbox: SqlAlchemyOutbox) -> None:
    add(outbox, "a-1", "a-2")
    relayed(outbox, dead=1)
    assert outbox.stats().pending == 1
    assert run("discard", "a-1") == (0, "a-1\n", "discarded 1 row\n")
    code, _, err = run("discard", "a-1")
    assert (code, "a-1 is discarded: only dead rows can be" in err) == (1, True)
    relayed(outbox)
    assert outbox.stats().published == 1


def test_a_table_that_goes_away_before_it_is_asked_again(
    outbox: SqlAlchemyOutbox,
) -> None:
    outbox.table.drop(outbox.engine)
    with pytest.raises(StoreFailed, match="the outbox's database failed"):
        list(cli_rows.not_dead(outbox, ["a-1"], "requeued"))


def test_purge(run: Run, outbox: SqlAlchemyOutbox) -> None:
    add(outbox, *(f"a-{n}" for n in range(1500)))
    relayed(outbox)
    assert run("purge") == (0, "purged 0 rows\n", "")
    assert run("purge", "--older-than", "0") == (0, "purged 1,500 rows\n", "")
    assert run("list")[0] == 1


def test_stats_says_who_holds_rows(
    run: Run, postgresql_outbox: SqlAlchemyOutbox
) -> None:
    url = postgresql_outbox.engine.url.render_as_string(hide_password=False)
    with postgresql_outbox.engine.connect() as late:
        late.execute(text("SET application_name = 'nightly-report'"))
        postgresql_outbox.add(late, "orders", Envelope("z", "E", 1, 0))
        add(postgresql_outbox, "a-1", "b-1")
        code, out, _ = run("stats", db=url)
    assert code == 0
    assert re.search(r"^  hidden +2  by .*nightly-report", out, re.MULTILINE)


def test_whoever_read_the_output_may_go(url: str, outbox: SqlAlchemyOutbox) -> None:
    """As ``outbox list | head`` does: no traceback, and code 1."""
    add(outbox, "a-1")
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "eventbus_sync"),
                *("outbox", "list", "--db", url),
            ],
            check=False,
            stdout=writes,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["requeue"], "one of the arguments"),
        (["discard"], "required: ID"),
        (["list", "--limit", "0"], "'0' is not a whole number from 1 up"),
        (["list", "--state", "lost"], "invalid choice: 'lost'"),
        (["purge", "--older-than", "-1"], "'-1' is not a number of seconds"),
        (["purge", "--older-than", "nan"], "'nan' is not a number of seconds"),
        (["purge", "--older-than", "week"], "'week' is not a number of seconds"),
    ],
)
def test_wrong_use_is_2(run: Run, arguments: list[str], complaint: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert complaint in err


@pytest.mark.parametrize("command", ["stats", "list", "purge"])
def test_no_file_is_made_of_a_slip_in_its_name(
    run: Run, tmp_path: Path, command: str
) -> None:
    slip = tmp_path / "tpyo.db"
    code, _, err = run(command, db=f"sqlite:///{slip}")
    assert code == 2
    assert "there is no file" in err
    assert "tpyo.db" in err
    assert cli.main(["relay", "--db", f"sqlite:///{slip}", "--bus", "nats://h"]) == 2
    assert not slip.exists()


def test_a_table_that_is_not_there_is_2_with_a_next_step(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "app.db").touch()
    code, _, err = run("stats")
    assert code == 2
    assert "there is no table eventbus_outbox" in err
    assert "outbox init" in err


def test_a_table_of_another_name(run: Run) -> None:
    assert run("init", "--table", "mine")[:2] == (0, "table mine is ready\n")
    assert run("stats", "--table", "mine")[0] == 0
    code, _, err = run("stats")
    assert (code, "stats: there is no table eventbus_outbox" in err) == (2, True)
    code, _, err = run("stats", "--table", "mnie")
    assert (code, "stats: look at --table: there is no table mnie" in err) == (2, True)


def test_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    for command in ("init", "stats"):
        code, _, err = run(command, db=f"sqlite:///{tmp_path}/nowhere/x.db")
        assert code == 2
        assert f"there is no folder '{tmp_path}/nowhere'" in err


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb"])
def test_a_schema_that_is_not_there_is_2(
    run: Run, request: pytest.FixtureRequest, database: str
) -> None:
    there: SqlAlchemyOutbox = request.getfixturevalue(f"{database}_outbox")
    db = there.engine.url.render_as_string(hide_password=False)
    code, _, err = run("init", "--schema", "nope", db=db)
    assert code == 2
    assert "nope" in err
    assert "look at --schema" in err
    assert "Is the database up" not in err
    assert run("stats", "--schema", "nope", db=db)[0] == 2


def test_a_database_that_is_busy_is_3(run: Run, url: str, tmp_path: Path) -> None:
    engine = create_engine(url)
    with engine.connect() as writer:
        writer.exec_driver_sql("BEGIN EXCLUSIVE")
        code, _, err = run("init", db=f"{url}?timeout=0.05")
    engine.dispose()
    assert code == 3
    assert "locked" in err


@pytest.mark.parametrize("command", ["init", "stats", "list", "purge"])
def test_a_database_out_of_reach_is_3(run: Run, command: str) -> None:
    nobody = f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/app"
    code, out, err = run(command, db=nobody)
    assert (code, out) == (3, "")
    assert "Is the database up" in err
    assert SECRET not in err


@pytest.mark.parametrize(
    ("db", "complaint"),
    [
        (f"user:{SECRET}@host/app", "not a URL that SQLAlchemy can read"),
        (f"postgresql://user:{SECRET}@host:port/app", "not a URL"),
        (f"{SECRET}://host/app", "not a URL"),
        (f"nosuch://user:{SECRET}@host/app", "knows no such database: nosuch://"),
        (
            f"postgres://user:{SECRET}@host/app",
            "no such database: postgres://…; did you mean postgresql+psycopg://?",
        ),
        (f"oracle://user:{SECRET}@host/app", "driver for oracle is not installed"),
        ("", "say where the outbox is"),
    ],
)
def test_a_wrong_url_is_2_and_shows_no_secret(
    run: Run, db: str, complaint: str
) -> None:
    code, _, err = run("stats", db=db)
    assert code == 2
    assert complaint in err
    assert SECRET not in err


def test_without_sqlalchemy_it_is_said_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    code, _, err = run("stats")
    assert code == 2
    assert "pip install 'eventbus-sync[sqlalchemy]'" in err


def test_the_url_may_stand_in_the_environment(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTBOX_DB_URL", url)
    assert cli.main(["outbox", "init"]) == 0
    assert "ready" in capsys.readouterr().out


# -- relay -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say where events go"),
        (["--bus", "memory://"], "is a broker inside of this process"),
        (["--bus", "rabbit://h"], "unknown scheme"),
        (["--bus", "nats://h", "--lease", "24"], "lease=24 .*delivery_timeout=20"),
        (["--bus", "nats://h?delivery_timeout=26"], "lease=30 .*delivery_timeout=26"),
        (["--bus", "nats://h", "--batch-size", "0"], "batch_size"),
        (["--bus", "nats://h", "--max-attempts", "0"], "max_attempts"),
        (["--bus", "nats://h", "--max-age", "0"], "max_age"),
        (["--bus", "nats://h", "--poll-interval", "nan"], "poll_interval"),
        (["--bus", "nats://h", "--purge-after", "-1"], "purge_after"),
        (["--bus", "nats://h?jetstream=false"], "jetstream=False"),
        (["--bus", f"nats://u:{SECRET}@h:port"], "servers must be like"),
    ],
)
def test_a_relay_that_cannot_run_is_2(
    url: str,
    outbox: SqlAlchemyOutbox,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    complaint: str,
) -> None:
    assert cli.main(["relay", "--db", url, *arguments]) == 2
    err = capsys.readouterr().err
    assert re.search(complaint, err)
    assert SECRET not in err


def settings_of(
    monkeypatch: pytest.MonkeyPatch, url: str, *options: str
) -> dict[str, object]:
    """What the command tells the relay and the outbox."""
    told: dict[str, object] = {}

    class Told(OutboxRelay):
        def __init__(self, outbox: SqlAlchemyOutbox, *_: object, **more: Any) -> None:
            told.update(more, order=outbox._database.commit_order)
            told.update(notify=outbox._listener is not None)
            raise ConfigError

    monkeypatch.setattr("eventbus_sync.outbox.OutboxRelay", Told)
    assert cli.main(["relay", "--db", url, "--bus", "nats://h", *options]) == 2
    return told


def test_the_relay_is_told_what_the_options_say(
    url: str, outbox: SqlAlchemyOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default what the relay would do by itself."""
    told = settings_of(monkeypatch, url)
    for name, parameter in inspect.signature(OutboxRelay).parameters.items():
        if name in told and name != "retry":
            assert told[name] == parameter.default, name
    assert told["retry"] == RetryPolicy()
    assert told["order"] is told["notify"] is True
    assert {"purge_after", "poll_interval", "lease", "batch_size"} <= set(told)

    options = "--purge-after 5 --max-attempts 7 --max-age 8 --poll-interval 0.5"
    given = [*options.split(), "--no-commit-order", "--no-notify"]
    told = settings_of(monkeypatch, url, *given)
    assert told["purge_after"] == 5
    assert told["poll_interval"] == 0.5
    assert told["retry"] == RetryPolicy(max_attempts=7, max_age=8)
    assert told["order"] is told["notify"] is False
    assert settings_of(monkeypatch, url, "--no-purge")["purge_after"] is None


@pytest.mark.parametrize(
    ("url", "linger"),
    [
        ("kafka://h:9092", 0.0),
        ("kafka+tls://h:9092?client_id=relay", 0.0),
        ("kafka://h:9092?linger=0.02", 0.02),
    ],
)
def test_a_relay_does_not_wait_for_more_events_on_kafka(
    url: str, linger: float
) -> None:
    """Else each event of a hot aggregate waits, since one of it is in flight."""
    with cli_relay._bus(url) as bus:
        assert isinstance(bus.config, KafkaConfig)
        assert (bus.config.linger, bus.config.delivery_timeout) == (linger, 20.0)


def test_a_relay_without_its_database_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    db = f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/app"
    assert cli.main(["relay", "--db", db, "--bus", "nats://127.0.0.1:1"]) == 3
    assert SECRET not in capsys.readouterr().err


def test_a_relay_whose_bus_was_closed_says_so(
    url: str,
    outbox: SqlAlchemyOutbox,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(outbox, "a-1")
    with MemoryBus(MemoryConfig(delivery_timeout=1, close_timeout=0)) as bus:
        bus.broker.freeze()

        @contextlib.contextmanager
        def our_bus(_: object) -> Iterator[MemoryBus]:
            yield bus

        def close() -> None:
            eventually(lambda: bus.stats().in_flight == 1, 20)
            bus.close(0)

        monkeypatch.setattr(cli_relay, "_bus", our_bus)
        monkeypatch.setattr(cli_relay, "_BROKER", 0.1)
        closer = threading.Thread(target=close, name="eventbus-closer")
        closer.start()
        assert cli.main(["relay", "--db", url, "--bus", "ours"]) == 2
        closer.join(20)
    said = capsys.readouterr().err
    assert "relaying;" in said
    assert "relay: The bus is closed" in said.splitlines()[-1]
    assert outbox.stats().leased == 0


@pytest.fixture
def memory_bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBus]:
    """What the relay command takes for its bus, whatever --bus says."""
    with MemoryBus(MemoryConfig(delivery_timeout=1, close_timeout=0)) as bus:

        @contextlib.contextmanager
        def our_bus(_: object) -> Iterator[MemoryBus]:
            yield bus

        monkeypatch.setattr(cli_relay, "_bus", our_bus)
        monkeypatch.setattr(cli_relay, "_BROKER", 0.1)
        yield bus


def test_once_says_by_its_code_that_another_relay_has_rows(
    url: str, outbox: SqlAlchemyOutbox, memory_bus: MemoryBus
) -> None:
    """Perhaps it was killed: what is leased is due, and nobody published it."""
    once = ["relay", "--db", url, "--bus", "ours", "--once"]
    add(outbox, "a-1", "b-1", "c-1")
    assert len(take(outbox, limit=1).records) == 1
    assert cli.main(once) == 1
    assert outbox.stats().published == 2
    # Its lease ends just after the relay has looked for work.
    expire(outbox)
    assert cli_once.left(outbox)
    assert cli.main(once) == 0
    assert outbox.stats().published == 3


@pytest.mark.parametrize("settled", [True, False])
def test_the_code_after_a_signal_says_whether_all_was_marked(
    url: str,
    outbox: SqlAlchemyOutbox,
    memory_bus: MemoryBus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settled: bool,
) -> None:
    stop = OutboxRelay.stop

    def stopped(relay: OutboxRelay, timeout: float | None = None) -> bool:
        return stop(relay, timeout) and settled

    def signals() -> None:
        eventually(lambda: outbox.stats().published == 1, 20)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(OutboxRelay, "stop", stopped)
    add(outbox, "a-1")
    killer = threading.Thread(target=signals, name="eventbus-killer")
    killer.start()
    code = cli.main(["relay", "--db", url, "--bus", "ours"])
    killer.join(20)
    assert code == (0 if settled else 1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stopped: " if settled else "exit 1: outcomes did not come")


class Relay:
    """Stands in for a relay that has no broker."""

    def stats(self) -> RelayStats:
        return RelayStats(
            state="running",
            held=0,
            in_flight=1,
            rate=0.0,
            breaker="open",
            last_error=None,
            last_error_age=None,
            claimed=8,
            published=7,
            retried=0,
            held_back=0,
            buried=0,
            released=0,
            lost=0,
        )


def test_the_status_line_without_a_broker_and_without_the_database() -> None:
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        relay = cast("OutboxRelay", Relay())
        status = cli_status.Status(terminal, relay, SqlAlchemyOutbox(engine))
        status._live = True  # whatever TERM is here
        status.show()
        status.show()  # not so soon again
        said = os.read(ours, 4096).decode()
    os.close(ours)
    assert said == "\r\x1b[Kbroker out of reach  7 published  0/s  1 in flight"


@pytest.mark.parametrize("command", ["relay", "outbox"])
def test_help_teaches(
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert re.search(
        r"^examples:\n(  .*\n)*  python -m eventbus_sync ", said, re.MULTILINE
    )
    assert "exit codes:\n  0 " in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    "deed", ["init", "stats", "list", "requeue", "discard", "purge"]
)
def test_help_of_each_command_of_the_outbox_teaches(
    deed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an example that is understood, and exit codes."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["outbox", deed, "--help"])
    said = capsys.readouterr().out
    example = said.partition("example:\n")[2].partition("\n\n")[0]
    words = example.replace("\\\n", " ").split()
    assert words[:4] == ["python", "-m", "eventbus_sync", "outbox"]
    given = cli._parser().parse_args(words[3:])
    assert (given.deed, given.db) == (deed, "sqlite:///app.db")
    assert "\n\nexit codes: 0 done; " in said
    assert max(map(len, said.splitlines())) <= 80
