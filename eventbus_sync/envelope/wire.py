"""The envelope's JSON, byte for byte as the Go SDK writes and reads it."""

import re

from typing import Any, Final

from eventbus_sync.envelope import timestamp as _timestamp
from eventbus_sync.envelope.json_text import BAD_JSON, members
from eventbus_sync.envelope.payload import MISSING, CheckedJson
from eventbus_sync.errors import EnvelopeError


# What a member is when it is absent or null.
_ABSENT: Final[dict[str, Any]] = {
    "event_id": "",
    "aggregate_id": "",
    "event_type": "",
    "event_version": 0,
    "timestamp": _timestamp.ZERO,
    "trace_id": "",
    "correlation_id": "",
    "tenant_id": 0,
    "payload": MISSING,
}

_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Beyond what JSON demands, Go escapes what HTML and JavaScript stumble over.
_special: Final = re.compile(r'[\x00-\x1f"\\<>&\u2028\u2029]').sub
_integer: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,18})").fullmatch


def escaped(text: str) -> str:
    """Return *text* as it stands between the quotes of a JSON string."""
    return _special(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return _SHORT.get(character) or f"\\u{ord(character):04x}"


def context(trace_id: str, correlation_id: str, tenant_id: int) -> str:
    """Return the members that are left out when they are empty or 0."""
    text = ""
    if trace_id:
        text = f',"trace_id":"{escaped(trace_id)}"'
    if correlation_id:
        text += f',"correlation_id":"{escaped(correlation_id)}"'
    if tenant_id:
        text += f',"tenant_id":{tenant_id}'
    return text


def read(data: bytes | bytearray | memoryview, max_bytes: int | None) -> dict[str, Any]:
    """
    Return the members of an encoded envelope, as arguments for ``Envelope``.

    As Go reads it: names match whatever their case, unknown ones are ignored, the
    last of several wins, null is the same as absent. What the values say is not
    looked at.

    Raises:
        EnvelopeError: it is larger than *max_bytes*, or not one JSON object in UTF-8,
            or a member has the wrong type, or *max_bytes* is no limit.
    """
    if max_bytes is not None and not _is_limit(max_bytes):
        msg = (
            f"max_bytes is {max_bytes!r}: pass a whole number from 1 up, or None to "
            "read any size"
        )
        raise EnvelopeError(msg, field="max_bytes")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        msg = f"an encoded envelope is bytes, not {type(data).__name__}: pass its bytes"
        raise EnvelopeError(msg, field="data")
    raw = bytes(data)
    if max_bytes is not None and len(raw) > max_bytes:
        msg = (
            f"the encoded envelope has {len(raw)} bytes, more than max_bytes={max_bytes}"
            ": pass a larger max_bytes if you trust where it comes from"
        )
        raise EnvelopeError(msg, field="data")
    if raw.startswith(b"\xef\xbb\xbf"):
        msg = "the encoded envelope begins with a byte order mark: remove it"
        raise EnvelopeError(msg, field="data")
    try:
        found = list(members(raw.decode()))
    except BAD_JSON as error:
        msg = f"this is not an encoded envelope: {error}; pass one JSON object in UTF-8"
        raise EnvelopeError(msg, field="data") from error
    fields = _ABSENT.copy()
    for key, value, source in found:
        name = key.lower()
        if name in fields:
            fields[name] = _value(name, value, source)
    return fields


def _is_limit(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _value(name: str, value: Any, source: str) -> Any:
    """Return a member in the type that the constructor wants."""
    absent = _ABSENT[name]
    if name == "payload":
        return CheckedJson(source.encode())
    if value is None:
        return absent
    if isinstance(absent, int):
        if _integer(source) is not None:
            return int(source)
        wanted = "a whole number of at most 64 bits"
    else:
        if isinstance(value, str):
            return value
        wanted = "a string"
    msg = f"{name} is {source[:40]} in the encoded envelope: it must be {wanted}"
    raise EnvelopeError(msg, field=name)
