"""
The envelope: one domain event, its bytes on the wire and its headers.

An ``Envelope`` is checked completely when it is built, so that whatever holds one can
publish it. It knows no broker. Its bytes are the Go SDK's, in both directions.
"""

from datetime import datetime
from typing import Any, Final, Self

import attrs

from eventbus_sync.envelope import fields as _fields
from eventbus_sync.envelope import headers as _headers
from eventbus_sync.envelope import timestamp as _timestamp
from eventbus_sync.envelope import wire as _wire
from eventbus_sync.envelope.event_id import nonce
from eventbus_sync.envelope.headers import check_extra_headers, check_header_values
from eventbus_sync.envelope.payload import MISSING, JsonDefault, from_json, to_json


__all__ = ["Envelope", "JsonDefault", "check_extra_headers", "check_header_values"]

_SHOWN: Final = 80
_NO_ID: Final = ""
_NO_TENANT: Final = 0


def _shortened(payload: bytes) -> str:
    """Return a payload for ``repr``, where a long one would bury everything else."""
    if len(payload) <= _SHOWN:
        return repr(payload)
    return f"{payload[:_SHOWN]!r}… ({len(payload)} bytes)"


@attrs.frozen(init=False)
class Envelope:
    """
    One domain event, checked and encoded when it is built, and immutable.

    Args:
        aggregate_id: what the event belongs to: at most 256 of ``A-Z a-z 0-9 : _ - .
            /``. Events with one aggregate id keep their order.
        event_type: what happened, such as ``OrderCreated``.
        event_version: the version of the payload's form, 1 or more.
        payload: ``bytes`` are raw JSON and kept as they are. Any other value is
            encoded at once, so that changing it later changes nothing here; Decimal,
            UUID, dates, times and enums have a JSON form. Null is refused.
        event_id: unique for each event; None makes one.
        timestamp: when it happened: an aware ``datetime``, RFC 3339 text or whole
            Unix nanoseconds; None is now.
        trace_id: of the trace that the event belongs to; ``""`` is none.
        correlation_id: of what the event belongs together with; ``""`` is none.
        tenant_id: whose event it is; 0 is nobody's.
        json_default: called with what in the payload has no JSON form; returns what
            has, or raises TypeError to leave it to the built-in rules.

    Attributes:
        timestamp_text: the timestamp on the wire, RFC 3339 with nanoseconds.
        payload: the raw JSON.

    Raises:
        EnvelopeError: something is wrong; its ``field`` names what.
    """

    event_id: str
    aggregate_id: str
    event_type: str
    event_version: int
    timestamp_text: str = attrs.field(alias="timestamp")  # for attrs.evolve
    trace_id: str
    correlation_id: str
    tenant_id: int
    payload: bytes = attrs.field(repr=_shortened)
    # All of the JSON that comes before the payload. To build it is to find out
    # whether the texts can be encoded; it is kept because publishing needs it.
    _head: bytes = attrs.field(init=False, eq=False, repr=False)

    def __init__(  # noqa: PLR0913 - the parts of the wire format
        self,
        aggregate_id: str,
        event_type: str,
        event_version: int = 1,
        payload: Any = MISSING,
        *,
        event_id: str | None = None,
        timestamp: datetime | str | int | None = None,
        trace_id: str = "",
        correlation_id: str = "",
        tenant_id: int = 0,
        json_default: JsonDefault | None = None,
    ) -> None:
        # This order is Go's, so that both say the same of one bad envelope.
        if event_id is not None:
            event_id = _fields.not_blank("event_id", event_id)
        # Legal says that it is not blank, at the price of one look at it.
        legal = type(aggregate_id) is str and _fields.is_legal(aggregate_id)
        if not legal:
            aggregate_id = _fields.not_blank("aggregate_id", aggregate_id)
        event_type, quoted_type = _fields.event_type(event_type)
        if type(event_version) is not int or not 0 < event_version <= _fields.MAX_INT64:
            event_version = _fields.version(event_version)
        raw = to_json(payload, json_default)
        if not legal and not _fields.is_legal(aggregate_id):
            raise _fields.illegal(aggregate_id)
        if timestamp is None:
            moment, nanoseconds = _timestamp.now()
        else:
            moment, nanoseconds = _timestamp.normalised(timestamp)
        context = ""
        # By identity: False and 0.0 equal 0, but are no tenants.
        if not (trace_id is correlation_id is _NO_ID and tenant_id is _NO_TENANT):
            trace_id = _fields.text("trace_id", trace_id)
            correlation_id = _fields.text("correlation_id", correlation_id)
            tenant_id = _fields.int64("tenant_id", tenant_id)
            context = _wire.context(trace_id, correlation_id, tenant_id)

        if event_id is None:
            tail = f"{event_version}:{nanoseconds}:{nonce()}"
            event_id = quoted_id = f"{aggregate_id}:{event_type}:{tail}"
            if quoted_type is not event_type:
                quoted_id = f"{aggregate_id}:{quoted_type}:{tail}"
        else:
            quoted_id = _wire.escaped(event_id)
        head = (
            f'{{"event_id":"{quoted_id}","aggregate_id":"{aggregate_id}",'
            f'"event_type":"{quoted_type}","event_version":{event_version},'
            f'"timestamp":"{moment}"{context},"payload":'
        )
        try:
            encoded = head.encode()
        except UnicodeEncodeError as error:
            raise _fields.not_unicode(
                error,
                event_type=event_type,  # before the event id, which may repeat it
                event_id=event_id,
                trace_id=trace_id,
                correlation_id=correlation_id,
            ) from error
        _set_event_id(self, event_id)
        _set_aggregate_id(self, aggregate_id)
        _set_event_type(self, event_type)
        _set_event_version(self, event_version)
        _set_timestamp_text(self, moment)
        _set_trace_id(self, trace_id)
        _set_correlation_id(self, correlation_id)
        _set_tenant_id(self, tenant_id)
        _set_payload(self, raw)
        _set_head(self, encoded)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        max_bytes: int | None = 10_000_000,
    ) -> Self:
        """
        Return the envelope that Go or Python encoded, keeping its payload verbatim.

        Args:
            data: what ``to_bytes`` returned. It may come from anywhere: what it can
                do is take time and memory in proportion to its size.
            max_bytes: the largest size to read; None is any size.

        Raises:
            EnvelopeError: it is too large, or not a valid envelope, or *max_bytes* is
                no limit.
        """
        return cls(**_wire.read(data, max_bytes))

    def to_bytes(self) -> bytes:
        """Return the event as it goes on the wire: compact JSON, as Go writes it."""
        return self._head + self.payload + b"}"

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that accompany the event, in their fixed order."""
        headers = [
            (_headers.EVENT_ID, self.event_id),
            (_headers.AGGREGATE_ID, self.aggregate_id),
            (_headers.EVENT_VERSION, str(self.event_version)),
            (_headers.EVENT_TYPE, self.event_type),
        ]
        if self.trace_id:
            headers.append((_headers.TRACE_ID, self.trace_id))
        if self.correlation_id:
            headers.append((_headers.CORRELATION_ID, self.correlation_id))
        if self.tenant_id:
            headers.append((_headers.TENANT_ID, str(self.tenant_id)))
        return headers

    @property
    def timestamp(self) -> datetime:
        """The timestamp, cut to the microseconds that a ``datetime`` has."""
        return _timestamp.to_datetime(self.timestamp_text)

    @property
    def unix_nanoseconds(self) -> int:
        """The timestamp in full, as nanoseconds since 1970 in UTC."""
        return _timestamp.to_nanoseconds(self.timestamp_text)

    def payload_json(self) -> Any:
        """
        Return what the payload says, decoded anew in every call.

        Raises:
            EnvelopeError: Python cannot hold it, such as a number of 5,000 digits.
        """
        return from_json(self.payload)


# The slots' own setters: half the price of object.__setattr__ in a frozen class.
(
    _set_event_id,
    _set_aggregate_id,
    _set_event_type,
    _set_event_version,
    _set_timestamp_text,
    _set_trace_id,
    _set_correlation_id,
    _set_tenant_id,
    _set_payload,
    _set_head,
) = (getattr(Envelope, field.name).__set__ for field in attrs.fields(Envelope))
