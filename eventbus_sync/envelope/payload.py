"""Payloads: raw JSON is checked and kept, any other value is encoded at once."""

import contextlib
import json
import sys

from collections.abc import Callable, Iterable
from datetime import date, time
from enum import Enum
from json import encoder as _json_encoder
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn

from eventbus_sync.envelope.json_text import (
    BAD_JSON,
    MAX_DEPTH,
    check_depth,
    check_value,
)
from eventbus_sync.errors import EnvelopeError


#: Called with a value that JSON lacks; returns one that JSON has, or raises TypeError.
JsonDefault = Callable[[Any], Any]

#: Stands for a payload that was not given, since None is a value that was.
MISSING: Final = object()

# Each level takes two characters, so that short payloads need no look at their depth.
_ROOM_FOR_DEPTH: Final = 2 * MAX_DEPTH
# In CPython 3.11 it alone bounds how deep the C encoder goes, at 112 bytes of stack for
# each level: up to here a stack of 512 KiB is enough, and above no stack may be.
_SAFE_RECURSION: Final = 3000
_recursion_limit: Final = sys.getrecursionlimit
# As deep as the usual recursion limit lets the encoder go.
_MOST_LEVELS: Final = 1000
_SCALAR: Final = (str, int, float)
_RAW: Final = (bytes, bytearray, memoryview)

# What bad data makes encoders and hooks raise. Not simply Exception: the time limit
# that Celery throws into a thread must pass through.
_BAD_DATA: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class CheckedJson(bytes):
    """Raw JSON that was checked while it was read: once is enough."""

    __slots__ = ()


def to_json(payload: object, json_default: JsonDefault | None = None) -> bytes:
    """
    Return raw JSON as it is, and any other value as compact JSON.

    Raises:
        EnvelopeError: the payload is missing or null, or is not JSON, or cannot be
            encoded as JSON.
    """
    if type(payload) is not dict:  # which most are, and then it is neither of these
        if isinstance(payload, _RAW):
            return _checked(payload)
        if payload is MISSING:
            _refuse("missing")
    try:
        if _recursion_limit() > _SAFE_RECURSION:
            payload = _unfolded(payload, _hook(json_default), _MOST_LEVELS)
        chunks = _chunks if json_default is None else _encoder(_hook(json_default))
        text = "".join(chunks(payload, 0))
        raw = text.encode()
        if len(raw) > _ROOM_FOR_DEPTH:
            check_depth(text)
    except RecursionError as error:
        msg = "payload is nested too deeply or contains itself: pass a flatter value"
        raise EnvelopeError(msg, field="payload") from error
    except _BAD_DATA as error:
        msg = (
            f"payload cannot be encoded as JSON: {error}; convert the value, or pass "
            "json_default= with a function that does"
        )
        raise EnvelopeError(msg, field="payload") from error
    if raw == b"null":
        _refuse("null")
    return raw


def from_json(raw: bytes) -> Any:
    """
    Return the value that raw JSON stands for.

    Raises:
        EnvelopeError: Python cannot hold it, such as a number of 5,000 digits.
    """
    try:
        return json.loads(raw)
    except BAD_JSON as error:
        msg = f"payload cannot be decoded: {error}; use the raw bytes"
        raise EnvelopeError(msg, field="payload") from error


def _checked(payload: bytes | bytearray | memoryview) -> bytes:
    raw = bytes(payload)
    if type(payload) is not CheckedJson:
        if raw.startswith(b"\xef\xbb\xbf"):
            msg = "payload begins with a byte order mark: pass UTF-8 without one"
            raise EnvelopeError(msg, field="payload")
        if not raw.strip():
            _refuse("empty")
        try:
            check_value(raw.decode())
        except BAD_JSON as error:
            msg = (
                f"payload is not JSON: {error}; bytes are taken as raw JSON in UTF-8, "
                "pass any other value to have it encoded"
            )
            raise EnvelopeError(msg, field="payload") from error
    if raw.strip() == b"null":
        _refuse("null")
    return raw


def _refuse(how: str) -> NoReturn:
    msg = f"payload is {how}: pass a JSON value other than null, such as {{}}"
    raise EnvelopeError(msg, field="payload")


def _plain(value: Any) -> Any:
    """Return what stands for *value* in JSON; the hook for everybody."""
    if isinstance(value, Enum):  # before Decimal: its own str() may be "Price.LOW"
        return value.value
    if _is_a(value, "decimal", "Decimal"):
        if not value.is_finite():
            msg = f"{value} is not a number"
            raise ValueError(msg)
        return str(value)
    if _is_a(value, "uuid", "UUID"):
        return str(value)
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    msg = f"a {type(value).__name__} has no JSON form"
    raise TypeError(msg)


def _is_a(value: object, module: str, name: str) -> bool:
    """
    Return whether *value* is of a class of a module that few programs need.

    It is not imported for this: whoever has such a value has done so. Importing both
    takes a tenth of the time of ``import eventbus_sync``.
    """
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _hook(json_default: JsonDefault | None) -> JsonDefault:
    """Return a hook that asks the caller's first, and ours when that gives up."""
    if json_default is None:
        return _plain

    def convert(value: Any) -> Any:
        try:
            return json_default(value)
        except TypeError:
            return _plain(value)

    return convert


def _unfolded(value: object, default: JsonDefault, levels: int) -> object:
    """
    Return *value* as the encoder would come to see it, in at most so many levels.

    The encoder calls no hook for what comes out of here, and goes no deeper. What is
    a str, a list and so on is told as the encoder tells it: from the type alone.

    Raises:
        RecursionError: there are more levels, of containers and of what hooks return.
    """
    kind = type(value)
    if value is None or issubclass(kind, _SCALAR):
        return value
    if levels == 0:
        raise RecursionError
    levels -= 1
    if issubclass(kind, (list, tuple)):
        found: Any = value
        return [_unfolded(one, default, levels) for one in found]
    if issubclass(kind, dict):
        found = value
        return {k: _unfolded(one, default, levels) for k, one in found.items()}
    return _unfolded(default(value), default, levels)


def _encoder(default: JsonDefault) -> Callable[[Any, Any], Iterable[str]]:
    """
    Return a compact encoder without state, for use by any number of threads.

    It is what ``JSONEncoder.encode`` builds anew in every call; to build it once
    halves the time a small payload takes.
    """
    encoder = json.JSONEncoder(
        ensure_ascii=False,
        check_circular=False,  # found as too deep, and costs nothing that way
        allow_nan=False,
        separators=(",", ":"),
        default=default,
    )
    chunks: Callable[[Any, Any], Iterable[str]] = encoder.iterencode
    # PyPy has no such thing, and a later CPython might change what it takes.
    with contextlib.suppress(TypeError):
        make: Any = getattr(_json_encoder, "c_make_encoder", None)
        markers = indent = None
        text, sort_keys, skip_keys, allow_nan = encode_basestring, False, False, False
        chunks = make(
            markers, default, text, indent, ":", ",", sort_keys, skip_keys, allow_nan
        )
    return chunks


_chunks: Final = _encoder(_plain)
