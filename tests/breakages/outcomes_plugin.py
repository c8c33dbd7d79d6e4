"""
A plugin for the inner pytest: makes sure what is tested, and writes down how it ended.

The package under test must be the copy next to the tests, whatever is installed.
"""

import json

from pathlib import Path

import hypothesis
import pytest

from breakages.broken import OUTCOMES, PROFILE, SLACK
from support import patience

import eventbus_sync


_outcomes: dict[str, str] = {}

# Before any test reads it. What is broken waits for this long, again and again.
patience.SLACK = SLACK

# To see that a property does not hold is enough; the smallest example takes its time.
hypothesis.settings.register_profile(
    PROFILE, deadline=None, database=None, phases=[hypothesis.Phase.generate]
)


def pytest_configure(config: pytest.Config) -> None:
    imported = Path(eventbus_sync.__file__).resolve()
    if not imported.is_relative_to(config.rootpath.resolve()):
        msg = f"{imported} would be tested, which is not below {config.rootpath}"
        raise pytest.UsageError(msg)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        # The first phase that failed says more than what follows from it.
        if _outcomes.get(report.nodeid, "passed") == "passed":
            _outcomes[report.nodeid] = report.when or "call"
    elif report.skipped:
        _outcomes[report.nodeid] = "skipped"
    elif report.when == "call":
        _outcomes[report.nodeid] = "passed"


def pytest_sessionfinish(session: pytest.Session) -> None:
    (session.config.rootpath / OUTCOMES).write_text(json.dumps(_outcomes))
