"""
One message on its way to JetStream: its bytes, and what became of its attempts.

The bytes are made once, on the publisher's thread, and written again for every attempt.
Subject, names and values have been checked by then: nothing in them can end a line.
"""

from collections.abc import Iterable

from eventbus_sync.backends.base import Delivery, OutgoingMessage
from eventbus_sync.errors import (
    Abandoned,
    BrokerUnavailable,
    DeliveryTimedOut,
    DestinationNotFound,
    PublishError,
    PublishUnknown,
)


def header_bytes(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return headers as they stand before the body of a message."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def plain_message(message: OutgoingMessage) -> list[bytes]:
    """Return the parts of a message that nobody answers."""
    subject, value = message.topic, message.value
    if not message.headers:
        return [f"PUB {subject} {len(value)}\r\n".encode(), value, b"\r\n"]
    header = header_bytes(message.headers)
    size = len(header) + len(value)
    command = f"HPUB {subject} {len(header)} {size}\r\n"
    return [command.encode(), header, value, b"\r\n"]


class Record:
    """
    One accepted event.

    Attributes:
        subject, header, value: what goes on the wire.
        size: bytes of header and value, which the server limits (``max_payload``).
        delivery: the bus's handle.
        deadline: when its outcome is due, on ``time.monotonic``.
        token: its place among all records; also names its answer.
        outstanding: an attempt is on the wire now, and its answer may still come.
        unanswered: an earlier attempt ended without an answer: it may be stored.
        no_stream: it, or one before it on its subject, was answered "no responders".
        written_at, sent_at: when the first and the last of the attempts that may have
            stored it were written; 0.0 if there was none.
    """

    __slots__ = (
        "deadline",
        "delivery",
        "header",
        "no_stream",
        "outstanding",
        "sent_at",
        "size",
        "subject",
        "token",
        "unanswered",
        "value",
        "written_at",
    )

    def __init__(
        self, message: OutgoingMessage, delivery: Delivery, deadline: float
    ) -> None:
        self.subject = message.topic
        self.value = message.value
        # The id that makes a repeat harmless. One event may go to two subjects of
        # one stream, and the stream must keep both, so the subject is part of it.
        message_id = ("Nats-Msg-Id", f"{message.topic}|{message.event_id}")
        self.header = header_bytes([*message.headers, message_id])
        self.size = len(self.header) + len(self.value)
        self.delivery = delivery
        self.deadline = deadline
        self.token = -1
        self.outstanding = False
        self.unanswered = False
        self.no_stream = False
        self.written_at = 0.0
        self.sent_at = 0.0

    def parts(self, reply_prefix: str) -> tuple[bytes, bytes, bytes, bytes]:
        """Return the message whose answer comes to *reply_prefix* and its token."""
        command = (
            f"HPUB {self.subject} {reply_prefix}{self.token} "
            f"{len(self.header)} {self.size}\r\n"
        )
        return command.encode(), self.header, self.value, b"\r\n"

    # -- what becomes of an attempt ----------------------------------------------------

    def attempted(self, now: float) -> None:
        """An attempt is being written."""
        self.outstanding = True
        self.sent_at = now
        if not self.written_at:
            self.written_at = now

    def turned_away(self) -> None:
        """The attempt was answered with "no responders": no stream took it."""
        self.no_stream = True
        self.turned_back()

    def turned_back(self) -> None:
        """The attempt came to nothing: it is not stored, for no reason of its own."""
        self.outstanding = False
        if not self.unanswered:
            # It is stored nowhere, so no duplicate window has begun.
            self.written_at = self.sent_at = 0.0

    def interrupted(self) -> None:
        """The connection is gone: what was on the wire may be stored or not."""
        if self.outstanding:
            self.outstanding = False
            self.unanswered = True

    # -- what its outcome is -----------------------------------------------------------

    def refused(self, error: PublishError) -> PublishError:
        """Return what a refusal means, given what became of earlier attempts."""
        if not self.unanswered or error.maybe_delivered:
            return error
        unknown = PublishUnknown(
            f"an earlier attempt went unanswered, and then: {error}"
        )
        unknown.__cause__ = error
        return unknown

    def forgotten(self, reason: str) -> PublishError:
        """Return the outcome where the stream may not recognise it any more."""
        return PublishUnknown(
            "an attempt went unanswered, and it cannot be sent again, as the server may "
            f"have been started anew since and would not recognise it: {reason}"
        )

    def timed_out(self, reason: str) -> PublishError:
        """Return the outcome at the end of delivery_timeout."""
        if self.outstanding or self.unanswered:
            return DeliveryTimedOut(
                f"no acknowledgement within delivery_timeout{reason}"
            )
        if self.no_stream:
            return DestinationNotFound(
                f"no stream takes subject {self.subject!r}: create one that does, or "
                f"correct the topic{reason}"
            )
        return BrokerUnavailable(
            f"never written to a server within delivery_timeout{reason}"
        )

    def abandoned(self, reason: str) -> PublishError:
        """Return the outcome when the bus is closed before there was any."""
        if self.outstanding or self.unanswered:
            return Abandoned(f"the bus was closed before an answer came{reason}")
        if self.no_stream:
            return DestinationNotFound(
                f"no stream took subject {self.subject!r} until the bus was closed"
                f"{reason}"
            )
        return BrokerUnavailable(
            f"the bus was closed before the event was written to a server{reason}"
        )
