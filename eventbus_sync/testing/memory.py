"""A bus for unit tests, with a broker that fails on command."""

from eventbus_sync._runtime import Runtime
from eventbus_sync.backends.memory import MemoryBackend, MemoryBroker, StoredMessage
from eventbus_sync.bus import EventBus
from eventbus_sync.config import MemoryConfig
from eventbus_sync.errors import ConfigError


__all__ = ["MemoryBroker", "MemoryBus", "StoredMessage"]


class MemoryBus(EventBus):
    """
    An ``EventBus`` on memory whose broker obeys: ``bus.broker.reject(...)``, ….

    Give it to the code under test in place of the real bus; the contract is the same,
    and one conformance suite proves it.

    Example::

        bus = MemoryBus()
        bus.broker.reject(BrokerFull("no space"), topic="orders")
        bus.broker.delay(0.5)
        bus.broker.freeze()

    Args:
        config: default ``MemoryConfig()``.
    """

    def __init__(self, config: MemoryConfig | None = None) -> None:
        config = config or MemoryConfig()
        if not isinstance(config, MemoryConfig):
            msg = f"config must be a MemoryConfig, not {type(config).__name__}"
            raise ConfigError(msg)
        super().__init__(config)
        self.broker = MemoryBroker(config.latency)

    def _new_runtime(self) -> Runtime:
        return Runtime(
            self._config,
            self._channel,
            self._callbacks,
            lambda sink: MemoryBackend(self._memory_config, sink, self.broker),
        )

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self.broker.reset_after_fork()

    @property
    def _memory_config(self) -> MemoryConfig:
        assert isinstance(self._config, MemoryConfig)  # noqa: S101 - given to __init__
        return self._config
