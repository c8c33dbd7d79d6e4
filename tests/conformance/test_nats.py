"""The contract on NATS JetStream: a real nats-server, file storage."""

from collections.abc import Iterator

import pytest

from conformance.suite import BackendConformance
from support.rigs import NatsRig, Rig

from eventbus_sync.testing import NatsServer


@pytest.mark.nats
class TestNats(BackendConformance):
    """Every test of the suite, on a real server."""

    @pytest.fixture
    def rig(self, nats_server: NatsServer) -> Iterator[Rig]:
        """The session's server."""
        yield NatsRig(
            nats_server.url, freeze=nats_server.freeze, resume=nats_server.resume
        )
        nats_server.resume()
