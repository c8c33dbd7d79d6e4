"""Payloads that are deep or contain themselves: refused, and never a crash."""

import collections
import subprocess
import sys

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from support.envelopes import envelope, refusal

from eventbus_sync.envelope import Envelope
from eventbus_sync.envelope import payload as _payload


#: Payloads that would take a recursion deeper than a stack of 8 MB is high.
ENDLESS = {
    "circular": "payload = []; payload.append(payload); hook = None",
    "deep": "payload = {}; hook = None\nfor _ in range(10**6): payload = [payload]",
    "hook": "payload = object(); hook = lambda value: {'a': value}",
}


def nested(depth: int) -> list[Any]:
    """Return lists inside of one another."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.fixture
def raised_limit() -> Iterator[None]:
    """Let Python recurse deeper than is safe on every stack."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(_payload._SAFE_RECURSION + 1)
    yield
    sys.setrecursionlimit(usual)


def test_circular() -> None:
    """A payload that contains itself is refused."""
    payload: list[Any] = []
    payload.append(payload)
    assert "contains itself" in str(refusal(payload=payload))


@pytest.mark.parametrize("kind", ENDLESS)
def test_no_crash(kind: str) -> None:
    """However deep Python may recurse, what is too deep ends in our error."""
    code = f"""
import os, sys
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import EnvelopeError
sys.setrecursionlimit(10**6)
{ENDLESS[kind]}
try:
    Envelope("a", "E", 1, payload, json_default=hook)
except EnvelopeError as error:
    print(error, Envelope("a", "E", 1, [[1]]).payload, flush=True)
os._exit(0)  # the payload is not taken apart: how deep that goes is Python's affair
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "payload is nested too deeply or contains itself: pass a flatter value "
        "b'[[1]]'\n"
    )


@pytest.mark.usefixtures("raised_limit")
def test_raised_limit_changes_no_byte() -> None:
    """With a raised limit every kind of payload is encoded as it always is."""
    point = collections.namedtuple("point", "x y")  # noqa: PYI024 - its type is tested
    payload = {
        "a": [1, 2.5, True, None, "é"],
        "b": collections.OrderedDict({1: point(1, Decimal("1.10")), None: ()}),
        "c": [{}, [], [[]], {"d": {}}],
    }
    raw = (
        '{"a":[1,2.5,true,null,"é"],"b":{"1":[1,"1.10"],"null":[]},'
        '"c":[{},[],[[]],{"d":{}}]}'
    )
    assert envelope(payload=payload).payload == raw.encode()
    assert envelope(payload="é").payload == '"é"'.encode()
    assert envelope(payload={1}, json_default=list).payload == b"[1]"
    assert envelope(payload=nested(500)).payload == b"[" * 500 + b"]" * 500


@pytest.mark.usefixtures("raised_limit")
@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (object(), "a object has no JSON form"),
        ({(1, 2): 3}, "keys must be str, int, float, bool or None"),
        ([float("nan")], "not JSON compliant"),
        pytest.param(nested(501), "deeper than 500", id="501"),
        pytest.param(nested(1200), "nested too deeply", id="1200"),
    ],
)
def test_raised_limit_changes_no_refusal(payload: object, says: str) -> None:
    """With a raised limit the same is refused as without."""
    assert says in str(refusal(payload=payload))


def test_as_deep_to_write_as_to_read() -> None:
    """What can be built can be read back, however deep it is."""
    built = envelope(payload=nested(500))
    assert Envelope.from_bytes(built.to_bytes()) == built
    assert "deeper than 500" in str(refusal(payload=nested(501)))


def test_wide_is_not_deep() -> None:
    """Any number of objects beside one another is fine, brackets in texts too."""
    payload = [{"a": '[\\"' * 3}] * 1000
    assert envelope(payload=payload).payload_json() == payload
