"""What an envelope accepts, its bytes on the wire, and that it is a value."""

import copy
import json
import pickle

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from support.envelopes import envelope, refusal

from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import EnvelopeError


VECTORS = Path(__file__).parents[1] / "vectors"
GOLDEN = (VECTORS / "envelope.jsonl").read_bytes().splitlines()
ID = "01910000-0000-7000-8000-000000000000"


class TestWireFormat:
    def test_golden_plain(self) -> None:
        """The Go SDK's first golden line comes out of its parts, byte for byte."""
        built = envelope(event_id=ID, timestamp="2026-08-08T13:02:28.123456789+08:00")
        assert GOLDEN[0] == built.to_bytes()

    def test_golden_with_context_and_raw_payload(self) -> None:
        """Optional members stand in their order, raw payload bytes stay verbatim."""
        built = envelope(
            event_id=ID,
            timestamp=datetime(2026, 8, 8, 13, 2, 28, 120_000, UTC),
            trace_id="t",
            correlation_id="c",
            tenant_id=7,
            payload=b'{ "b" : 2}',
        )
        assert GOLDEN[1] == built.to_bytes()

    def test_golden_escapes(self) -> None:
        """Texts are escaped as Go escapes them."""
        built = envelope(
            event_id=ID,
            event_type='A<b>&"c"\\\u2028\x00\x1f',
            timestamp="2026-08-08T13:02:28.12Z",
            trace_id="t",
            correlation_id="c",
            tenant_id=7,
            payload=b'{ "b" : 2}',
        )
        assert GOLDEN[2] == built.to_bytes()

    @pytest.mark.parametrize(
        ("text", "wire"),
        [
            ('"\\', r"\"\\"),
            ("\n\r\t", r"\n\r\t"),
            ("\b\f\x0b", r"\u0008\u000c\u000b"),
            ("<>&", r"\u003c\u003e\u0026"),
            ("\u2028\u2029", r"\u2028\u2029"),
            ("/'\x7f\x85é世🎈", "/'\x7f\x85é世🎈"),
        ],
    )
    def test_every_text_is_escaped_alike(self, text: str, wire: str) -> None:
        """The five HTML and line separators are escaped, other text is raw UTF-8."""
        text, wire = "x" + text, "x" + wire
        built = envelope(
            event_id=text, event_type=text, trace_id=text, correlation_id=text
        )
        encoded = built.to_bytes().decode()
        for member in ("event_id", "event_type", "trace_id", "correlation_id"):
            assert f'"{member}":"{wire}"' in encoded

    def test_made_event_id_is_escaped_too(self) -> None:
        """An event type with special characters gives an event id that reads back."""
        built = envelope(event_type="a<b")
        assert built.event_id.startswith("order-1:a<b:1:")
        assert Envelope.from_bytes(built.to_bytes()) == built

    def test_long_event_type(self) -> None:
        """A long event type is encoded like a short one."""
        built = envelope(event_type="<" + "x" * 200)
        assert json.loads(built.to_bytes())["event_type"] == "<" + "x" * 200

    def test_negative_tenant(self) -> None:
        """A tenant id below zero is one, as in Go."""
        assert b'"tenant_id":-3,' in envelope(tenant_id=-3).to_bytes()

    def test_headers_of_a_bare_envelope(self) -> None:
        """Four headers in their order, versions in decimal."""
        built = envelope(event_version=12)
        assert built.headers() == [
            ("X-Event-ID", built.event_id),
            ("X-Aggregate-ID", "order-1"),
            ("X-Event-Version", "12"),
            ("X-Event-Type", "OrderCreated"),
        ]

    def test_headers_of_a_full_envelope(self) -> None:
        """The optional three follow the four when they are set."""
        built = envelope(trace_id="t", correlation_id="c", tenant_id=7)
        assert built.headers()[4:] == [
            ("X-Trace-ID", "t"),
            ("X-Correlation-ID", "c"),
            ("X-Tenant-ID", "7"),
        ]


