"""
What is broken on one server or network at a time: several faults, the newest counts.

A fault that ends gives its target back to the one before it, not to health: the network
that was cut and then slowed down is cut again when it is no longer slow.
"""

import threading
import weakref

from collections.abc import Callable

import attrs

from eventbus_sync.testing.broker_errors import NotPossibleHere


Act = Callable[[], None]


@attrs.frozen(eq=False)
class _Imposed:
    kind: str
    again: Act
    heal: Act


class _Target:
    """Faults of one thing, the newest last; its lock is held while that changes."""

    def __init__(self, what: object) -> None:
        # Held, so that nobody else gets its id while something is in force.
        self.what = what
        self.imposed: list[_Imposed] = []
        self.lock = threading.RLock()

    def end(self, imposed: _Imposed) -> None:
        with self.lock:
            if self.imposed[-1] is imposed:
                # First that, as it may fail; then it is still in force.
                rest = self.imposed[:-1]
                (rest[-1].again if rest else imposed.heal)()
            self.imposed.remove(imposed)


# Whoever can end a fault holds its target; so this holds none that is whole.
_targets: weakref.WeakValueDictionary[int, _Target] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def impose(kind: str, what: object, do: Act, *, again: Act, heal: Act) -> Act:
    """
    Break something, and return what ends that, once.

    Args:
        kind: faults of one kind may follow each other on a target.
        what: the target, whose other faults matter.
        do: makes it so.
        again: makes it so once more, when what came later has ended.
        heal: makes it whole, when no other fault is left.

    Raises:
        NotPossibleHere: there is a fault of another kind, which could not be given
            back: a server that was killed is not frozen any more.
    """
    with _lock:
        target = _targets.get(id(what)) or _Target(what)
        _targets[id(what)] = target
    imposed = _Imposed(kind, again, heal)
    with target.lock:
        for other in target.imposed:
            if other.kind != kind:
                message = (
                    f"cannot {kind} {what!r} during a {other.kind}; end that first"
                )
                raise NotPossibleHere(message)
        do()
        target.imposed.append(imposed)
    return lambda: target.end(imposed)
