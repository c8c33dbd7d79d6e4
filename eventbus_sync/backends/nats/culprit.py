"""
An event over which the server ends connections: how it is noticed and found.

A server that finds fault with what we wrote (a limit that it told nobody) closes the
connection, and its reason is often lost: the rest of what we wrote is unread then, so
the connection is reset. Sent again first of all, that event would let nothing else
through until its deadline.

So after two such ends events go one by one, a PING behind each. A server that answers it
has read the event and found no fault, whatever becomes of the acknowledgement: that may
be late, or the connection may be cut by something between. Lives on the loop thread.
"""

import time

from typing import Final

from eventbus_sync.backends.nats.connection import Connection


#: A connection that was up for longer did not end over what was sent again on it.
SOON: Final = 2.0


class Culprit:
    """
    Suspects an event when a server that is well itself ends connections over it.

    Attributes:
        wanted: whether to send events one by one, so that it shows itself.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._one_ended = False
        self._suspect: tuple[int, str] | None = None

    def server_was_away(self) -> None:
        """No server took us: then connections ended over that, not over an event."""
        self.wanted = self._one_ended = False
        self._suspect = None

    def ended(self, connection: Connection) -> None:
        """Look at how a connection ended: the second in a row, and soon, is odd."""
        soon = time.monotonic() - connection.opened_at < SOON
        self.wanted = bool(connection.protocol_error) or (
            connection.ended_by_server and soon and self._one_ended
        )
        self._one_ended = connection.ended_by_server

    def is_not(self, token: int) -> None:
        """The server has read the event with *token* and stayed."""
        if self._suspect is not None and self._suspect[0] == token:
            self._suspect = None

    def is_it(self, token: int, connection: Connection) -> bool:
        """
        Return whether *connection* ended over the event with *token*, sent alone.

        Without a reason it takes two connections in a row to the same server, not
        started anew in between: then the server did not end for its own sake.
        """
        before, self._suspect = self._suspect, None
        if not connection.ended_by_server:
            return False
        if connection.protocol_error:
            return True
        self._suspect = (token, connection.server_id)
        return self._suspect == before
