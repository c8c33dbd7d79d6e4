"""
An event over which the server ends connections: how it is noticed and found.

A server that finds fault with what we wrote (a limit that it told nobody) closes the
connection, and its reason is often lost: the rest of what we wrote is unread then, so
the connection is reset. Sent again first of all, that event would let nothing else
through until its deadline. Lives on the loop thread.
"""

import time

from typing import Final

from eventbus_sync.backends.nats.connection import Connection


#: A connection that was up for longer did not end over what was sent again on it.
SOON: Final = 2.0
#: How many connections must end like this until events are sent one by one, and how
#: many of those over one event until it is the culprit.
SUSPICIOUS, GUILTY = 2, 2


class Culprit:
    """
    Counts connections that the server ended while it was well itself.

    Attributes:
        wanted: whether to send events one by one, so that it shows itself.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._ended = 0
        self._suspect = -1
        self._times = 0

    def server_was_away(self) -> None:
        """No server took us: then connections ended over that, not over an event."""
        self._ended = self._times = 0
        self.wanted = False

    def ended(self, connection: Connection) -> None:
        """Count a connection that was lost."""
        if not connection.ended_by_server:
            self._ended = 0
        elif time.monotonic() - connection.opened_at > SOON:
            self._ended = 1
        else:
            self._ended += 1
        self.wanted = bool(connection.protocol_error) or self._ended >= SUSPICIOUS

    def is_it(self, token: int, connection: Connection) -> bool:
        """Return whether the event with *token*, under way alone, ended *connection*."""
        if not connection.ended_by_server:
            return False
        self._times = self._times + 1 if token == self._suspect else 1
        self._suspect = token
        if not connection.protocol_error and self._times < GUILTY:
            return False
        # There may be more of its kind: the next loss is suspicious at once.
        self._ended, self._times, self.wanted = SUSPICIOUS - 1, 0, False
        return True
