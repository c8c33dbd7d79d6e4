"""A soak of a few seconds on each broker, and soaks in which something is wrong."""

import contextlib
import io
import json
import threading

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from support.eventually import eventually
from support.verdict import kept

from eventbus_sync import Stats
from eventbus_sync.errors import ConfigError
from eventbus_sync.soak import chaos as chaos_module
from eventbus_sync.soak import run as soak
from eventbus_sync.soak.chaos import Chaos
from eventbus_sync.soak.ground import ground
from eventbus_sync.soak.plan import Ground, Plan
from eventbus_sync.soak.schedule import KINDS, Strike
from eventbus_sync.soak.workload import Workload
from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import ReadBackFailed, StoredEvent


SHORT = Plan(backend="nats", minutes=0.04, seed=1)


def run(plan: Plan, file: Path | None = None) -> tuple[int, str]:
    """Return the exit code, and what was said."""
    out, err = io.StringIO(), io.StringIO()
    code = soak.run(plan, out, err, file=file)
    assert f"seed {plan.seed}" in err.getvalue()
    return code, out.getvalue()


def strikes_of(plan: Plan) -> list[Strike]:
    """Return one short strike of each kind, lanes side by side."""
    return [
        Strike(at=0.3 + 0.8 * number, lane=lane, kind=kind, seconds=0.4, delay=0.01)
        for lane, kinds in KINDS[plan.backend].items()
        for number, kind in enumerate(kinds)
    ]


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.parametrize("backend", ["nats", "kafka"])
def test_everything_breaks_once(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every kind of fault is done and undone, and the books balance."""
    monkeypatch.setattr(soak, "draw", strikes_of)
    plan = Plan(backend=backend, minutes=0.07, seed=5)
    code, said = run(plan, tmp_path / "soak.json")
    kept(code, said)
    assert "the books balance" in said
    figures = json.loads((tmp_path / "soak.json").read_text())
    assert figures["balanced"] is True
    assert figures["stats"]["accepted"] > 500
    assert figures["stored"] >= figures["stats"]["acked"] > 500
    done = {strike["kind"] for strike in figures["strikes"]}
    assert done == {kind for kinds in KINDS[backend].values() for kind in kinds}
    assert figures["failures"] == figures["violations"] == []


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["nats", "kafka"])
def test_a_minute_by_its_seed(backend: str) -> None:
    """What CI runs of the hour: the schedule of a seed, and the books balance."""
    code, said = run(Plan(backend=backend, minutes=1, seed=3, rate=1000))
    kept(code, said)
    assert "the books balance" in said


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.parametrize("backend", ["nats", "kafka"])
def test_a_broker_of_ones_own(
    backend: str, nats_server: NatsServer, kafka_server: KafkaServer
) -> None:
    """As fast as it goes, and cleared away afterwards."""
    urls = {
        "nats": nats_server.url,
        "kafka": f"kafka://{kafka_server.bootstrap_servers}",
    }
    plan = attrs.evolve(SHORT, backend=backend, url=urls[backend], rate=0)
    code, said = run(plan)
    kept(code, said)
    assert "the books balance" in said


def test_a_url_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="needs a URL of kafka"):
        run(attrs.evolve(SHORT, backend="kafka", url="memory://"))


# -- what a soak finds -----------------------------------------------------------------


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that changes the ground of the next soak."""

    def spoil(**changes: Callable[[Ground], Any]) -> None:
        @contextlib.contextmanager
        def spoilt(plan: Plan, warn: Callable[[str], None]) -> Iterator[Ground]:
            with ground(plan, warn) as where:
                made = {name: change(where) for name, change in changes.items()}
                yield attrs.evolve(where, **made)

        monkeypatch.setattr(soak, "ground", spoilt)

    return spoil


@pytest.mark.nats
def test_a_lost_event_is_found(spoil: Callable[..., None]) -> None:
    """One acked event that the broker does not give back is enough."""

    def forgetful(where: Ground) -> Any:
        def scan(see: Callable[[StoredEvent], object], timeout: float) -> None:
            events: list[StoredEvent] = []
            where.scan(events.append, timeout)
            for event in events[1:]:
                see(event)

        return scan

    spoil(scan=forgetful)
    code, said = run(SHORT)
    assert code == 1
    assert "THE BOOKS DO NOT BALANCE on nats, seed 1: 1 acked, but not stored" in said


@pytest.mark.nats
def test_a_broker_that_cannot_be_read(spoil: Callable[..., None]) -> None:
    def unreadable(where: Ground) -> Any:
        def scan(*_: object) -> None:
            message = "nobody there"
            raise ReadBackFailed(message)

        return scan

    spoil(scan=unreadable)
    code, said = run(SHORT)
    assert code == 1
    assert "nobody there" in said
    assert "could not be read back" in said


@pytest.mark.nats
def test_what_is_late_is_found(
    spoil: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes and publish calls that take longer than promised."""
    monkeypatch.setattr(soak, "SLACK", -100.0)
    code, said = run(SHORT)
    assert code == 1
    assert "an outcome came only after" in said
    assert "a publish call took" in said
    assert "an event had no outcome after" in said


@pytest.mark.nats
def test_books_that_do_not_balance_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snapshot is looked at, and the last one too."""
    monkeypatch.setattr(Stats, "balanced", False)
    code, said = run(SHORT)
    assert code == 1
    assert "a snapshot did not balance" in said
    assert "counters of bus.stats()" in said


@pytest.mark.nats
def test_threads_that_fail_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that ends early ends the run, and not in silence."""

    def fail(self: Workload, thread: int, number: int) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Workload, "_event", fail)
    code, said = run(attrs.evolve(SHORT, minutes=10))
    assert code == 1
    assert "ZeroDivisionError" in said


@pytest.mark.nats
def test_a_broker_that_cannot_be_broken_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: Chaos, strike: Strike) -> Any:
        raise OSError

    monkeypatch.setattr(soak, "draw", strikes_of)
    monkeypatch.setattr(chaos_module.Chaos, "_fault", fail)
    code, said = run(SHORT)
    assert code == 1
    assert "could not be broken as planned" in said


@pytest.mark.nats
def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the publishing; the books are shown all the same."""

    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(soak, "_watch", interrupted)
    code, said = run(SHORT)
    assert code == 130
    assert (
        said.rstrip().rpartition("\n")[2].startswith("interrupted; the books balance")
    )
    eventually(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("soak")]
    )
