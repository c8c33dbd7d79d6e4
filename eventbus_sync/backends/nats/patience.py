"""
For how long a connection may say nothing to what was written on it. On the loop thread.

On a line so slow that a message takes longer than ``ack_wait``, each new connection
would begin the message again and be given up before it is through. So each connection
that ended in silence makes the next one be waited for twice as long, until an answer
comes within ``ack_wait`` of its message again.
"""


class Patience:
    """
    Knows how long to wait; begins with the least.

    Args:
        least: seconds, ``ack_wait``.
        most: seconds, less than ``delivery_timeout``.

    Attributes:
        wait: how long silence is borne now.
        strained: whether that is longer than the least.
    """

    __slots__ = ("_least", "_most", "strained", "wait")

    def __init__(self, least: float, most: float) -> None:
        self.wait = self._least = least
        self.strained = False
        self._most = most

    def given_up(self) -> None:
        """A connection was given up because of its silence."""
        self.wait = min(2 * self.wait, self._most)
        self.strained = True

    def answered(self, after: float) -> None:
        """An answer came *after* so many seconds: a quick one, and all is well again."""
        if after < self._least:
            self.wait = self._least
            self.strained = False
