"""What the demo shows: the table, the verdict, the progress line, the JSON."""

import io
import json
import re

from typing import Any

import pytest

from support.demo_runs import figures_with, journal_of, stats_of

from eventbus_sync.demo.audit import Violation
from eventbus_sync.demo.faults import Fault, Struck
from eventbus_sync.demo.figures import Spread, as_json, figures_of
from eventbus_sync.demo.progress import Progress
from eventbus_sync.demo.report import Paper, duration, table, verdict


PLAIN = Paper()

FREEZE = Fault(
    at=0.4,
    seconds=3.0,
    done="frozen",
    undone="resumed",
    strike=lambda: None,
    repair=lambda: None,
)
FROZEN = Struck(FREEZE, 3.012, 812, 6120)

TABLE = """\
NATS JetStream (embedded nats-server): 20,000 events from 4 threads
  accepted               20,000
  acked                  20,000
  rejected                    0
  unknown                     0
  dropped                     0
  events/s               31,250   640 ms from first publish to last result
  publish call p50      4.50 µs
  publish call p99      1.21 ms
  result latency p50     180 ms
  result latency p99     1.50 s
  stored                 20,000   read back: each once, in order"""


class Screen(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Tape(io.TextIOWrapper):
    """A file that takes ASCII only."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")

    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode("ascii")


# -- figures ---------------------------------------------------------------------------


def test_percentiles_are_values_that_occurred() -> None:
    sample = [float(n) for n in range(1, 101)]
    assert Spread.of(sample[::-1]) == Spread(50.0, 99.0)
    assert Spread.of([3.0]) == Spread(3.0, 3.0)
    assert Spread.of([1.0, 2.0]) == Spread(1.0, 2.0)


def test_an_empty_sample_has_no_percentiles() -> None:
    assert Spread.of([]) == Spread(None, None)


def test_figures_come_from_journal_and_stats() -> None:
    journal = journal_of(["a1", "a2"], ["b1"], rejected=["a2"])
    journal.publishers[0].calls.extend([0.1, 0.2])
    journal.publishers[1].calls.append(0.3)
    journal.publishers[1].waited = 2
    journal.reader.codes["full"] = 1
    journal.reader.latencies.extend([1.0, 2.0, 3.0])
    journal.started_at, journal.reader.ended_at = 5.0, 7.0
    figures = figures_of(
        backend="kafka",
        title="Kafka",
        events=3,
        journal=journal,
        stats=stats_of(journal),
        reconnects=1,
        stored=2,
        struck=[FROZEN],
        violations=[],
        failures=[],
        interrupted=False,
    )
    assert (figures.accepted, figures.acked, figures.rejected) == (3, 2, 1)
    assert (figures.threads, figures.waited, figures.codes) == (2, 2, {"full": 1})
    assert (figures.call, figures.latency) == (Spread(0.2, 0.3), Spread(2.0, 3.0))
    assert figures.rate == 1.5
    assert figures.balanced


def test_the_rate_without_any_result() -> None:
    assert figures_with(seconds=0.0, acked=0).rate == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"violations": [Violation("lost", 1, "a1")]},
        {"failures": ["thread demo-publisher-0: no"]},
        {"stored": None},
    ],
)
def test_what_unbalances(wrong: dict[str, Any]) -> None:
    assert not figures_with(**wrong).balanced


def test_json_holds_every_figure_in_plain_types() -> None:
    lost = Violation("lost", 2, "a1")
    figures = figures_with(struck=[FROZEN], violations=[lost], codes={"full": 3})
    data = json.loads(json.dumps(as_json([figures, figures_with()], interrupted=True)))
    assert data["balanced"] is False
    assert data["interrupted"] is True
    first, second = data["runs"]
    assert first["violations"] == [{"kind": "lost", "count": 2, "example": "a1"}]
    assert first["error_codes"] == {"full": 3}
    assert first["publish_call"] == {"p50": 4.5e-6, "p99": 0.00121}
    assert first["faults"] == [
        {
            "done": "frozen",
            "seconds": 3.012,
            "in_flight_before": 812,
            "in_flight_after": 6120,
        }
    ]
    assert (first["balanced"], second["balanced"]) == (False, True)
    assert second["events_per_second"] == 31_250


def test_json_of_nothing_does_not_balance() -> None:
    assert as_json([]) == {"balanced": False, "interrupted": False, "runs": []}


# -- the table -------------------------------------------------------------------------


def test_the_table() -> None:
    assert table(figures_with(), PLAIN) == TABLE


def test_the_table_in_ascii() -> None:
    assert table(figures_with(), Paper(rich=False)) == TABLE.replace("µ", "u")


def test_the_heading_is_bold_where_there_is_colour() -> None:
    bold = table(figures_with(), Paper(colour=True))
    assert re.sub(r"\x1b\[\d+m", "", bold) == TABLE
    assert bold.startswith("\x1b[1mNATS")


@pytest.mark.parametrize("width", [40, 47, 60, 80, 200])
def test_no_line_is_wider_than_the_paper(width: int) -> None:
    figures = figures_with(struck=[FROZEN, FROZEN], waited=12, repeats=3456)
    lines = table(figures, Paper(width=width)).splitlines()
    assert max(map(len, lines)) <= width
    assert not any(line != line.rstrip() for line in lines)


def test_notes_go_below_where_it_is_narrow() -> None:
    lines = table(figures_with(), Paper(width=40)).splitlines()
    at = lines.index("  stored                 20,000")
    assert lines[at + 1] == "    read back: each once, in order"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"threads": 1}, "20,000 events from 1 thread\n"),
        ({"interrupted": True}, "from 4 threads\n(interrupted)\n"),
        ({"waited": 1234}, "1,234 calls waited for room"),
        ({"repeats": 7}, "7 of them sent twice and stored once"),
        (
            {"rejected": 3, "codes": {"full": 3}},
            "rejected                    3   full 3",
        ),
        ({"unknown": 2, "codes": {"timed_out": 2}}, "2   timed_out 2"),
        ({"dropped": 9}, "results that found the channel full"),
        ({"stored": None}, "stored                      -   could not be read back"),
        ({"failures": ["no"]}, "read back: see below"),
        ({"call": Spread(None, None)}, "publish call p50            -"),
        ({"struck": [FROZEN]}, "812 to"),
        ({"struck": [FROZEN], "reconnects": 1}, "1 reconnect"),
    ],
)
def test_what_is_worth_a_note(changed: dict[str, Any], expected: str) -> None:
    assert expected in f"{table(figures_with(**changed), PLAIN)}\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.00 µs"),
        (4.56e-6, "4.56 µs"),
        (99.94e-6, "99.9 µs"),
        (99.96e-6, "100 µs"),
        (999.4e-6, "999 µs"),
        (999.6e-6, "1.00 ms"),
        (0.0451, "45.1 ms"),
        (0.9996, "1.00 s"),
        (12.34, "12.3 s"),
        (4321.0, "4321 s"),
    ],
)
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


# -- the verdict -----------------------------------------------------------------------


def test_balanced_books_in_one_line() -> None:
    text = verdict([figures_with(), figures_with(backend="kafka")], PLAIN)
    assert text.startswith("the books balance on nats and kafka: acked ⊆ stored ⊆ ")
    assert "\n" not in text


def test_unbalanced_books_name_broker_count_and_example() -> None:
    lost = Violation("lost", 3, "order-7")
    wrong = figures_with(backend="kafka", violations=[lost], failures=["no reader"])
    text = verdict([figures_with(), wrong], PLAIN)
    assert text == (
        "THE BOOKS DO NOT BALANCE on kafka: kafka: 3 acked, but not stored (such as "
        "order-7); kafka: no reader"
    )


def test_an_interrupted_run_says_so() -> None:
    assert verdict([figures_with()], PLAIN, interrupted=True).startswith(
        "interrupted; the books balance on nats"
    )
    unbalanced = verdict([figures_with(failures=["x"])], PLAIN, interrupted=True)
    assert unbalanced.startswith("interrupted; THE BOOKS DO NOT")
    nothing = verdict([], PLAIN, interrupted=True)
    assert nothing == "interrupted; there are no books to balance"


def test_the_verdict_is_green_or_red() -> None:
    paper = Paper(colour=True)
    assert "\x1b[32m" in verdict([figures_with()], paper)
    assert "\x1b[31m" in verdict([figures_with(failures=["no"])], paper)


def test_the_verdict_in_ascii() -> None:
    verdict([figures_with()], Paper(rich=False)).encode("ascii")


# -- what it is written on -------------------------------------------------------------


def test_a_file_gets_no_control_characters() -> None:
    paper = Paper.of(io.StringIO())
    assert (paper.colour, paper.live) == (False, False)


def test_a_terminal_gets_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert Paper.of(Screen()) == Paper(width=100, live=True, colour=True)


def test_colour_can_be_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    paper = Paper.of(Screen())
    assert (paper.live, paper.colour) == (True, False)


def test_a_dumb_terminal_is_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    paper = Paper.of(Screen())
    assert (paper.colour, paper.live) == (False, False)


def test_a_very_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "3")
    assert Paper.of(io.StringIO()).width == 40


def test_an_ascii_stream_gets_ascii() -> None:
    tape = Tape()
    assert not Paper.of(tape).rich
    tape.write(table(figures_with(), Paper.of(tape)))
    assert "4.50 us" in tape.text()


# -- progress --------------------------------------------------------------------------


def test_progress_writes_over_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    progress = Progress(screen)
    progress.say("starting nats…")
    progress.show("nats", 1500, 20_000, 300, "frozen…")
    progress.warn("topic was left behind")
    progress.clear()
    first, *lines = screen.getvalue().split("\r\x1b[K")
    assert first == ""
    assert lines[0] == "starting nats…"
    assert lines[1].startswith("nats   1,500 of 20,000  frozen…")
    assert len(lines[1]) == 39
    assert lines[2:] == ["topic was left behind\n", ""]


def test_progress_in_a_file_is_rare_and_plain() -> None:
    file = io.StringIO()
    progress = Progress(file)
    progress.say("starting nats…")
    for settled in range(5):
        progress.show("nats", settled, 10, 3, "")
    progress.show("nats", 5, 10, 3, "frozen…")
    progress.warn("left behind")
    progress.clear()
    progress.show("kafka", 0, 10, 0, "")
    lines = file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == [
        "starting",
        "nats",
        "nats",
        "left",
        "kafka",
    ]
    assert "frozen..." in lines[2]
    assert not any(ord(character) < 32 for line in lines for character in line)


def test_the_rate_is_that_of_the_last_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("eventbus_sync.demo.progress.time.monotonic", lambda: now)
    file = io.StringIO()
    progress = Progress(file)
    for settled in (0, 1000, 2000, 2000, 2000):
        progress.show("nats", settled, 9000, 0, "")
        now += 1.0
    rates = re.findall(r"([\d,]+)/s", file.getvalue())
    assert rates == ["0", "1,000", "1,000", "0", "0"]
