"""
Strict reading of JSON from outside, which keeps the source of every member.

Whatever the text holds, only ``BAD_JSON`` comes out of here: nesting is bounded before
anything recurses, and numbers are never converted, so that none can be too long.
"""

import json
import re

from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn


#: What reading hostile text may raise, to be caught as a whole.
BAD_JSON: Final = (ValueError, RecursionError, MemoryError)

#: How deep arrays and objects may be nested. Fixed, so that what one process wrote
#: another can read, whatever room its stack has.
MAX_DEPTH: Final = 500

_Match = Callable[[str, int], re.Match[str] | None]

_WHITESPACE: Final = " \t\n\r"
_OPENING: Final[_Match] = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*").match
_NAME: Final[_Match] = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_COLON: Final[_Match] = re.compile(r"[ \t\n\r]*:[ \t\n\r]*").match
_NEXT: Final[_Match] = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*").match
_BRACKETS: Final = re.compile(r"[\[{]+|[\]}]+").findall


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is not JSON"
    raise ValueError(msg)


# len() stands in for conversions that nobody needs: it is as quick for any number.
_decode: Final = json.JSONDecoder(
    parse_int=len, parse_float=len, parse_constant=_refuse
).raw_decode


def check_depth(text: str, deepest: int = MAX_DEPTH) -> None:
    """Raise ValueError when arrays and objects are nested deeper than *deepest*."""
    # To look for one is a hundred times quicker than to count them in a long text.
    if "[" not in text and text.find("{", 1) < 0:
        return
    if text.count("[") + text.count("{") <= deepest:
        return
    # Backslashes stand in strings only. Once escapes are gone, every second part of
    # a split at the quotes lies outside of strings.
    bare = text.replace("\\\\", "").replace('\\"', "")
    depth = 0
    for run in _BRACKETS("".join(bare.split('"')[::2])):
        depth += len(run) if run[0] in "[{" else -len(run)
        if depth > deepest:
            msg = f"arrays and objects are nested deeper than {deepest}"
            raise ValueError(msg)


def check_value(text: str) -> None:
    """Raise one of ``BAD_JSON`` unless *text* is one JSON value and nothing else."""
    check_depth(text)
    value = text.strip(_WHITESPACE)
    _, end = _decode(value)
    if end != len(value):
        msg = "Extra data"
        raise json.JSONDecodeError(msg, value, end)


def members(text: str) -> Iterator[tuple[str, Any, str]]:
    """
    Yield key, value and verbatim source of each member of one JSON object.

    A number comes without its value: look at its source. Raises one of ``BAD_JSON``
    unless *text* is one JSON object and nothing else.
    """
    check_depth(text, MAX_DEPTH + 1)
    at = _expect("{", _OPENING, text, 0).end()
    if text.startswith("}", at):
        at = _expect("}", _NEXT, text, at).end()
    else:
        closed = False
        while not closed:
            plain = _NAME(text, at)
            if plain is not None:
                key, start = plain[1], plain.end()
            else:
                key, start = _odd_name(text, at)
            value, end = _decode(text, start)
            yield key, value, text[start:end]
            separator = _expect(", or }", _NEXT, text, end)
            at = separator.end()
            closed = separator[1] == "}"
    if at != len(text):
        msg = "Extra data"
        raise json.JSONDecodeError(msg, text, at)


def _odd_name(text: str, at: int) -> tuple[str, int]:
    """Return a name with escapes, and where its value begins."""
    if not text.startswith('"', at):
        msg = "Expecting a name in double quotes"
        raise json.JSONDecodeError(msg, text, at)
    key, at = _decode(text, at)
    return key, _expect(":", _COLON, text, at).end()


def _expect(what: str, match: _Match, text: str, at: int) -> re.Match[str]:
    """Return the match at this position."""
    found = match(text, at)
    if found is None:
        msg = f"Expecting {what}"
        raise json.JSONDecodeError(msg, text, at)
    return found
