"""Bytes that are nearly right: random changes to bytes that are."""

import random

from collections.abc import Sequence
from typing import Final


#: What parsers stumble over.
_TOKENS: Final = [
    *(b"null", b"true", b"{}", b"[]", b'""', b'"', b"\\", b"{", b"}", b"[", b"]"),
    *(b",", b":", b"-", b"0", b"-0", b"1e999", b"-1", b"1.5", b"NaN", b"Infinity"),
    *(b"9223372036854775808", b"9" * 400, b"9" * 5000, b"\\u0000", b"\\ud800"),
    *(b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\r\n", b" " * 50),
    *(b"[" * 2000, b'{"a":' * 500, b'"payload":', b'"PAYLOAD":1,', b'"error":'),
    *(b'"seq":', b'"stream":', b"9999-12-31T23:59:59.999999999Z", b"+24:00", b"Z"),
]
_DIGITS: Final = b"0123456789"


def mutated(source: random.Random, valid: Sequence[bytes]) -> bytes:
    """Return one of *valid* after one to six changes, or after none, rarely."""
    data = bytearray(source.choice(valid))
    for _ in range(source.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        _change(source, data, valid)
    return bytes(data)


def _change(source: random.Random, data: bytearray, valid: Sequence[bytes]) -> None:
    at = source.randrange(len(data) + 1)
    end = min(len(data), at + source.choice((1, 1, 2, 4, 8, 30)))
    match source.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << source.randrange(8)
        case 1 if at < len(data):
            data[at] = source.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end] * source.choice((1, 2, 30))
        case 4:
            data[at:end] = source.choice(_TOKENS)
        case 5:
            data[at:at] = source.choice(_TOKENS)
        case 6:
            other = source.choice(valid)
            start = source.randrange(len(other))
            data[at:end] = other[start : start + source.randrange(60)]
        case _:
            # A number becomes another one.
            places = [i for i, byte in enumerate(data) if byte in _DIGITS]
            if places:
                data[source.choice(places)] = source.choice(_DIGITS)
