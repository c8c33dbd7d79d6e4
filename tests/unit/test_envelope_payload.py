"""Payloads: what is kept, what is encoded and how, and what is refused."""

import enum
import json
import uuid

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from support.envelopes import envelope, refusal

from eventbus_sync.envelope import Envelope
from eventbus_sync.envelope import payload as _payload
from eventbus_sync.errors import EnvelopeError


ID = "01910000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("payload", "raw"),
    [
        ({"é": [1, 2.5, True, None]}, '{"é":[1,2.5,true,null]}'.encode()),
        ("text <b>", b'"text <b>"'),
        (0, b"0"),
        (False, b"false"),
        ([], b"[]"),
        ({}, b"{}"),
        ((1, 2), b"[1,2]"),
        ({1: 2}, b'{"1":2}'),
    ],
)
def test_values_are_encoded(payload: object, raw: bytes) -> None:
    """Values become compact JSON in raw UTF-8."""
    assert envelope(payload=payload).payload == raw


@pytest.mark.parametrize(
    "raw",
    [
        b" { } ",
        b"1e400",
        b'"\\ud800"',
        pytest.param(b"[" * 500 + b"]" * 500, id="deep"),
        pytest.param(b"1" * 9999, id="long"),
    ],
)
def test_raw_json_is_kept(raw: bytes) -> None:
    """Bytes of JSON stay as they are, also what Python could not hold."""
    built = envelope(payload=raw)
    assert built.payload == raw
    assert raw + b"}" == built.to_bytes()[-len(raw) - 1 :]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_bytes_are_copied(kind: Callable[[bytes], Any]) -> None:
    """Bytes that can change are raw JSON too, and are copied."""
    assert type(envelope(payload=kind(b"[1]")).payload) is bytes


def test_snapshot() -> None:
    """Changing the payload afterwards changes nothing."""
    payload = {"a": [1]}
    built = envelope(payload=payload)
    payload["a"].append(2)
    assert built.payload_json() == {"a": [1]}


def test_known_types() -> None:
    """Decimal, UUID, dates, times and enums have a JSON form."""

    class Colour(enum.Enum):
        RED = "red"

    built = envelope(
        payload=[
            Decimal("1.10"),
            uuid.UUID(ID),
            date(2026, 8, 8),
            datetime(2026, 8, 8, 1, 2, 3, tzinfo=UTC),
            time(1, 2),
            Colour.RED,
        ]
    )
    assert built.payload_json() == [
        "1.10",
        ID,
        "2026-08-08",
        "2026-08-08T01:02:03+00:00",
        "01:02:00",
        "red",
    ]


def test_json_default_comes_first() -> None:
    """A caller's hook overrides the built-in forms, and may leave some to them."""

    def hook(value: Any) -> float:
        if isinstance(value, Decimal):
            return float(value)
        raise TypeError

    built = envelope(payload=[Decimal("1.5"), date(2026, 8, 8)], json_default=hook)
    assert built.payload == b'[1.5,"2026-08-08"]'


def test_missing() -> None:
    """An envelope without a payload is refused, hook or not."""
    with pytest.raises(EnvelopeError, match="payload is missing") as caught:
        Envelope("a", "E", json_default=str)
    assert caught.value.field == "payload"


@pytest.mark.parametrize(
    "payload", [None, b"null", b" null\n", bytearray(b"null"), b"", b" \n"]
)
def test_null_and_empty(payload: object) -> None:
    """Null is no payload, in whatever form; nor is nothing at all."""
    error = refusal(payload=payload)
    assert error.field == "payload"
    assert "null" in str(error)


def test_what_becomes_null() -> None:
    """A payload that a hook turns into null is refused as well."""
    assert refusal(payload=object(), json_default=lambda _: None).field == "payload"


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{} {}",
        b'{"a":1} trailing',
        b"NaN",
        b"[-Infinity]",
        b"'a'",
        b"01",
        b'"\x01"',
        b"\xff",
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        '"é"'.encode("latin-1"),
        '"a"'.encode("utf-16"),
        pytest.param(b"[" * 501 + b"]" * 501, id="deep"),
        pytest.param(b"[" * 100_000, id="open"),
    ],
)
def test_bytes_that_are_not_json(raw: bytes) -> None:
    """Bytes that are not one JSON value in UTF-8 are refused (Go sends null)."""
    error = refusal(payload=raw)
    assert error.field == "payload"
    assert "payload" in str(error)


@pytest.mark.parametrize(
    "payload",
    [
        float("nan"),
        [float("inf")],
        {float("nan"): 1},
        Decimal("NaN"),
        "\ud800",
        {"\udfff": 1},
        {1, 2},
        object(),
        {(1, 2): 3},
        {b"bytes": 1},
        pytest.param(10**5000, id="huge"),
    ],
)
def test_values_that_json_lacks(payload: object) -> None:
    """A value without a JSON form is refused, and the message says what to do."""
    error = refusal(payload=payload)
    assert error.field == "payload"
    assert "json_default" in str(error)
    assert error.__cause__ is not None


def test_hook_that_fails() -> None:
    """What goes wrong inside a hook is the payload's fault, with its cause."""

    def hook(value: Any) -> Any:
        return {}[value]

    error = refusal(payload=object(), json_default=hook)
    assert isinstance(error.__cause__, KeyError)


def test_foreign_exceptions_pass() -> None:
    """A time limit injected into the call is not mistaken for a bad payload."""

    class SoftTimeLimitExceeded(Exception):
        pass

    def hook(value: Any) -> Any:
        raise SoftTimeLimitExceeded(value)

    with pytest.raises(SoftTimeLimitExceeded):
        envelope(payload=object(), json_default=hook)


def test_without_the_c_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without the C encoder writes the same."""
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    chunks = _payload._encoder(str)
    assert "".join(chunks({"é": [1, UTC]}, 0)) == '{"é":[1,"UTC"]}'


def test_payload_json() -> None:
    """The payload can be had as a value; if Python cannot hold it, that is said."""
    assert envelope(payload=b'{"a": 1.5}').payload_json() == {"a": 1.5}
    with pytest.raises(EnvelopeError, match="use the raw bytes") as caught:
        envelope(payload=b"1" * 9999).payload_json()
    assert caught.value.field == "payload"
