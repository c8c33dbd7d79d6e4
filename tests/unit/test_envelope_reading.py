"""Reading envelopes that come from outside: Go's rules, and no way to do harm."""

import json
import time

from pathlib import Path
from typing import Any

import pytest

from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import EnvelopeError


VECTORS = Path(__file__).parents[1] / "vectors"
MINIMAL = {
    "event_id": "e",
    "aggregate_id": "a",
    "event_type": "E",
    "event_version": 1,
    "timestamp": "2026-08-08T13:02:28Z",
    "payload": {"a": 1},
}


def encoded(*without: str, **changes: Any) -> bytes:
    """Return a minimal envelope with members replaced, added or left out."""
    members = {**MINIMAL, **changes}
    return json.dumps({k: v for k, v in members.items() if k not in without}).encode()


def refusal(data: Any, **options: Any) -> EnvelopeError:
    """Return the error that reading ends with."""
    with pytest.raises(EnvelopeError) as caught:
        Envelope.from_bytes(data, **options)
    return caught.value


@pytest.mark.parametrize("number", range(3))
def test_golden_lines(number: int) -> None:
    """What the Go SDK wrote reads, and comes out again byte for byte."""
    line = (VECTORS / "envelope.jsonl").read_bytes().splitlines()[number]
    assert Envelope.from_bytes(line).to_bytes() == line


def test_golden_values() -> None:
    """Escapes are undone in texts, and untouched in the payload."""
    line = (VECTORS / "envelope.jsonl").read_bytes().splitlines()[2]
    read = Envelope.from_bytes(line)
    assert read.event_type == 'A<b>&"c"\\\u2028\x00\x1f'
    assert (read.trace_id, read.correlation_id, read.tenant_id) == ("t", "c", 7)
    assert read.payload == b'{ "b" : 2}'


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes(kind: Any) -> None:
    """Bytes in whatever form a driver hands them out."""
    assert Envelope.from_bytes(kind(encoded())).event_id == "e"


@pytest.mark.parametrize("data", ["{}", None, 7, ["a"]])
def test_other_types(data: object) -> None:
    """Anything but bytes is refused."""
    assert refusal(data).field == "data"


def test_names_in_any_case() -> None:
    """Names match whatever their case, also when they are written with escapes."""
    data = encoded().replace(b'"event_id"', b'"EVENT\\u005fId"')
    assert Envelope.from_bytes(data).event_id == "e"


def test_unknown_names() -> None:
    """Members that nobody knows are ignored, whatever they hold."""
    data = encoded(more={"event_id": [1, {"x": None}]}, other=1e5)
    assert Envelope.from_bytes(data) == Envelope.from_bytes(encoded())


def test_last_of_several() -> None:
    """The last of several members with one name wins, in any case."""
    data = encoded()[:-1] + b', "Event_ID": "f", "payload": [], "payload": [ 2 ]}'
    read = Envelope.from_bytes(data)
    assert read.event_id == "f"
    assert read.payload == b"[ 2 ]"


def test_blanks_around_everything() -> None:
    """JSON's blanks are fine everywhere, and those inside of the payload are kept."""
    data = json.dumps(MINIMAL, indent=2).replace(":", "\t:\r\n").encode()
    data = b" \n" + data.replace(b"13\t\r\n02\t\r\n28", b"13:02:28") + b"\r\n"
    data = data.replace(b"13\t:\r\n02\t:\r\n28", b"13:02:28")
    assert Envelope.from_bytes(data).payload == b'{\n    "a"\t:\r\n 1\n  }'


@pytest.mark.parametrize("name", ["trace_id", "correlation_id", "tenant_id"])
def test_null_is_absent(name: str) -> None:
    """Null leaves a member empty."""
    assert Envelope.from_bytes(encoded(**{name: None})).to_bytes() == (
        Envelope.from_bytes(encoded()).to_bytes()
    )


@pytest.mark.parametrize("data", [encoded("timestamp"), encoded(timestamp=None)])
def test_missing_timestamp(data: bytes) -> None:
    """Without a timestamp it is Go's zero time."""
    assert Envelope.from_bytes(data).timestamp_text == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize("name", ["event_id", "aggregate_id", "event_type"])
@pytest.mark.parametrize("value", [None, "", " ", 7, ["x"], True])
def test_bad_texts(name: str, value: object) -> None:
    """What must be a text with something in it is refused by its name."""
    assert refusal(encoded(**{name: value})).field == name


@pytest.mark.parametrize("name", ["event_id", "aggregate_id", "event_type"])
def test_missing_texts(name: str) -> None:
    """What must be there is refused by its name when it is not."""
    assert refusal(encoded(name)).field == name


@pytest.mark.parametrize("name", ["event_version", "tenant_id"])
@pytest.mark.parametrize(
    "source",
    [
        "1.0",
        '"1"',
        "true",
        "1e2",
        "9223372036854775808",
        "[]",
        pytest.param("1" * 5000, id="long"),
    ],
)
def test_bad_numbers(name: str, source: str) -> None:
    """Numbers are whole, of 64 bits, and not in quotes."""
    data = encoded(**{name: "?"}).replace(b'"?"', source.encode())
    assert refusal(data).field == name


