"""
Driver settings: kept as they were given, but for those which ``extra`` refuses, with
the reason and the way to go instead.

Everything else reaches the driver. What is refused would break a promise of the bus, or
has a setting of our own that would silently lose to it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from eventbus_sync.config.fields import Check, shown
from eventbus_sync.errors import ConfigError


_OWN_CALLBACK: Final = "the bus needs it for the outcomes of events; "

# Aliases are named too: librdkafka would let the last of two win.
_KAFKA: Final = {
    # Settings of our own.
    "bootstrap.servers": "use bootstrap_servers",
    "metadata.broker.list": "use bootstrap_servers",
    "client.id": "use client_id",
    "linger.ms": "use linger, in seconds",
    "queue.buffering.max.ms": "use linger, in seconds",
    "compression.type": "use compression",
    "compression.codec": "use compression",
    "message.max.bytes": "use max_message_bytes",
    "queue.buffering.max.messages": "use max_in_flight",
    "queue.buffering.max.kbytes": "use max_in_flight_bytes",
    "message.timeout.ms": "use delivery_timeout, in seconds",
    "delivery.timeout.ms": "use delivery_timeout, in seconds",
    "enable.idempotence": "use idempotence",
    "security.protocol": "use tls and sasl_mechanism",
    "test.mock.num.brokers": "events would go to a cluster that keeps nothing; "
    "tests use eventbus_sync.testing",
    "ssl.ca.location": "use tls_ca",
    "ssl.certificate.location": "use tls_cert",
    "ssl.key.location": "use tls_key",
    "ssl.key.password": "use tls_key_password",
    "ssl.endpoint.identification.algorithm": "use tls_verify_hostname",
    "sasl.username": "use username",
    "sasl.password": "use password",
    # Promises.
    "acks": "an acked event is on all in-sync replicas, so it is always 'all'",
    "request.required.acks": (
        "an acked event is on all in-sync replicas, so it is always 'all'"
    ),
    "partitioner": "it is fixed, so that Go and Python agree on partitions",
    "partitioner_cb": "it is fixed, so that Go and Python agree on partitions",
    "transactional.id": "events are published one by one, outside of transactions",
    "delivery.report.only.error": "acked events would never get their outcome",
    "retries": "events are retried until delivery_timeout; set that",
    "message.send.max.retries": "events are retried until delivery_timeout; set that",
    "default.topic.config": "write its settings straight into extra",
    "default_topic_conf": "write its settings straight into extra",
    "enabled_events": _OWN_CALLBACK + "read the result channel",
    "on_delivery": _OWN_CALLBACK + "use register_publish_callback",
    "dr_cb": _OWN_CALLBACK + "use register_publish_callback",
    "dr_msg_cb": _OWN_CALLBACK + "use register_publish_callback",
    "background_event_cb": _OWN_CALLBACK + "use register_publish_callback",
    "error_cb": _OWN_CALLBACK + "use set_error_handler",
    "stats_cb": "it would run on the thread that serves outcomes; use bus.health()",
    "throttle_cb": "it would run on the thread that serves outcomes; use bus.health()",
    "logger": "the bus passes its own; configure logging for 'eventbus_sync'",
    "log_cb": "the bus passes its own; configure logging for 'eventbus_sync'",
}
_IN_FLIGHT: Final = {"max.in.flight", "max.in.flight.requests.per.connection"}
_MOST_IN_FLIGHT: Final = 5
_MECHANISM: Final = {"sasl.mechanism", "sasl.mechanisms"}
_OWN_MECHANISMS: Final = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}

_OWN_LOOP: Final = "the bus reconnects itself, to keep order; use reconnect_wait"

_NATS: Final = {
    # Settings of our own.
    "servers": "use servers of the configuration",
    "name": "use name of the configuration",
    "connect_timeout": "use connect_timeout of the configuration",
    "ping_interval": "use ping_interval of the configuration",
    "inbox_prefix": "use inbox_prefix of the configuration",
    "user": "use user of the configuration",
    "password": "use password of the configuration",
    "token": "use token of the configuration",
    "nkeys_seed": "use nkey_seed_file",
    "nkeys_seed_str": "use nkey_seed",
    "user_credentials": "use creds_file",
    "tls": "use tls, tls_ca, tls_cert and tls_key",
    "tls_hostname": "use tls_hostname of the configuration",
    # Promises.
    "allow_reconnect": _OWN_LOOP,
    "max_reconnect_attempts": _OWN_LOOP,
    "reconnect_time_wait": _OWN_LOOP,
    "reconnect_to_server_handler": _OWN_LOOP,
    "error_cb": _OWN_CALLBACK + "use set_error_handler",
    "disconnected_cb": _OWN_CALLBACK + "use set_error_handler",
    "closed_cb": _OWN_CALLBACK + "use set_error_handler",
    "reconnected_cb": _OWN_CALLBACK + "use register_reconnect_callback",
    "discovered_server_cb": _OWN_CALLBACK + "use bus.health()",
    "lame_duck_mode_cb": _OWN_CALLBACK + "use bus.health()",
    "flush_timeout": "without the bus's own a publish could wait for ever",
    "no_echo": "what the bus's connection receives are its acknowledgements",
    "skip_subject_validation": "the bus checks every subject itself",
}


def kafka(config: Any, name: str, value: object) -> str:
    """Return why a librdkafka setting cannot be had, or an empty text."""
    if name in _IN_FLIGHT:
        few = isinstance(value, (int, str)) and str(value) in {"1", "2", "3", "4", "5"}
        if config.idempotence and not few:
            return f"more than {_MOST_IN_FLIGHT} would break the order per aggregate"
    if name == "queuing.strategy" and value != "fifo":
        return "anything but 'fifo' would break the order per aggregate"
    if name in _MECHANISM:
        if str(value).upper() in _OWN_MECHANISMS:
            return "use sasl_mechanism"
        if config.sasl_mechanism is not None:
            return "sasl_mechanism is set already; leave one of them out"
    return _KAFKA.get(name, "")


def nats(_: Any, name: str, value: object) -> str:
    """Return why an option of nats-py's connect cannot be had, or an empty text."""
    del value
    return _NATS.get(name, "")


class ReadOnly(Mapping[str, object]):
    """
    Driver settings that nobody can change, and whose values ``repr`` does not show.

    ``types.MappingProxyType`` can neither be pickled nor copied.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[type["ReadOnly"], tuple[dict[str, object]]]:
        return ReadOnly, (self._values,)

    def __repr__(self) -> str:
        # Any of them may be a secret.
        return "{" + ", ".join(f"{name!r}: '***'" for name in self) + "}"


def as_read_only(value: Mapping[str, object]) -> Mapping[str, object]:
    """Return a copy that nobody can change; what is no mapping is left to the check."""
    given: object = value
    return ReadOnly(given) if isinstance(given, Mapping) else value


def driver_settings(refused: Callable[[Any, str, object], str]) -> Check:
    """
    Let pass driver settings by name.

    Args:
        refused: returns why a configuration cannot have a setting, or an empty text.
    """

    def check(config: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
        if not isinstance(value, Mapping):
            msg = f"{field.name} must map names to values, not {type(value).__name__}"
            raise ConfigError(msg)
        for name, setting in value.items():
            if not isinstance(name, str):
                msg = f"{field.name} has a name that is no text: {shown(name)}"
                raise ConfigError(msg)
            why = refused(config, name, setting)
            if why:
                msg = f"{field.name} cannot hold {name!r}: {why}"
                raise ConfigError(msg)

    return check
