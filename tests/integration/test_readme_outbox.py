"""The README's outbox chapter: its tables are held against the code."""

import ast
import inspect
import re

from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from support import readme
from support.readme import ROOT

from eventbus_sync import EventBusError, errors
from eventbus_sync.cli import main
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import (
    OutboxRelay,
    OutboxStats,
    RetryPolicy,
    RowState,
)
from eventbus_sync.outbox.record import TRANSITIONS


def chapter() -> str:
    """Return the text of the chapter."""
    return (
        readme.README.read_text()
        .partition("\n## The outbox\n")[2]
        .partition("\n## Guarantees\n")[0]
    )


def test_the_example_output_is_what_the_demo_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same lines in the same order, and the same verdict but for the broker."""
    monkeypatch.setattr("eventbus_sync.demo.outbox.measure.OUTAGE_SECONDS", 0.2)
    arguments = ["demo", "--outbox", "--backend", "memory", "--events", "100"]
    assert main(arguments) == 0
    [example] = readme.of_section("The outbox", "text")
    assert _labels(example.text) == _labels(capsys.readouterr().out)


def _labels(text: str) -> list[str]:
    rows = re.findall(r"^  ([a-z][a-z0-9 /]*?)  ", text, re.MULTILINE)
    [verdict] = re.findall(
        r"^the outbox kept its word on [^:]*(:.*)$", text, re.MULTILINE
    )
    return [*rows, verdict]


def defaults_of(call: Any) -> Mapping[str, object]:
    """Return what can be given by name only, with its default."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(call).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


@pytest.mark.parametrize(
    ("number", "kind"),
    [(0, OutboxRelay), (1, RetryPolicy), (2, SqlAlchemyOutbox)],
    ids=["relay", "retry", "outbox"],
)
def test_every_setting_is_in_its_table(number: int, kind: type) -> None:
    """Names in their order, defaults that are the defaults, seconds where it is time."""
    fields = kind.__init__ if kind is RetryPolicy else kind
    known = dict(defaults_of(fields))
    rows = readme.table("setting", "Outbox settings", number)
    assert [row[0].strip("`") for row in rows] == list(known)
    for name, default, unit, meaning in rows:
        value = known[name.strip("`")]
        assert ast.literal_eval(default.strip("`")) == value, name
        assert (unit == "s") == isinstance(value, float), name
        assert meaning, name


def test_every_state_is_there() -> None:
    """In the order in which a row can go through them."""
    rows = readme.table("state", "What is in the table")
    assert [row[0].strip("`") for row in rows] == [state.value for state in RowState]


def test_every_change_is_there() -> None:
    """From where and to where, as the table of transitions has it."""
    shown = {
        change.strip("`"): (source.strip("`"), target.strip("`"))
        for change, source, target, _ in readme.table("change", "What is in the table")
    }
    assert shown == {
        change.value: (transition.source.value, transition.target.value)
        for change, transition in TRANSITIONS.items()
    }


def test_every_guarantee_names_its_tests() -> None:
    """In the table, each guarantee in its order; and these tests exist."""
    section = chapter().partition("### What the outbox guarantees\n")[2]
    guarantees = section.partition("\n\nTwo transactions")[0]
    said = re.findall(r"^\* (.*)$", guarantees, re.MULTILINE)
    defined = {
        name
        for file in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    rows = readme.table("guarantee", "What the outbox guarantees")
    assert len(said) > 5
    for sentence, (guarantee, tests) in zip(said, rows, strict=True):
        assert re.match(rf"\*\*{guarantee}[.,]\*\*", sentence), sentence
        named = set(re.findall(r"`(test_\w+)`", tests))
        assert named, guarantee
        assert named <= defined, named - defined


def test_symptoms_name_what_exists() -> None:
    """Errors, columns and counters are ours; each row has a cause and a remedy."""
    known = {
        *(n for n, k in vars(errors).items() if inspect.isclass(k)),
        *(field.name for field in attrs.fields(OutboxStats)),
        *("column", "attempts", "not_before", "lease", "stats"),
    }
    for row in readme.table("what you see", "Outbox troubleshooting"):
        assert all(row), row
        for name in re.findall(r"`([A-Za-z_]+)`", row[0]):
            assert name in known, name


def test_every_error_of_the_outbox_is_in_its_troubleshooting() -> None:
    """But for their base."""
    text = chapter().partition("### Outbox troubleshooting\n")[2]
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.OutboxError):
            assert kind is errors.OutboxError or f"`{name}`" in text, name
    assert issubclass(errors.OutboxError, EventBusError)


@pytest.mark.parametrize("command", ["relay", "outbox"])
def test_the_options_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option that the chapter gives to a command is in its help."""
    given = re.findall(rf"{command} [^`$\n|]*?(?:`|\n)", chapter())
    options = {option for line in given for option in re.findall(r"--[a-z-]+", line)}
    names = ["relay"] if command == "relay" else ["stats", "list", "requeue", "purge"]
    shown = ""
    for name in names:
        arguments = [name] if command == "relay" else ["outbox", name]
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        shown += capsys.readouterr().out
    assert options
    assert {option for option in options if option not in shown} <= {"--outbox"}
