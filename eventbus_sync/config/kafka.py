"""Checks of Kafka's settings that take more than one of them into account."""

from typing import Any, Final

from eventbus_sync.config.fields import check_tls
from eventbus_sync.errors import ConfigError


#: librdkafka's own limit.
MAX_LINGER: Final = 900


def check(config: Any) -> None:
    """Refuse settings that are right one by one, but not together."""
    if config.delivery_timeout <= config.linger:
        msg = (
            f"delivery_timeout={config.delivery_timeout:g} must exceed linger="
            f"{config.linger:g}, or events would time out before they are sent"
        )
        raise ConfigError(msg)
    check_tls(config, "tls_ca", "tls_cert", "tls_key", "tls_key_password")
    if config.tls_key_password is not None and config.tls_key is None:
        msg = "tls_key_password needs tls_key, the file that it opens"
        raise ConfigError(msg)
    _check_login(config)


def _check_login(config: Any) -> None:
    given = {
        "username": config.username is not None,
        "password": config.password is not None,
    }
    if config.sasl_mechanism is None and any(given.values()):
        msg = (
            "sasl_mechanism must be set to log in with a username and password: PLAIN, "
            "SCRAM-SHA-256 or SCRAM-SHA-512"
        )
        raise ConfigError(msg)
    for name, there in given.items():
        if config.sasl_mechanism is not None and not there:
            msg = (
                f"{name} is missing: sasl_mechanism={config.sasl_mechanism!r} needs it"
            )
            raise ConfigError(msg)


def security_protocol(config: Any) -> str:
    """Return librdkafka's name for what ``tls`` and the login ask for."""
    login = config.sasl_mechanism is not None or not config.extra.keys().isdisjoint(
        {"sasl.mechanism", "sasl.mechanisms"}
    )
    if config.tls:
        return "sasl_ssl" if login else "ssl"
    return "sasl_plaintext" if login else "plaintext"
