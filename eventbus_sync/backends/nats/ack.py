"""
Reading a JetStream acknowledgement. Pure: bytes in, verdict out, never an exception.
"""

import json
import re

from eventbus_sync.backends.base import Ack
from eventbus_sync.backends.nats.errors import jetstream_refusal
from eventbus_sync.errors import PublishError, PublishUnknown


# What JSON of the wrong shape, or no JSON at all, makes of the lines below.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# What nearly every acknowledgement is, to the byte: to match it takes a third of the
# time that a JSON parser takes. Whatever else is JSON goes there.
_usual = re.compile(
    rb'\{"stream":"([A-Za-z0-9_-]{1,255})","seq":([1-9][0-9]{0,18})\}'
).fullmatch


def read_ack(data: bytes) -> Ack | PublishError:
    """
    Return what an acknowledgement says.

    A repeat that the stream dropped is an ack (``duplicate``), an error ack is a
    refusal, and what cannot be understood leaves the event's fate unknown.
    """
    usual = _usual(data)
    if usual is not None:
        stream, sequence = usual.groups()
        return Ack(None, None, stream.decode(), int(sequence), False)  # noqa: FBT003 - by position: keywords cost time
    try:
        said = json.loads(data)
        if "error" not in said:
            name, number = said["stream"], said["seq"]
            if isinstance(name, str) and type(number) is int and number > 0:
                return Ack(None, None, name, number, said.get("duplicate") is True)
        else:
            error = said["error"]
            return jetstream_refusal(
                int(error.get("code", 0)),
                int(error.get("err_code", 0)),
                str(error.get("description", "no reason given")),
            )
    except _UNREADABLE:
        pass  # said below, with what came
    return PublishUnknown(f"the acknowledgement cannot be understood: {data[:80]!r}")
