"""The rigs of the conformance suite, and names that nobody else uses."""

from eventbus_sync.testing.conformance import KafkaRig, MemoryRig, NatsRig, Rig
from eventbus_sync.testing.conformance.rigs import unique


__all__ = ["KafkaRig", "MemoryRig", "NatsRig", "Rig", "unique"]
