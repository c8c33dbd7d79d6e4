"""Configurations to build, and what is said when they are refused."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus_sync.config import BusConfig, KafkaConfig
from eventbus_sync.errors import ConfigError


def kafka(**settings: Any) -> KafkaConfig:
    """Return a configuration with a server and these settings."""
    return KafkaConfig(**{"bootstrap_servers": "kafka", **settings})


def refusal(kind: Callable[..., BusConfig], **settings: Any) -> str:
    """Return what is said when the settings are refused."""
    with pytest.raises(ConfigError) as caught:
        kind(**settings)
    return str(caught.value)
