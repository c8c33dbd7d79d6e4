"""Headers: the names that are ours, and what callers may add beside them."""

import re

from collections.abc import Iterable, Mapping
from typing import Final

from eventbus_sync.errors import EnvelopeError


EVENT_ID: Final = "X-Event-ID"
AGGREGATE_ID: Final = "X-Aggregate-ID"
EVENT_VERSION: Final = "X-Event-Version"
EVENT_TYPE: Final = "X-Event-Type"
TRACE_ID: Final = "X-Trace-ID"
CORRELATION_ID: Final = "X-Correlation-ID"
TENANT_ID: Final = "X-Tenant-ID"

#: Which field of an envelope a header of ours carries.
FIELD_OF: Final = {
    EVENT_ID: "event_id",
    AGGREGATE_ID: "aggregate_id",
    EVENT_VERSION: "event_version",
    EVENT_TYPE: "event_type",
    TRACE_ID: "trace_id",
    CORRELATION_ID: "correlation_id",
    TENANT_ID: "tenant_id",
}

_OURS: Final = frozenset(name.lower() for name in FIELD_OF)
# An RFC 7230 token: what nats-py accepts as a name. Kafka would take any text.
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


def check_header_values(headers: Iterable[tuple[str, str]]) -> None:
    """
    Refuse values that a NATS client would silently change.

    Raises:
        EnvelopeError: a value holds a control character, or begins or ends with a
            blank. Its ``field`` is the envelope's field, or the header's name.
    """
    for name, value in headers:
        if value.isprintable() and value == value.strip():
            continue
        if _CONTROL(value) is not None:
            problem = "holds a control character"
        elif value != value.strip():
            problem = "begins or ends with a blank"
        else:
            continue
        field = FIELD_OF.get(name, name)
        msg = (
            f"{field} {problem}, which a NATS header cannot carry: remove it from "
            f"{value[:40]!r}"
        )
        raise EnvelopeError(msg, field=field)


def check_extra_headers(headers: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """
    Return a caller's own headers as a list, in the caller's order.

    Raises:
        EnvelopeError: it is no mapping, a name is not a token or is one of ours, or a
            value is not text. Its ``field`` is ``headers`` or the header's name.
    """
    if headers is None:
        return []
    if not isinstance(headers, Mapping):
        msg = (
            f"headers is a {type(headers).__name__}: pass a mapping of names to texts, "
            'such as {"traceparent": "…"}'
        )
        raise EnvelopeError(msg, field="headers")
    pairs = []
    for given, said in headers.items():
        name = _checked_name(given)
        pairs.append((name, _checked_value(name, said)))
    return pairs


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or _NAME(name) is None:
        msg = (
            f"header name {str(name)[:40]!r} is not a token: use letters, digits and "
            "!#$%&'*+-.^_`|~ only"
        )
        raise EnvelopeError(msg, field="headers")
    name = str.__str__(name)  # an enum member's own str() may say something else
    lower = name.lower()
    if lower in _OURS or lower.startswith("nats-"):
        msg = f"header {name} is set by the bus itself: choose another name"
        raise EnvelopeError(msg, field=name)
    return name


def _checked_value(name: str, value: object) -> str:
    if not isinstance(value, str):
        msg = f"header {name} is a {type(value).__name__}: pass its value as a str"
        raise EnvelopeError(msg, field=name)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            msg = f"header {name} cannot be encoded as UTF-8: {error}; correct the text"
            raise EnvelopeError(msg, field=name) from error
    return str.__str__(value)
