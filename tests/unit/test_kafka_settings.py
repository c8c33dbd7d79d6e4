"""What a KafkaConfig means in librdkafka's settings, as librdkafka understands them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from confluent_kafka import Producer

from eventbus_sync.backends.kafka.settings import (
    SPARE_MESSAGES,
    driver_settings,
    secrets_of,
)
from eventbus_sync.config import KafkaConfig


class Silence:
    """Takes the driver's log."""

    def log(self, *_: object) -> None:
        """Nothing is kept."""


def settings_of(**changes: Any) -> dict[str, Any]:
    """Return the driver's settings for a broker that does not exist."""
    changes.setdefault("bootstrap_servers", "127.0.0.1:1")
    return driver_settings(KafkaConfig(**changes))


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """A file that can be read."""
    path = tmp_path / "some.pem"
    path.write_text("")
    return str(path)


@pytest.fixture
def producers() -> Iterator[list[Producer]]:
    """Producers that are ended with the test."""
    made: list[Producer] = []
    yield made
    for producer in made:
        producer.purge()
        while len(producer):
            producer.poll(0.1)
        producer.close()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"idempotence": False},
        {"linger": 0, "delivery_timeout": 0.001},
        {"linger": 0.9996, "delivery_timeout": 1},
        {"linger": 900, "delivery_timeout": 2_147_483},
        {"max_in_flight": 2**31 - 1, "max_in_flight_bytes": 2**40},
        {"max_in_flight": 1, "max_in_flight_bytes": 1, "max_message_bytes": 1},
        {"max_message_bytes": 1_000_000_000},
        {"tls": True, "tls_verify_hostname": False},
        {"sasl_mechanism": "PLAIN", "username": "u", "password": "p"},
        {"sasl_mechanism": "SCRAM-SHA-512", "username": "u", "password": "p"},
        {"compression": "zstd", "client_id": "shop"},
        {"extra": {"statistics.interval.ms": 0, "batch.size": "1000"}},
    ],
)
def test_librdkafka_accepts_what_the_config_accepts(
    changes: dict[str, Any], producers: list[Producer]
) -> None:
    """No legal configuration is refused by the driver."""
    producers.append(Producer(settings_of(**changes), logger=Silence()))


def test_the_promises_are_in_the_settings() -> None:
    """Stored once, in order, on every replica, on Go's partition, for so long."""
    settings = settings_of(delivery_timeout=30, linger=0.005)
    assert settings["enable.idempotence"] is True
    assert settings["acks"] == "all"
    assert settings["partitioner"] == "fnv1a_random"
    # The poll thread comes first, and gives the producer up where it must.
    assert settings["message.timeout.ms"] == 30_600
    assert settings["linger.ms"] == 5
    assert "max.in.flight.requests.per.connection" not in settings


def test_without_idempotence_one_request_at_a_time_keeps_the_order() -> None:
    """A retry may still store twice, but it overtakes nothing."""
    settings = settings_of(idempotence=False)
    assert settings["enable.idempotence"] is False
    assert settings["acks"] == "all"
    assert settings["max.in.flight.requests.per.connection"] == 1


def test_the_buses_own_limits_bind_first() -> None:
    """The driver's queue has room for more than the bus lets in flight."""
    settings = settings_of(max_in_flight=500, max_in_flight_bytes=1_000_001)
    assert settings["queue.buffering.max.messages"] == 500 + SPARE_MESSAGES
    assert settings["queue.buffering.max.kbytes"] * 1024 > 1_000_001


@pytest.mark.parametrize("seconds", [1, 5, 30, 600])
def test_one_silent_broker_does_not_use_up_the_time(seconds: float) -> None:
    """Retries, and the verdict on an absent topic, fit into delivery_timeout."""
    settings = settings_of(delivery_timeout=seconds)
    assert settings["socket.timeout.ms"] <= max(1000, seconds * 1000 / 3)
    assert settings["request.timeout.ms"] < settings["socket.timeout.ms"]
    assert settings["topic.metadata.propagation.max.ms"] <= seconds * 1000 / 3


def test_extra_has_the_last_word() -> None:
    """Any setting that breaks no promise can be had."""
    settings = settings_of(extra={"batch.size": 1000, "socket.timeout.ms": 5000})
    assert settings["batch.size"] == 1000
    assert settings["socket.timeout.ms"] == 5000


def test_the_client_is_called_like_the_bus() -> None:
    """Brokers' logs and quotas know it by client_id, or by the name of the bus."""
    assert settings_of(name="shop")["client.id"] == "shop"
    assert settings_of(name="shop", client_id="till")["client.id"] == "till"


def test_security_in_the_drivers_words(certificate: str) -> None:
    """TLS and login reach the driver, and what is not set stays at its default."""
    settings = settings_of(
        tls=True,
        tls_ca=certificate,
        tls_cert=certificate,
        tls_key=certificate,
        tls_key_password="key-secret",
        sasl_mechanism="SCRAM-SHA-256",
        username="alice",
        password="alice-secret",
    )
    assert settings["security.protocol"] == "sasl_ssl"
    assert settings["ssl.ca.location"] == certificate
    assert settings["ssl.certificate.location"] == certificate
    assert settings["ssl.key.location"] == certificate
    assert settings["ssl.key.password"] == "key-secret"
    assert settings["ssl.endpoint.identification.algorithm"] == "https"
    assert settings["sasl.mechanism"] == "SCRAM-SHA-256"
    assert settings["sasl.username"] == "alice"
    assert settings["sasl.password"] == "alice-secret"
    assert settings_of()["security.protocol"] == "plaintext"
    assert not [n for n in settings_of(tls=True) if n.startswith("sasl.")]
    assert not [n for n in settings_of() if n.startswith("ssl.")]


def test_secrets_are_known_by_value() -> None:
    """Passwords from any setting are found, the longest first."""
    settings = settings_of(
        sasl_mechanism="PLAIN",
        username="alice",
        password="secret",
        extra={"ssl.keystore.password": "secret-too", "ssl.key.pem": ""},
    )
    assert secrets_of(settings) == ("secret-too", "secret")


@pytest.mark.parametrize("size", [1, 100, 5000, 1_000_000])
@pytest.mark.parametrize("header", [("h", ""), ("h", "x" * 60), ("n" * 200, "x" * 200)])
def test_no_event_is_too_large_for_its_framing(
    size: int, header: tuple[str, str], producers: list[Producer]
) -> None:
    """An event of max_message_bytes passes, however many headers it is made of."""
    producer = Producer(settings_of(max_message_bytes=size), logger=Silence())
    producers.append(producer)
    one = len(header[0]) + len(header[1])
    headers: list[tuple[str, str | bytes | None]] = [header] * (size // one)
    producer.produce("t", b"x" * (size % one), headers=headers)
    producer.produce("t", b"x" * size)