class TestFields:
    @pytest.mark.parametrize("field", ["event_id", "aggregate_id", "event_type"])
    @pytest.mark.parametrize("blank", ["", " ", "\t\n"])
    def test_blank(self, field: str, blank: str) -> None:
        """What must not be blank is refused when it is, by name."""
        error = refusal(**{field: blank})
        assert error.field == field
        assert f"{field} is blank" in str(error)

    @pytest.mark.parametrize(
        "field",
        ["event_id", "aggregate_id", "event_type", "trace_id", "correlation_id"],
    )
    @pytest.mark.parametrize("value", [7, b"x", ["x"], True])
    def test_text_of_another_type(self, field: str, value: object) -> None:
        """What must be text is refused when it is not, with the type it has."""
        error = refusal(**{field: value})
        assert error.field == field
        assert f"{field} is a {type(value).__name__}: pass a str" in str(error)

    @pytest.mark.parametrize(
        "field", ["aggregate_id", "event_type", "trace_id", "correlation_id"]
    )
    def test_none_is_no_text(self, field: str) -> None:
        """Only the event id and the timestamp may be None."""
        assert refusal(**{field: None}).field == field

    @pytest.mark.parametrize("value", ["1", 1.0, True, None])
    def test_version_of_another_type(self, value: object) -> None:
        """A version is an int, and True is none."""
        error = refusal(event_version=value)
        assert error.field == "event_version"
        assert type(value).__name__ in str(error)

    @pytest.mark.parametrize("value", [0, -1, 2**63])
    def test_version_out_of_range(self, value: int) -> None:
        """A version is from 1 to what Go's int64 holds."""
        assert refusal(event_version=value).field == "event_version"

    @pytest.mark.parametrize(
        "value", ["7", 7.0, False, True, None, 2**63, -(2**63) - 1]
    )
    def test_tenant(self, value: object) -> None:
        """A tenant id is an int of 64 bits; False is not 0 here."""
        assert refusal(tenant_id=value).field == "tenant_id"

    def test_largest_numbers(self) -> None:
        """Go's largest and smallest numbers pass."""
        built = envelope(event_version=2**63 - 1, tenant_id=-(2**63))
        assert Envelope.from_bytes(built.to_bytes()) == built

    @pytest.mark.parametrize(
        "legal", [pytest.param("a" * 256, id="256"), "AZaz09:_-./", "/"]
    )
    def test_legal_aggregate_id(self, legal: str) -> None:
        """Up to 256 of the allowed characters pass."""
        assert envelope(aggregate_id=legal).aggregate_id == legal

    @pytest.mark.parametrize(
        ("illegal", "says"),
        [
            pytest.param("a" * 257, "257 bytes", id="257"),
            ("a b", "' ' at position 1"),
            (" a ", "' ' at position 0"),
            ("a\n", "position 1"),
            ("é", "'é'"),
        ],
    )
    def test_illegal_aggregate_id(self, illegal: str, says: str) -> None:
        """Everything else is refused, and the message says where it is."""
        error = refusal(aggregate_id=illegal)
        assert error.field == "aggregate_id"
        assert says in str(error)

    def test_order_of_checks(self) -> None:
        """The first thing wrong in Go's order is what is reported."""
        wrong: dict[str, Any] = {
            "event_id": " ",
            "aggregate_id": "",
            "event_type": "",
            "event_version": 0,
            "payload": None,
        }
        for field in ["event_id", "aggregate_id", "event_type", "event_version"]:
            assert refusal(**wrong).field == field
            del wrong[field]
        wrong["aggregate_id"] = "not legal"
        assert refusal(**wrong).field == "payload"
        del wrong["payload"]
        assert refusal(**wrong).field == "aggregate_id"

    @pytest.mark.parametrize(
        "field", ["event_id", "event_type", "trace_id", "correlation_id"]
    )
    def test_lone_surrogate(self, field: str) -> None:
        """Half of a surrogate pair is refused by the field that holds it."""
        error = refusal(**{field: "x\ud800"})
        assert error.field == field
        assert "surrogates not allowed" in str(error)

    def test_errors_are_value_errors(self) -> None:
        """Code that knows nothing of this library can catch a ValueError."""
        assert isinstance(refusal(event_version=0), ValueError)


class TestValue:
    def test_frozen(self) -> None:
        """An envelope cannot be changed, nor given new attributes."""
        built = envelope()
        for name in ("event_id", "payload", "new"):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(built, name, "x")
        assert not hasattr(built, "__dict__")

    @pytest.mark.parametrize("how", ["copy", "deepcopy", 2, 3, 4, 5])
    def test_copies(self, how: str | int) -> None:
        """Copies and pickles are equal, also in hash and bytes."""
        built = envelope(trace_id="t", tenant_id=7)
        if isinstance(how, int):
            twin = pickle.loads(pickle.dumps(built, protocol=how))
        else:
            twin = getattr(copy, how)(built)
        assert twin == built
        assert hash(twin) == hash(built)
        assert twin.to_bytes() == built.to_bytes()

    def test_equality(self) -> None:
        """Equal parts make equal envelopes; any part makes a difference."""
        parts = {"event_id": "e", "timestamp": 1}
        assert envelope(**parts) == envelope(**parts)
        changes: list[dict[str, Any]] = [
            {"event_id": "f"},
            {"timestamp": 2},
            {"payload": []},
            {"tenant_id": 1},
        ]
        for change in changes:
            assert envelope(**parts) != envelope(**{**parts, **change})

    def test_evolve(self) -> None:
        """attrs.evolve changes a part, checks the whole and keeps the rest."""
        built = envelope(timestamp="2026-08-08T13:02:28.123456789+08:00")
        changed = attrs.evolve(built, tenant_id=7)
        assert b'"tenant_id":7' in changed.to_bytes()
        assert changed.timestamp_text == built.timestamp_text
        assert changed.event_id == built.event_id
        with pytest.raises(EnvelopeError):
            attrs.evolve(built, event_version=0)

    def test_repr(self) -> None:
        """The repr names the parts and cuts a long payload short."""
        assert "payload=b'{\"a\":1}'" in repr(envelope())
        shown = repr(envelope(payload="x" * 10_000))
        assert "(10002 bytes)" in shown
        assert len(shown) < 500

    def test_subclass(self) -> None:
        """A subclass with a constructor of its own works."""

        class OrderCreated(Envelope):
            def __init__(self, number: int) -> None:
                super().__init__(f"order-{number}", "OrderCreated", 1, number)

        assert OrderCreated(5).aggregate_id == "order-5"
