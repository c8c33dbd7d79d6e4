"""How much longer than it should anything may take before a test calls it a hang."""

#: Seconds. Machines are shared and sleep; a test that measures them would flake. What
#: is bounded with this slack is that something ends, not how soon.
SLACK = 20.0
