"""
The conformance suite: the promises as tests, for a broker or a back end of yours.

Does *your* Kafka cluster, with its settings and its login, keep the promises? Ten lines
ask it, and ``pytest`` runs every test of the suite::

    import pytest
    from eventbus_sync.testing.conformance import BackendConformance, NatsRig

    class TestOurBroker(BackendConformance):
        @pytest.fixture
        def rig(self, fresh_nats_server):
            server = fresh_nats_server  # yours: NatsRig("nats://test:4222", token="…")
            yield NatsRig(server.url, freeze=server.freeze, resume=server.resume)

``KafkaRig`` and ``NatsRig`` take a URL and settings of the configuration. With ``freeze``
and ``resume`` (a container that is paused, a ``TcpProxy`` that is deaf) the outages are
tested too; without them those tests are skipped. What the suite stores it leaves behind,
so give it a broker for tests.

A back end of your own subclasses ``Rig``, which says what a rig must do. The suite is
what this library runs on memory, NATS and Kafka.

=================  ==================================================================
``suite.py``       ``BackendConformance``: everything below as one class
``outcomes.py``    promises 1 to 3: outcomes, books, who waits
``channel.py``     promise 4: the result channel
``storage.py``     promises 5, 6 and 10: once, in order, recognisable
``closing.py``     promise 9: close
``contract.py``    start, results, plain messages, sizes
``rigs.py``        what the suite needs of a broker
``publishing.py``  events, and results
``books.py``       what is stored against what was said of it
=================  ==================================================================

What compares books raises ``PromiseBroken``, an AssertionError: an event was lost, doubled,
out of order. Do not try that a second time, as you may a test for which the machine was slow.

Needs pytest, and so is not imported by ``eventbus_sync.testing``.
"""

import pytest


# So that a failed assert shows its values, as in any test module.
pytest.register_assert_rewrite(
    *(
        f"eventbus_sync.testing.conformance.{name}"
        for name in ("outcomes", "channel", "storage", "closing", "contract", "books")
    ),
    "eventbus_sync.testing.conformance.publishing",
)

from eventbus_sync.testing._verdict import PromiseBroken  # noqa: E402
from eventbus_sync.testing.conformance.publishing import (  # noqa: E402
    envelope,
    order_kept,
    publish_all,
    read,
)
from eventbus_sync.testing.conformance.rigs import (  # noqa: E402
    KafkaRig,
    MemoryRig,
    NatsRig,
    Rig,
)
from eventbus_sync.testing.conformance.suite import BackendConformance  # noqa: E402


__all__ = [
    "BackendConformance",
    "KafkaRig",
    "MemoryRig",
    "NatsRig",
    "PromiseBroken",
    "Rig",
    "envelope",
    "order_kept",
    "publish_all",
    "read",
]
