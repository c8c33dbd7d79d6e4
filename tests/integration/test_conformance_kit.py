"""The conformance suite as others use it: its docstring's ten lines, a rig of one's own."""

import textwrap

from pathlib import Path

import pytest

import eventbus_sync

from eventbus_sync.testing import conformance
from eventbus_sync.testing.conformance import BackendConformance


pytest_plugins = ["pytester"]

PLUGIN = 'pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]\n'
TESTS = len([name for name in dir(BackendConformance) if name.startswith("test_")])

OWN_RIG = """
import pytest

from eventbus_sync import EventBus
from eventbus_sync.testing import MemoryBus
from eventbus_sync.testing.conformance import BackendConformance, MemoryRig

class NoFreeze(MemoryRig):
    def __init__(self):
        super().__init__()
        self._freeze = self._resume = None

class Forgetful(NoFreeze):
    def stored(self, topic):
        return super().stored(topic)[1:]

class TestOurs(BackendConformance):
    @pytest.fixture
    def rig(self):
        return NoFreeze()

class TestBroken(BackendConformance):
    @pytest.fixture
    def rig(self):
        return Forgetful()
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A user's suite, run in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(eventbus_sync.__file__).parents[1]))
    pytester.makeconftest(PLUGIN)
    return pytester


@pytest.mark.nats
def test_the_ten_lines_of_the_docstring(suite: pytest.Pytester) -> None:
    """They run every test of the suite on a real server, and all pass."""
    documented = conformance.__doc__ or ""
    example = documented.partition("::\n\n")[2].partition("\n\n``KafkaRig``")[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    suite.makepyfile(textwrap.dedent(example))
    result = suite.runpytest_subprocess("-Werror", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=TESTS)


def test_a_rig_without_outages(suite: pytest.Pytester) -> None:
    """What needs a frozen broker is skipped, with advice; what is lost is found."""
    suite.makepyfile(OWN_RIG)
    result = suite.runpytest_subprocess("-Werror", "-rs", "-k", "TestOurs")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] + outcomes["skipped"] == TESTS
    assert outcomes["skipped"] == 4
    result.stdout.fnmatch_lines("*give its rig freeze and resume*")


def test_a_back_end_that_loses_events_fails(suite: pytest.Pytester) -> None:
    """A failed assert shows its values, as in a test module."""
    suite.makepyfile(OWN_RIG)
    result = suite.runpytest_subprocess("-k", "TestBroken and 6_order_per")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*assert 1999 == *2000*")
