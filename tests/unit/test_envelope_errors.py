"""Errors say something also where Python leaves docstrings out."""

import subprocess
import sys

import pytest

from eventbus_sync import errors
from eventbus_sync.errors import EventBusError


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EventBusError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_default_message(kind: type[EventBusError]) -> None:
    """Without a message of its own an error says what its docstring begins with."""
    said = str(kind())
    assert said
    assert kind.__doc__ is not None
    assert kind.__doc__.strip().startswith(said)
    assert str(kind("mine")) == "mine"


def test_without_docstrings() -> None:
    """Under python -OO an error without a message says what its name says."""
    code = """
from eventbus_sync import errors
for kind in vars(errors).values():
    if isinstance(kind, type) and issubclass(kind, errors.EventBusError):
        print(kind.__name__, kind.__doc__, kind(), kind("mine"), sep=" | ")
class MineIsMissing(errors.PublishRejected): pass
print(MineIsMissing())
"""
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    *lines, mine = done.stdout.splitlines()
    assert mine == "mine is missing"
    shown = {name: rest for name, *rest in (line.split(" | ") for line in lines)}
    assert set(shown) == {kind.__name__ for kind in KINDS}
    assert {doc for doc, _, _ in shown.values()} == {"None"}
    assert {given for _, _, given in shown.values()} == {"mine"}
    assert shown["BusClosed"][1] == "bus closed"
    assert shown["JetStreamDisabled"][1] == "jet stream disabled"
    assert all(
        said.replace(" ", "") == name.lower() for name, (_, said, _) in shown.items()
    )
