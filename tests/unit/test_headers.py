"""Headers: what NATS can carry, and what callers may add."""

import enum

from typing import Any, cast

import pytest

from support.envelopes import envelope

from eventbus_sync.envelope.headers import check_extra_headers, check_header_values
from eventbus_sync.errors import EnvelopeError


class TestHeaderValues:
    @pytest.mark.parametrize(
        "value", ["", "a b", "é世\u00a0界", "OrderCreated", "\u2028x".strip()]
    )
    def test_fine(self, value: str) -> None:
        """Printable values and inner blanks pass."""
        check_header_values([("traceparent", value)])

    @pytest.mark.parametrize(
        "value", ["a\nb", "a\r\nb", "\t", "a\x00", "\x7f", "a\x85b", "\x1f"]
    )
    def test_control_characters(self, value: str) -> None:
        """Control characters are refused by the envelope's field."""
        built = envelope(trace_id=value)
        with pytest.raises(EnvelopeError, match="control character") as caught:
            check_header_values(built.headers())
        assert caught.value.field == "trace_id"

    @pytest.mark.parametrize("value", [" a", "a ", "\u00a0a", "a\u2029", " "])
    def test_outer_blanks(self, value: str) -> None:
        """Outer blanks, which nats-py strips, are refused by the field or the name."""
        with pytest.raises(EnvelopeError, match="begins or ends") as caught:
            check_header_values([("X-Event-Type", value)])
        assert caught.value.field == "event_type"
        with pytest.raises(EnvelopeError) as caught:
            check_header_values([("traceparent", value)])
        assert caught.value.field == "traceparent"


class TestExtraHeaders:
    def test_none(self) -> None:
        """No headers are no headers."""
        assert check_extra_headers(None) == check_extra_headers({}) == []

    def test_fine(self) -> None:
        """Tokens with any text pass, in the caller's order."""
        headers = {"traceparent": "00-1", "X-Mine": "", "b3!#$%&'*+-.^_`|~": "é"}
        assert check_extra_headers(headers) == list(headers.items())

    @pytest.mark.parametrize(
        "headers", ["a", [("a", "b")], 7, [], (), "", b"", 0, False, set()], ids=repr
    )
    def test_no_mapping(self, headers: Any) -> None:
        """Anything but a mapping is refused, also when it is empty."""
        with pytest.raises(EnvelopeError, match="mapping") as caught:
            check_extra_headers(headers)
        assert caught.value.field == "headers"

    def test_enum_members(self) -> None:
        """A member with a text counts as that text, as a name and as a value."""

        class Word(str, enum.Enum):  # noqa: UP042 - its str() is not its value
            NAME = "traceparent"
            VALUE = "00-1"

        class Plain(enum.Enum):
            A = "a"

        [(name, value)] = check_extra_headers({Word.NAME: Word.VALUE})
        assert f"{name}: {value}" == "traceparent: 00-1"
        assert type(name) is type(value) is str
        with pytest.raises(EnvelopeError, match="is a Plain"):
            check_extra_headers({"a": cast("str", Plain.A)})

    @pytest.mark.parametrize("name", ["", " ", "a b", "a:", "é", "a\n", 7, b"a", None])
    def test_names(self, name: Any) -> None:
        """A name that is no RFC 7230 token is refused."""
        with pytest.raises(EnvelopeError, match="token") as caught:
            check_extra_headers({name: "x"})
        assert caught.value.field == "headers"

    @pytest.mark.parametrize(
        "name",
        [
            *[
                name
                for name, _ in envelope(
                    trace_id="t", correlation_id="c", tenant_id=1
                ).headers()
            ],
            "x-event-id",
            "Nats-Msg-Id",
            "NATS-Expected-Stream",
            "nats-",
        ],
    )
    def test_ours(self, name: str) -> None:
        """Names that the bus sets itself are refused, whatever their case."""
        with pytest.raises(EnvelopeError, match="set by the bus itself") as caught:
            check_extra_headers({"fine": "x", name: "x"})
        assert caught.value.field == name

    @pytest.mark.parametrize("value", [None, 1, b"x", "\ud800"])
    def test_values(self, value: object) -> None:
        """A value is text that UTF-8 can hold."""
        with pytest.raises(EnvelopeError, match="header a ") as caught:
            check_extra_headers({"a": cast("str", value)})
        assert caught.value.field == "a"
