"""Members of enums: on the wire they are their values, or they are refused."""

import enum

from decimal import Decimal

import pytest

from support.envelopes import envelope, refusal

from eventbus_sync.envelope import payload as _payload


# Their own str() and format() are "Word.CREATED" and so on, as is usual for members.
class Word(str, enum.Enum):  # noqa: UP042 - a StrEnum's str() is its value
    CREATED = "created"
    MOMENT = "2026-08-08T13:02:28Z"


class Size(int, enum.Enum):
    TWO = 2
    MOMENT = 1_500_000_000


class Number(enum.IntEnum):
    TWO = 2


class Ratio(float, enum.Enum):
    HALF = 0.5


class Price(Decimal, enum.Enum):
    LOW = "1.10"


class Colour(enum.Enum):
    RED = "red"


def test_texts() -> None:
    """A member with a text counts as that text everywhere."""
    names = ["aggregate_id", "event_type", "trace_id", "correlation_id"]
    built = envelope(**dict.fromkeys(names, Word.CREATED))
    named = envelope(**dict.fromkeys(names, Word.CREATED), event_id=Word.CREATED)
    assert built.event_id.startswith("created:created:1:")
    assert named.event_id == "created"
    for one in (built, named):
        assert b"Word" not in one.to_bytes()
        assert b'"event_type":"created"' in one.to_bytes()
        assert one.headers()[1] == ("X-Aggregate-ID", "created")
        assert {type(value) for _, value in one.headers()} == {str}
        assert {type(getattr(one, name)) for name in names} == {str}


@pytest.mark.parametrize("two", [Size.TWO, Number.TWO], ids=["Enum", "IntEnum"])
def test_numbers(two: int) -> None:
    """A member with a number counts as that number everywhere."""
    built = envelope(event_version=two, tenant_id=two)
    assert type(built.event_version) is type(built.tenant_id) is int
    assert b'"event_version":2,' in built.to_bytes()
    assert b'"tenant_id":2,' in built.to_bytes()
    assert built.event_id.startswith("order-1:OrderCreated:2:")
    assert built.headers()[2] == ("X-Event-Version", "2")
    assert built.headers()[-1] == ("X-Tenant-ID", "2")


def test_timestamp() -> None:
    """A timestamp may be a member too, with a text or with nanoseconds."""
    assert envelope(timestamp=Word.MOMENT).timestamp_text == Word.MOMENT.value
    built = envelope(timestamp=Size.MOMENT)
    assert built.timestamp_text == "1970-01-01T00:00:01.5Z"
    assert built.event_id.startswith("order-1:OrderCreated:1:1500000000:")
    assert envelope(timestamp=Size.TWO).unix_nanoseconds == 2


@pytest.mark.parametrize(
    "field",
    ["event_id", "aggregate_id", "event_type", "event_version", "tenant_id"],
)
def test_member_without_text_or_number(field: str) -> None:
    """A member that is neither itself is refused, not spelt out."""
    error = refusal(**{field: Colour.RED})
    assert error.field == field
    assert f"{field} is a Colour: pass " in str(error)


def test_in_a_payload() -> None:
    """In a payload every member is its value, as a name as well."""
    members = [Word.CREATED, Size.TWO, Ratio.HALF, Price.LOW, Colour.RED]
    values = ["created", 2, 0.5, "1.10", "red"]
    assert envelope(payload=members).payload_json() == values
    built = envelope(payload={Word.CREATED: 1, Size.TWO: 2, Ratio.HALF: 3})
    assert built.payload == b'{"created":1,"2":2,"0.5":3}'


def test_in_a_payload_without_the_c_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without the C encoder writes the same."""
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    chunks = _payload._encoder(_payload._plain)
    members = {Size.TWO: [Word.CREATED, Size.TWO, Ratio.HALF, Price.LOW, Colour.RED]}
    assert "".join(chunks(members, 0)) == '{"2":["created",2,0.5,"1.10","red"]}'
