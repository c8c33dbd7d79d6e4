"""
Reading a JetStream acknowledgement. Pure: bytes in, verdict out, never an exception.
"""

import json

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


def read_ack(data: bytes) -> Ack | PublishError:
    """
    Return what an acknowledgement says.

    A repeat that the stream dropped is an ack (``duplicate``), an error ack is a
    refusal, and what cannot be understood leaves the event's fate unknown.
    """
    try:
        said = json.loads(data)
        if "error" not in said:
            stream, sequence = said["stream"], said["seq"]
            if isinstance(stream, str) and type(sequence) is int and sequence > 0:
                return Ack(None, None, stream, sequence, said.get("duplicate") is True)
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
