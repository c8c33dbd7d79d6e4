"""Event ids: what they say, and that no two are equal whatever happens."""

import os
import re
import threading

import pytest

from eventbus_sync.envelope import Envelope
from eventbus_sync.envelope import event_id as _event_id


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def made_ids(count: int) -> list[str]:
    """Return the ids of events that agree in everything a caller can set."""
    return [
        Envelope("order-1", "OrderCreated", 3, 1, timestamp=7).event_id
        for _ in range(count)
    ]


def test_form() -> None:
    """An id says aggregate, type, version and nanoseconds, then comes the nonce."""
    assert re.fullmatch(r"order-1:OrderCreated:3:7:[0-9a-f]{16}-[0-9]+", made_ids(1)[0])


def test_nanoseconds_are_the_timestamp() -> None:
    """The nanoseconds in the id are those of the envelope, not of another moment."""
    for _ in range(100):
        envelope = Envelope("a", "E", 1, 1)
        assert envelope.event_id.split(":")[3] == str(envelope.unix_nanoseconds)


def test_caller_decides() -> None:
    """An id that the caller gives is used as it is."""
    assert Envelope("a", "E", 1, 1, event_id=" mine ").event_id == " mine "


def test_equal_timestamps() -> None:
    """Events with one timestamp, as in an import, have ids of their own."""
    assert len(set(made_ids(1000))) == 1000


def test_clock_stepping_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands or steps back repeats no id."""
    moments = iter([5, 5, 4, 5, 3, 5])
    monkeypatch.setattr("time.time_ns", lambda: next(moments) * 10**9)
    assert len({Envelope("a", "E", 1, 1).event_id for _ in range(6)}) == 6


def test_threads() -> None:
    """A hundred threads at once never draw the same."""
    start = threading.Barrier(100)
    drawn: list[list[str]] = []

    def draw() -> None:
        start.wait()
        drawn.append(made_ids(200))

    threads = [threading.Thread(target=draw) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({event_id for ids in drawn for event_id in ids}) == 100 * 200


def in_child(count: int) -> list[str]:
    """Return ids that a forked child made."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, "\n".join(made_ids(count)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        ids = pipe.read().split("\n")
    os.waitpid(pid, 0)
    return ids


def prefixes(ids: list[str]) -> set[str]:
    """Return the random parts of some ids."""
    return {event_id.split(":")[-1].split("-")[0] for event_id in ids}


def assert_forks_differ() -> None:
    """Children repeat neither the parent nor each other."""
    ids = made_ids(50), in_child(50), in_child(50), made_ids(50)
    everything = [event_id for some in ids for event_id in some]
    assert len(set(everything)) == 200
    assert len(prefixes(everything)) == 3


@needs_fork
def test_forks_by_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The at-fork hook alone keeps children apart."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    _event_id._source.renew()
    assert_forks_differ()


@needs_fork
def test_forks_by_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no hook runs, as under uWSGI, the pid keeps them apart."""
    unhooked = _event_id._NonceSource().draw
    monkeypatch.setattr("eventbus_sync.envelope.envelope.nonce", unhooked)
    assert_forks_differ()
