"""The contract on NATS JetStream: a real nats-server, file storage, both modes."""

from collections.abc import Iterator

import pytest

from conformance.suite import BackendConformance
from support.rigs import NatsRig, Rig, unique

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


class BatchRig(NatsRig):
    """A stream that takes batches, and buses that send them."""

    stream = "CONFORMANCE-IN-BATCHES"

    def new_topic(self) -> str:
        """Return a subject of the stream."""
        return f"batches.{unique('topic')}"


@pytest.mark.nats
class TestNatsInBatches(BackendConformance):
    """Every test of the suite, with many events as one batch."""

    @pytest.fixture
    def rig(self, nats_server: NatsServer) -> Iterator[Rig]:
        """The session's server."""
        yield BatchRig(
            nats_server.url,
            freeze=nats_server.freeze,
            resume=nats_server.resume,
            subjects=["batches.>"],
            publish_mode="batch",
        )
        nats_server.resume()
