"""
Streams that may forget an event while the bus may still send it again.

A server keeps the message ids of the duplicate window in memory, and after a restart it
has those of the messages that are still in the stream. What was consumed from a work queue
by then, or dropped to make room, it takes for new. So there an event that may be stored
goes again only to the same run of the same server.
"""

from typing import Final

from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig

from eventbus_sync.config import NatsConfig


#: A stream that holds so many times what may be in flight drops none of it: other
#: publishers add to it as well.
_ENOUGH: Final = 2


def forgets(found: StreamConfig, config: NatsConfig) -> str:
    """Return why *found* may lose what is in flight, as a clause; "" if it keeps it."""
    events, size = _ENOUGH * config.max_in_flight, _ENOUGH * config.max_in_flight_bytes
    drops_old = found.discard != DiscardPolicy.NEW
    if found.retention not in {None, RetentionPolicy.LIMITS}:
        return f"it drops what has been consumed (retention {found.retention!r})"
    if 0 < found.max_msgs_per_subject <= events and (
        drops_old or not found.discard_new_per_subject
    ):
        return f"it keeps {found.max_msgs_per_subject} messages to a subject only"
    if drops_old and 0 < (found.max_msgs or 0) <= events:
        return f"it keeps {found.max_msgs} messages only"
    if drops_old and 0 < (found.max_bytes or 0) <= size:
        return f"it keeps {found.max_bytes} bytes only"
    if 0 < (found.max_age or 0.0) < found.duplicate_window:
        return f"it keeps messages for {found.max_age:g} s only"
    return ""
