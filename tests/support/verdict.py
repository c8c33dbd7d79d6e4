"""Verdicts on the promises themselves: what ``.ci/run`` forgives no second try."""

from eventbus_sync.testing._verdict import PromiseBroken, verdict


__all__ = ["PromiseBroken", "kept", "verdict"]


@verdict
def kept(code: int, said: object) -> None:
    """Assert by its exit code that a soak or a run of faults found nothing wrong."""
    assert code == 0, said
