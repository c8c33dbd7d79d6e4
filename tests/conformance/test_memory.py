"""The contract on the reference back end."""

import pytest

from conformance.suite import BackendConformance
from support.rigs import MemoryRig, Rig


class TestMemory(BackendConformance):
    """Every test of the suite, on memory."""

    @pytest.fixture
    def rig(self) -> Rig:
        """A broker in this process."""
        return MemoryRig()
