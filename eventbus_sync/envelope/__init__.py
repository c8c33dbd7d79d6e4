"""
What an event is, and its bytes. Pure: no I/O, no thread. Begin with ``envelope.py``.

::

    envelope.py    Envelope: the class
    fields.py      its validation, in the promised order
    wire.py        to and from JSON bytes, the same as the Go SDK's
    payload.py     whatever the caller has, as JSON bytes
    json_text.py   strict reading of JSON
    timestamp.py   RFC 3339 with nanoseconds
    event_id.py    ids that never collide
    headers.py     the X-... headers
"""

from eventbus_sync.envelope.envelope import Envelope


__all__ = ["Envelope"]
