"""What a ``KafkaConfig`` means in librdkafka's own settings."""

from typing import Any

from eventbus_sync.config import KafkaConfig


#: Messages and kilobytes that the driver's queue takes beyond what the bus has in
#: flight: plain messages, and events that the bus gave up before the driver did.
SPARE_MESSAGES = 10_000
SPARE_KBYTES = 16 * 1024

#: Bytes of a batch; librdkafka's default. Brokers take 1,048,588 by default.
BATCH_BYTES = 1_000_000

#: Milliseconds between two looks at the connection state, at most.
STATISTICS_INTERVAL = 500
#: Milliseconds that the driver tries longer than the bus, so that the poll thread can
#: give a producer up before its first message times out: see ``Poller``.
GIVE_UP_LEAD = 600

# Bytes that librdkafka adds to a record at most, its headers aside.
_RECORD_OVERHEAD = 36
# A header of one byte takes three on the wire, longer ones relatively less.
_WORST_HEADER_GROWTH = 3
_LARGEST_MESSAGE = 1_000_000_000
_LARGEST_COUNT = 2**31 - 1

# Whoever knows these gets in; they are masked in every text of the driver's.
_SECRET_SETTINGS = (
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.private.key.passphrase",
)


def driver_settings(config: KafkaConfig) -> dict[str, Any]:
    """
    Return the settings for ``confluent_kafka.Producer``, callbacks aside.

    ``extra`` goes in last and wins: what would break a promise was refused when the
    config was made.
    """
    settings: dict[str, Any] = {
        "bootstrap.servers": config.bootstrap_servers,
        "client.id": config.client_id or config.name,
        # The same partition as the Go SDK for the same aggregate.
        "partitioner": "fnv1a_random",
        "compression.type": config.compression,
        "batch.size": BATCH_BYTES,
        "statistics.interval.ms": _statistics_interval(config),
    }
    settings |= _guarantees(config)
    settings |= _times(config)
    settings |= _limits(config)
    settings |= _security(config)
    settings |= config.extra
    return settings


def secrets_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """Return the values that must never show in a text, longest first."""
    values = {str(settings[name]) for name in _SECRET_SETTINGS if settings.get(name)}
    return tuple(sorted(values, key=len, reverse=True))


def _statistics_interval(config: KafkaConfig) -> int:
    """Return the milliseconds; a few looks have to fit into ``delivery_timeout``."""
    few = max(100, round(config.delivery_timeout * 1000 / 8))
    return min(STATISTICS_INTERVAL, few)


def _guarantees(config: KafkaConfig) -> dict[str, Any]:
    if config.idempotence:
        return {"enable.idempotence": True, "acks": "all"}
    # Without sequence numbers a retry may overtake. One request at a time keeps the
    # order; a retry may still store twice, and that cannot be helped here.
    return {
        "enable.idempotence": False,
        "acks": "all",
        "max.in.flight.requests.per.connection": 1,
    }


def _times(config: KafkaConfig) -> dict[str, Any]:
    delivery = max(2, round(config.delivery_timeout * 1000))
    # A third: when the leader stands still, two more attempts fit in, by then with
    # the leader that was elected meanwhile.
    answer = min(10_000, max(1000, delivery // 3))
    return {
        "message.timeout.ms": delivery + GIVE_UP_LEAD * config.idempotence,
        # librdkafka wants it below message.timeout.ms.
        "linger.ms": min(config.linger * 1000, delivery - 1),
        "socket.timeout.ms": answer,
        # How long the broker waits for its replicas. It must give up before we do: an
        # error answer costs a retry, our own timeout costs the connection.
        "request.timeout.ms": answer * 4 // 5,
        "socket.connection.setup.timeout.ms": 10_000,
        "socket.keepalive.enable": True,
        # A restarted broker is found within about a second.
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1000,
        # By default an absent topic is known to be absent after 30 s only, when the
        # events for it have timed out. A third leaves time for automatic creation.
        "topic.metadata.propagation.max.ms": min(10_000, delivery // 3),
    }


def _limits(config: KafkaConfig) -> dict[str, Any]:
    kbytes = -(-config.max_in_flight_bytes // 1024)
    # An accepted event must never be refused here for its framing. Batches do not
    # grow with this: batch.size bounds them.
    message = config.max_message_bytes * _WORST_HEADER_GROWTH + _RECORD_OVERHEAD
    largest = config.max_message_bytes // 1024 + 1
    return {
        # The bus's own limits bind first, so the driver's queue is hardly ever full.
        "queue.buffering.max.messages": min(
            config.max_in_flight + SPARE_MESSAGES, _LARGEST_COUNT
        ),
        "queue.buffering.max.kbytes": min(
            kbytes + max(SPARE_KBYTES, largest), _LARGEST_COUNT
        ),
        "message.max.bytes": min(max(1000, message), _LARGEST_MESSAGE),
    }


def _security(config: KafkaConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "security.protocol": config.security_protocol,
        "sasl.mechanism": config.sasl_mechanism,
        "sasl.username": config.username,
        "sasl.password": config.password,
    }
    if config.tls:
        verify = "https" if config.tls_verify_hostname else "none"
        found |= {
            "ssl.ca.location": config.tls_ca,
            "ssl.certificate.location": config.tls_cert,
            "ssl.key.location": config.tls_key,
            "ssl.key.password": config.tls_key_password,
            "ssl.endpoint.identification.algorithm": verify,
        }
    return {name: value for name, value in found.items() if value is not None}
