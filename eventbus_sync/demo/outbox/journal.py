"""What the threads of one run noted down: what they committed, what they rolled back."""

from array import array

import attrs


def _seconds() -> "array[float]":
    return array("d")


@attrs.define(eq=False)
class WriterLog:
    """
    What one writing thread saw; only that thread writes it.

    Attributes:
        committed: event ids in the order in which their transactions were committed.
        rolled_back: event ids that were added to transactions which did not commit.
        commits: seconds that each committed transaction took, its commit included.
        undecided: the event of a commit that failed: nobody here knows whether it is in.
    """

    committed: list[str] = attrs.field(factory=list)
    rolled_back: list[str] = attrs.field(factory=list)
    commits: "array[float]" = attrs.field(factory=_seconds)
    undecided: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class Journal:
    """
    Everything that the writers of one run saw, to be read when they have ended.

    Attributes:
        writers: one log for each.
        failures: what ended a thread early, in words.
    """

    writers: list[WriterLog]
    failures: list[str] = attrs.field(factory=list)

    @property
    def committed(self) -> int:
        """How many events were committed so far; may be read while they come."""
        return sum(len(log.committed) for log in self.writers)

    @property
    def rolled_back(self) -> int:
        """How many were rolled back so far; may be read while they come."""
        return sum(len(log.rolled_back) for log in self.writers)
