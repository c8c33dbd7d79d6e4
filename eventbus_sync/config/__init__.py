"""
Settings of a bus. Begin with ``configs.py``: what there is, with its defaults.

::

    configs.py   KafkaConfig, NatsConfig, MemoryConfig
    url.py       the same from a URL, or from the environment
    fields.py    checks of single settings, which name the setting
    kafka.py, nats.py   checks of settings that go together
    servers.py   lists of hosts
    extra.py     driver settings, read-only; which are refused, and why
"""

from eventbus_sync.config.configs import (
    BusConfig,
    KafkaConfig,
    MemoryConfig,
    NatsConfig,
)


__all__ = ["BusConfig", "KafkaConfig", "MemoryConfig", "NatsConfig"]
