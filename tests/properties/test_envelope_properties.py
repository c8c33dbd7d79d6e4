"""What holds for every envelope, and for every byte string that may be none."""

import json

from datetime import UTC, datetime
from typing import Any

import attrs

from hypothesis import example, given
from hypothesis import strategies as st
from support.strategies import (
    aggregate_ids,
    envelopes,
    json_values,
    moments,
    names,
    nanoseconds,
    payloads,
    raw_payloads,
    texts,
    versions,
)

from eventbus_sync.envelope import Envelope
from eventbus_sync.envelope.headers import check_extra_headers, check_header_values
from eventbus_sync.errors import EnvelopeError


@given(envelopes())
def test_round_trip(envelope: Envelope) -> None:
    """Whatever can be built reads back as itself, and is written the same again."""
    data = envelope.to_bytes()
    again = Envelope.from_bytes(data)
    assert again == envelope
    assert again.to_bytes() == data
    assert again.headers() == envelope.headers()


@given(aggregate_ids, names, versions)
def test_made_ids(aggregate_id: str, event_type: str, version: int) -> None:
    """A made id says what the event is, whatever its type is called, and reads back."""
    envelope = Envelope(aggregate_id, event_type, version, 1)
    start = f"{aggregate_id}:{event_type}:{version}:{envelope.unix_nanoseconds}:"
    assert envelope.event_id.startswith(start)
    assert Envelope.from_bytes(envelope.to_bytes()) == envelope


@given(envelopes())
def test_any_json_reader_agrees(envelope: Envelope) -> None:
    """The bytes are JSON whose members say what the envelope says, in their order."""
    members = json.loads(envelope.to_bytes())
    payload = members.pop("payload")
    assert payload == envelope.payload_json()
    expected = {
        "event_id": envelope.event_id,
        "aggregate_id": envelope.aggregate_id,
        "event_type": envelope.event_type,
        "event_version": envelope.event_version,
        "timestamp": envelope.timestamp_text,
        "trace_id": envelope.trace_id,
        "correlation_id": envelope.correlation_id,
        "tenant_id": envelope.tenant_id,
    }
    optional = ("trace_id", "correlation_id", "tenant_id")
    kept = {k: v for k, v in expected.items() if v or k not in optional}
    assert list(members.items()) == list(kept.items())


@given(envelopes())
def test_copies_by_parts(envelope: Envelope) -> None:
    """An envelope built again from its parts is the same."""
    assert attrs.evolve(envelope) == envelope


@given(raw_payloads())
def test_raw_payload_is_verbatim(raw: bytes) -> None:
    """Raw JSON stays as it is, on the way out and on the way in."""
    if raw.strip() != b"null":
        envelope = Envelope("a", "E", 1, raw)
        assert envelope.payload == raw
        again = Envelope.from_bytes(envelope.to_bytes())
        assert again.payload == raw.strip(b" \t\r\n")


@given(payloads)
def test_encoded_payload(payload: Any) -> None:
    """A value is written as the standard library writes it compactly."""
    expected = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    assert Envelope("a", "E", 1, payload).payload == expected.encode()


@given(moments)
def test_datetimes(moment: datetime) -> None:
    """A datetime comes back as the same moment in the same zone."""
    back = Envelope("a", "E", 1, 1, timestamp=moment).timestamp
    assert back == moment
    assert back.utcoffset() == moment.utcoffset()


@given(nanoseconds)
def test_nanoseconds(number: int) -> None:
    """Nanoseconds come back to the last one, and the text sorts like the number."""
    envelope = Envelope("a", "E", 1, 1, timestamp=number)
    assert envelope.unix_nanoseconds == number
    assert envelope.timestamp.tzinfo is UTC
    text = Envelope("a", "E", 1, 1, timestamp=envelope.timestamp_text)
    assert text.timestamp_text == envelope.timestamp_text


@given(st.binary() | texts.map(str.encode))
@example(b"[" * 100_000)
@example(b'{"payload":' * 100_000)
def test_arbitrary_bytes(data: bytes) -> None:
    """Bytes from anywhere are an envelope or an EnvelopeError, nothing else."""
    try:
        Envelope.from_bytes(data)
    except EnvelopeError as error:
        assert error.field  # noqa: PT017 - either way is fine


@given(envelopes(), st.data())
def test_damaged_bytes(envelope: Envelope, data: st.DataObject) -> None:
    """Good bytes with a cut or a foreign piece are an envelope or an EnvelopeError."""
    good = envelope.to_bytes()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 20)))
    piece = data.draw(
        st.binary(max_size=5) | st.sampled_from([b"null", b"{", b'"', b"\\"])
    )
    try:
        Envelope.from_bytes(good[:start] + piece + good[end:])
    except EnvelopeError as error:
        assert error.field  # noqa: PT017 - either way is fine


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            [field.name for field in attrs.fields(Envelope) if field.init]
            + ["timestamp", "Event_ID", "other"],
            json_values,
        ),
    )
)
def test_members_of_any_type(members: dict[str, Any]) -> None:
    """Members of any type are an envelope or an EnvelopeError that names one."""
    try:
        Envelope.from_bytes(json.dumps(members).encode())
    except EnvelopeError as error:
        assert error.field in {*members, "event_id"} | {  # noqa: PT017
            "aggregate_id",
            "event_type",
            "event_version",
            "payload",
        }


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.lists(st.integers())
)


@given(st.lists(anything, min_size=9, max_size=9))
def test_arguments_of_any_type(values: list[Any]) -> None:
    """Arguments of any type are an envelope or an EnvelopeError that names one."""
    names = (
        "aggregate_id",
        "event_type",
        "event_version",
        "payload",
        "event_id",
        "timestamp",
        "trace_id",
        "correlation_id",
        "tenant_id",
    )
    try:
        envelope = Envelope(**dict(zip(names, values, strict=True)))
    except EnvelopeError as error:
        assert error.field in names  # noqa: PT017 - either way is fine
    else:
        assert Envelope.from_bytes(envelope.to_bytes()) == envelope


@given(st.text())
def test_header_values(value: str) -> None:
    """A value passes the check exactly when a NATS client would send it unchanged."""
    unchanged = value == value.strip() and not any(
        ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in value
    )
    try:
        check_header_values([("x", value)])
    except EnvelopeError:
        assert not unchanged
    else:
        assert unchanged


@given(st.dictionaries(st.text() | st.integers(), st.text() | st.none()))
def test_extra_headers(headers: dict[Any, Any]) -> None:
    """Extra headers come back as they are, or are refused."""
    try:
        assert check_extra_headers(headers) == list(headers.items())
    except EnvelopeError as error:
        assert error.field  # noqa: PT017 - either way is fine
