"""
Each promise has a test that fails when the code is broken on purpose.

For every line of the tables in this folder the project is copied, one thing in the copy
is broken, and the tests that are named for it must fail there; they pass before.
"""

import collections
import re
import tempfile

from collections.abc import Iterator
from pathlib import Path

import pytest

from breakages.at_exit_and_fork import AT_EXIT_AND_FORK
from breakages.broken import PROJECT, Breakage, Run, copy_project, run_tests
from breakages.in_the_brokers import IN_THE_BROKERS
from breakages.in_the_core import IN_THE_CORE

from eventbus_sync.testing.pytest_plugin import skip_or_fail


BREAKAGES = [*IN_THE_CORE, *AT_EXIT_AND_FORK, *IN_THE_BROKERS]

#: Seconds for one run of all the tests that are named, on the project as it is.
PATIENCE_UNBROKEN = 360.0


def test_every_promise_is_broken_and_its_own_tests_say_so() -> None:
    """One breakage or more for each promise, caught by a test that names it."""
    per_promise = collections.Counter(breakage.promise for breakage in BREAKAGES)
    assert set(per_promise) == set(range(1, 11))
    assert len({breakage.name for breakage in BREAKAGES}) == len(BREAKAGES)
    for breakage in BREAKAGES:
        # What the suite runs on each back end is promise 7, by whatever name.
        name = rf"promises?_(\d+_)*(and_)?{breakage.promise}_"
        # At the end of a name: the matrix has its lines in brackets.
        name += rf"|promises?_(\d+_)*and_{breakage.promise}\["
        name += "|^tests/conformance/" if breakage.promise == 7 else ""
        assert any(re.search(name, test) for test in breakage.caught_by), breakage.name


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda b: str(b.name))
def test_the_table_is_up_to_date(breakage: Breakage, tmp_path: Path) -> None:
    """What is to be replaced is there, once, and what remains is still Python."""
    file = tmp_path / breakage.file
    file.parent.mkdir(parents=True)
    file.write_text((PROJECT / breakage.file).read_text())
    breakage.apply(tmp_path)
    compile(file.read_text(), breakage.file, "exec", dont_inherit=True)


@pytest.fixture(scope="session")
def unbroken(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Run]]:
    """A copy of the project, in which the tests that will be looked at have passed."""
    tests: set[str] = set()
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.function is test_broken:
            breakage = item.callspec.params["breakage"]
            assert isinstance(breakage, Breakage)
            tests.update(breakage.caught_by)
    with tempfile.TemporaryDirectory(prefix="unbroken-") as folder:
        project = Path(folder) / "project"
        copy_project(PROJECT, project)
        run = run_tests(project, sorted(tests), PATIENCE_UNBROKEN)
        assert run.code == pytest.ExitCode.OK, run.output
        assert {run.of(test) for test in tests} <= {"passed", "skipped"}, run.output
        yield project, run


@pytest.mark.slow
@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda b: str(b.name))
def test_broken(breakage: Breakage, unbroken: tuple[Path, Run]) -> None:
    """The tests that are named fail, all of them, and nothing else goes wrong."""
    intact, before = unbroken
    if any(before.of(test) == "skipped" for test in breakage.caught_by):
        skip_or_fail("there is no broker on which the tests that see it could run")
    with tempfile.TemporaryDirectory(prefix="broken-") as folder:
        project = Path(folder) / "project"
        copy_project(intact, project)
        breakage.apply(project)
        run = run_tests(project, breakage.caught_by, breakage.patience)
    assert run.code is not None, f"pytest did not come to an end:\n{run.output}"
    ends = {test: run.of(test) for test in breakage.caught_by}
    assert set(ends.values()) <= {"call", "teardown"}, f"{ends}\n{run.output}"
    assert run.code == pytest.ExitCode.TESTS_FAILED, run.output
