"""
nats-py's parser, with a short way for acknowledgements. Lives on the loop thread.

Nearly all that a server sends to a bus are acknowledgements, hundreds in one read.
nats-py parses each with several regular expressions and awaits a coroutine for it, which
is more work than all the rest of what an acknowledgement costs.
"""

import re

from collections.abc import Callable, Sequence
from typing import Any, Final

import nats.errors

from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser


#: The number that a message went out under, and the body of its acknowledgement.
NumberedAck = tuple[int, bytes]

#: So long may a line be; nats-py gives up behind that.
_LONGEST: Final = 4096
_LINE_END: Final = b"\r\n"

_Match = Callable[[bytes, int], re.Match[bytes] | None]


class AckParser(Parser):
    """
    Hands over whole acknowledgements from the front, many at once; the rest is nats-py's.

    What it cannot make out ends the connection. nats-py would log that and stop reading,
    on a connection that looks healthy.

    Args:
        client: nats-py's, which is told of everything but those acknowledgements.
        on_broken: told when what the server sent cannot be understood.
        on_acks: told acknowledgements, in the order in which they came.
    """

    def __init__(
        self,
        client: Any,
        on_broken: Callable[[Exception], None],
        on_acks: Callable[[Sequence[NumberedAck]], None],
    ) -> None:
        super().__init__(client)
        self._on_broken = on_broken
        self._on_acks = on_acks
        self._begin = b""
        self._head: _Match | None = None
        self._ack: _Match | None = None

    def expect(self, inbox: str, subscription: int) -> None:
        """Look out for what comes to *inbox* and a number, for this subscription."""
        self._begin = f"MSG {inbox}.".encode()
        head = rb"%s([0-9]{1,18}) %d ([0-9]{1,4})\r\n" % (
            re.escape(self._begin),
            subscription,
        )
        self._head = re.compile(head).match
        # The body is one line of JSON, so that its length is where it ends.
        self._ack = re.compile(head + rb"(\{[^\r\n]*\})\r\n").match

    async def parse(self, data: bytes = b"") -> None:
        """Take what the server has sent."""
        try:
            if self._ack is None or self.state != AWAITING_CONTROL_LINE:
                await super().parse(data)
            elif not self._took_all(data, self._ack):
                await super().parse()
        except OSError:
            raise
        except Exception as exc:
            self._on_broken(exc)
            raise nats.errors.ProtocolError from exc

    def _took_all(self, data: bytes, ack: _Match) -> bool:
        """
        Hand over the acknowledgements in front, and keep the rest.

        Returns:
            Whether that is nothing, or the beginning of another one. nats-py must not see
            that: it would take the whole next read for itself.
        """
        if self.buf:
            data = bytes(self.buf) + data
        end, found = 0, []
        while (one := ack(data, end)) is not None:
            number, size, body = one.groups()
            if int(size) != len(body):
                break
            found.append((int(number), body))
            end = one.end()
        rest = data[end:]
        self.buf = bytearray(rest)
        if found:
            self._on_acks(found)
        return not rest or self._begun(rest)

    def _begun(self, rest: bytes) -> bool:
        """Return whether *rest* is such a message, and not all of it."""
        if not rest.startswith(self._begin):
            return False
        head = self._head(rest, 0) if self._head is not None else None
        if head is not None:
            return len(rest) < head.end() + int(head[2]) + len(_LINE_END)
        return _LINE_END not in rest and len(rest) <= _LONGEST
