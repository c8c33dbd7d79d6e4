"""What the conformance suite does with what a broker gives back."""

from eventbus_sync.testing.conformance.books import settled


def test_settled_waits_while_something_is_added() -> None:
    """A broker may store what it has long after it was told."""
    one, two = ("1", "a", b"{}"), ("2", "a", b"{}")
    reads = [[one], [one, two], [one, two]]
    assert settled(lambda: reads.pop(0) if len(reads) > 1 else reads[0], 0.05) == [
        one,
        two,
    ]
