"""A copy of the project with one thing broken in it, and what pytest says to that."""

import json
import os
import shutil
import signal
import subprocess
import sys

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs


PROJECT = Path(__file__).resolve().parents[2]

#: Seconds for one run of pytest; a longer one hangs.
PATIENCE = 60.0

#: Where the inner pytest writes down how its tests ended.
OUTCOMES = "outcomes.json"
#: Seconds after which the inner pytest calls a wait a hang: ``support.patience.SLACK``.
SLACK = 2.0
#: The inner pytest's settings for hypothesis.
PROFILE = "broken"

# What would make the inner pytest behave like the outer one: coverage, xdist, options.
_OURS = ("COV_CORE_", "COVERAGE_", "PYTEST_")
_LEFT_BEHIND = (".hypothesis", ".pytest_cache", OUTCOMES)


@attrs.frozen
class Breakage:
    """
    One thing broken on purpose.

    Attributes:
        promise: the number of the promise that no longer holds.
        what: what is wrong then, in a few words.
        file: below the project's folder.
        old: text that is in the file once.
        new: what takes its place.
        caught_by: ids of the tests that fail then, every one of them.
        patience: seconds that they may take.
    """

    promise: int
    what: str
    file: str
    old: str
    new: str
    caught_by: Sequence[str]
    patience: float = PATIENCE

    @property
    def name(self) -> str:
        """How the breakage is called in the ids of tests."""
        return f"promise_{self.promise}-{self.what.replace(' ', '-')}"

    def apply(self, project: Path) -> None:
        """Break the *project*; an AssertionError says that the table is out of date."""
        file = project / self.file
        text = file.read_text()
        found = text.count(self.old)
        assert found == 1, f"{self.file} has it {found} times, not once:\n{self.old}"
        assert self.new != self.old
        file.write_text(text.replace(self.old, self.new))


@attrs.frozen
class Run:
    """
    How a run of pytest ended.

    Attributes:
        code: the exit code of pytest, None if it had to be killed.
        outcomes: id → "passed", "skipped", or the phase that failed: "setup", "call",
            "teardown". Empty if pytest came to no end.
        output: what it said.
    """

    code: int | None
    outcomes: Mapping[str, str]
    output: str

    def of(self, test: str) -> str:
        """How that test ended."""
        return self.outcomes.get(test, "not run")


def copy_project(source: Path, target: Path) -> None:
    """Copy what the tests need: package, tests and settings, with their bytecode."""
    target.mkdir(parents=True)
    ignore = shutil.ignore_patterns(*_LEFT_BEHIND)
    for folder in ("eventbus_sync", "tests"):
        shutil.copytree(source / folder, target / folder, ignore=ignore)
    shutil.copy2(source / "pyproject.toml", target)


def run_tests(project: Path, tests: Iterable[str], patience: float = PATIENCE) -> Run:
    """Run *tests* of a copied project, with the copied package."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_OURS)
    }
    # The copies share their bytecode; the same seeds make a run repeatable.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPATH"] = f"{project}{os.pathsep}{project / 'tests'}"
    environment["PYTHONHASHSEED"] = "0"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short"]
    command += ["-p", "breakages.outcomes_plugin", "-p", "no:randomly"]
    command += ["-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command.append(f"--hypothesis-profile={PROFILE}")
    outcomes = project / OUTCOMES
    outcomes.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*command, *tests],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group of its own, which can be killed with whatever the tests started.
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return Run(None, {}, output)
    found = json.loads(outcomes.read_text()) if outcomes.exists() else {}
    return Run(process.returncode, found, output)