@pytest.mark.parametrize("source", ["0", "-0", "-1", "null"])
def test_bad_versions(source: str) -> None:
    """A version is 1 or more."""
    data = encoded(event_version="?").replace(b'"?"', source.encode())
    assert refusal(data).field == "event_version"


def test_missing_version() -> None:
    """A version must be there: no version is version 0."""
    assert refusal(encoded("event_version")).field == "event_version"


@pytest.mark.parametrize(
    "value", ["", "2026-08-08T13:02:28", "2026-08-08 13:02:28Z", 1_786_194_148, "now"]
)
def test_bad_timestamps(value: object) -> None:
    """A timestamp is RFC 3339 with a zone."""
    assert refusal(encoded(timestamp=value)).field == "timestamp"


@pytest.mark.parametrize("data", [encoded("payload"), encoded(payload=None)])
def test_no_payload(data: bytes) -> None:
    """A payload must be there, and null is none."""
    assert refusal(data).field == "payload"


def test_illegal_aggregate_id() -> None:
    """What may not be built may not be read either."""
    assert refusal(encoded(aggregate_id="a b")).field == "aggregate_id"


def test_lone_surrogate() -> None:
    """An escape that stands for half a character is refused in a text of ours."""
    data = encoded(event_type="?").replace(b'"?"', rb'"\ud800"')
    assert refusal(data).field == "event_type"
    data = encoded(payload="?").replace(b'"?"', rb'"\ud800"')
    assert Envelope.from_bytes(data).payload == rb'"\ud800"'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"a"',
        b"{",
        b"{,}",
        b"{}}",
        b"{} x",
        b'{"a"',
        b'{"a" 1}',
        b'{"a":}',
        b'{"a":1',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b"{'a':1}",
        b"{a:1}",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\n"}',
        b"\xff\xfe",
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf" + encoded(),
        encoded() + b"x",
        encoded() + b"\x00",
        encoded() + encoded(),
        encoded().decode().encode("utf-16"),
    ],
)
def test_not_an_object(data: bytes) -> None:
    """Anything but one JSON object in UTF-8 is refused as a whole."""
    assert refusal(data).field == "data"


def test_empty_object() -> None:
    """An object without members is JSON, but no envelope."""
    assert refusal(b" { } ").field == "event_id"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 300_000,
        encoded(payload="?").replace(b'"?"', b"[" * 501 + b"]" * 501),
        encoded(more="?").replace(b'"?"', b'{"a":[' * 260 + b"1" + b"]}" * 260),
        b'{"a":"' + b'\\"' * 1_000_000,
        b'{"' * 1_000_000,
        b"{" + b'"\\' * 1_000_000,
        b'{"a":' + b"1" * 1_000_000,
    ],
    ids=range(8),
)
def test_hostile(data: bytes) -> None:
    """Depth, width and unfinished texts end in our error, soon."""
    before = time.monotonic()
    assert refusal(data).field == "data"
    assert time.monotonic() - before < 5


def test_hostile_numbers() -> None:
    """A number of any length is the payload's own affair."""
    data = encoded(payload="?").replace(
        b'"?"', b"[1e999999999," + b"9" * 100_000 + b"]"
    )
    assert len(Envelope.from_bytes(data).payload) > 100_000


def test_deep_enough() -> None:
    """500 levels are fine, and brackets in texts are none."""
    data = encoded(payload="?").replace(b'"?"', b"[" * 500 + b"]" * 500)
    assert Envelope.from_bytes(data).payload == b"[" * 500 + b"]" * 500
    text = '[{\\"' * 1000
    assert Envelope.from_bytes(encoded(payload=text)).payload_json() == text


def test_size_limit() -> None:
    """What is larger than max_bytes is not even looked at."""
    data = encoded()
    assert Envelope.from_bytes(data, max_bytes=len(data)).event_id == "e"
    error = refusal(data, max_bytes=len(data) - 1)
    assert error.field == "data"
    assert "max_bytes" in str(error)


def test_no_size_limit() -> None:
    """With None everything is read, whatever its size."""
    data = encoded(payload="x" * 10_000_001)
    assert "max_bytes=10000000" in str(refusal(data))
    assert len(Envelope.from_bytes(data, max_bytes=None).payload) == 10_000_003


@pytest.mark.parametrize("limit", [0, -1, "9", 9.0, True, False, b"9"], ids=repr)
def test_bad_size_limits(limit: object) -> None:
    """A limit is a whole number from 1 up, and what is none is refused by its name."""
    error = refusal(encoded(), max_bytes=limit)
    assert error.field == "max_bytes"
    assert str(error).startswith(f"max_bytes is {limit!r}: pass a whole number from 1")


def test_subclass() -> None:
    """A subclass reads its own kind."""

    class Mine(Envelope):
        pass

    assert type(Mine.from_bytes(encoded())) is Mine
