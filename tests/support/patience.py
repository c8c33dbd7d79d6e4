"""Waiting in tests: how long until it is a hang, and the one wait that is no condition."""

import time


#: Seconds. Machines are shared and sleep; a test that measures them would flake. What
#: is bounded with this slack is that something ends, not how soon.
SLACK = 20.0


def let_pass(seconds: float) -> None:
    """
    Does nothing for so many seconds.

    Right only where time itself is the subject: to be idle for a while, or to see that
    something does not happen. What is expected to happen is waited for with
    ``eventually()``, an event or a barrier.
    """
    time.sleep(seconds)
