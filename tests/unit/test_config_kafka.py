"""Kafka's settings: servers, TLS, login, and what extra may hold."""

from pathlib import Path
from typing import Any

import pytest

from support.configs import kafka, refusal

from eventbus_sync.config import KafkaConfig
from eventbus_sync.config import extra as _extra


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """Return the path of a file that can be read."""
    path = tmp_path / "some.pem"
    path.write_text("-----BEGIN-----")
    return path


class TestKafkaServers:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("kafka", "kafka:9092"),
            ("a:1, b", "a:1,b:9092"),
            (["a", "b:2"], "a:9092,b:2"),
            (("10.0.0.1:9093",), "10.0.0.1:9093"),
            ("[::1]", "[::1]:9092"),
            ("[fe80::1%eth0]:1,a_b", "[fe80::1%eth0]:1,a_b:9092"),
        ],
    )
    def test_forms(self, given: Any, kept: str) -> None:
        """Servers become one text, each with its port."""
        assert KafkaConfig(bootstrap_servers=given).bootstrap_servers == kept

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ("", "is blank"),
            ("a,", "entry 2 of 2 is blank"),
            ([], "is empty"),
            (None, "NoneType"),
            (b"a", "bytes"),
            ([b"a"], "bytes"),
            (["a", 1], "entry 2 of 2 is of type int"),
            ("a:b", "host and a port"),
            ("a:0", "port from 1 to 65535"),
            ("a:65536", "port from 1 to 65535"),
            ("a b", "host and a port"),
            ("kafka://a", "host and a port"),
            ("me:hunter2@a", "host and a port"),
            ("::1", "host and a port"),
            ("a/b", "host and a port"),
            ("é", "host and a port"),
        ],
    )
    def test_refused(self, given: object, says: str) -> None:
        """What is no list of servers is refused; entries are counted, not repeated."""
        said = refusal(KafkaConfig, bootstrap_servers=given)
        assert said.startswith("bootstrap_servers ")
        assert says in said
        assert "hunter2" not in said


class TestKafka:
    def test_linger(self) -> None:
        """Events must have more time than they linger."""
        said = refusal(kafka, linger=2, delivery_timeout=2)
        assert "delivery_timeout=2 must exceed linger=2" in said
        assert "linger must be" in refusal(kafka, linger=901, delivery_timeout=2000)
        assert kafka(linger=0).linger == 0

    @pytest.mark.parametrize("name", ["idempotence", "tls", "tls_verify_hostname"])
    @pytest.mark.parametrize("value", [0, 1, "true", None], ids=repr)
    def test_flags(self, name: str, value: object) -> None:
        """A flag is True or False."""
        assert refusal(kafka, **{name: value}).startswith(f"{name} must be True or")

    def test_choices(self) -> None:
        """Compression and mechanism are among those that exist."""
        assert "'zstd'" in refusal(kafka, compression="zip")
        assert "'SCRAM-SHA-512'" in refusal(kafka, sasl_mechanism="GSSAPI")

    @pytest.mark.parametrize("name", ["tls_ca", "tls_cert", "tls_key"])
    def test_files(self, name: str, pem: Path, tmp_path: Path) -> None:
        """A file must be there to be read, also as a path object."""
        for bad in (tmp_path / "none.pem", tmp_path, "", 7, "a\x00b"):
            assert refusal(kafka, tls=True, **{name: bad}).startswith(name)
        files = {"tls_cert": pem, "tls_key": pem, name: str(pem)}
        assert getattr(kafka(tls=True, **files), name) == str(pem)

    def test_tls_settings_need_tls(self, pem: Path) -> None:
        """Settings without TLS are a mistake: the connection would be in the clear."""
        for name in ("tls_ca", "tls_cert", "tls_key", "tls_key_password"):
            said = refusal(kafka, **{name: str(pem)})
            assert said.startswith(f"{name} needs tls=True")

    def test_certificate_and_key(self, pem: Path) -> None:
        """A certificate and its key come together, the key's password with the key."""
        assert refusal(kafka, tls=True, tls_cert=pem).startswith("tls_key is missing")
        assert refusal(kafka, tls=True, tls_key=pem).startswith("tls_cert is missing")
        said = refusal(kafka, tls=True, tls_key_password="x")
        assert said.startswith("tls_key_password needs tls_key")

    def test_login(self) -> None:
        """Mechanism, username and password come together."""
        assert "sasl_mechanism must be set" in refusal(
            kafka, username="u", password="p"
        )
        assert "sasl_mechanism must be set" in refusal(kafka, password="p")
        said = refusal(kafka, sasl_mechanism="PLAIN", username="u")
        assert said.startswith("password is missing")
        said = refusal(kafka, sasl_mechanism="PLAIN", password="p")
        assert said.startswith("username is missing")

    @pytest.mark.parametrize(
        ("settings", "protocol"),
        [
            ({}, "plaintext"),
            ({"tls": True}, "ssl"),
            (
                {"sasl_mechanism": "PLAIN", "username": "u", "password": "p"},
                "sasl_plaintext",
            ),
            ({"tls": True, "extra": {"sasl.mechanism": "OAUTHBEARER"}}, "sasl_ssl"),
            ({"extra": {"sasl.mechanisms": "GSSAPI"}}, "sasl_plaintext"),
        ],
    )
    def test_security_protocol(self, settings: dict[str, Any], protocol: str) -> None:
        """The protocol follows from TLS and the login, ours or one of extra."""
        assert kafka(**settings).security_protocol == protocol


class TestKafkaExtra:
    @pytest.mark.parametrize("name", sorted(_extra._KAFKA))
    def test_refused(self, name: str) -> None:
        """What has a setting of ours or would break a promise is refused by name."""
        said = refusal(kafka, extra={"client.rack": "a", name: "x"})
        assert said.startswith(f"extra cannot hold {name!r}: ")

    @pytest.mark.parametrize(
        ("name", "use"),
        [
            ("delivery.timeout.ms", "delivery_timeout"),
            ("linger.ms", "linger"),
            ("message.max.bytes", "max_message_bytes"),
            ("ssl.ca.location", "tls_ca"),
            ("sasl.password", "password"),
            ("enable.idempotence", "idempotence"),
            ("error_cb", "set_error_handler"),
        ],
    )
    def test_the_way_to_go(self, name: str, use: str) -> None:
        """The refusal names what to use instead."""
        assert use in refusal(kafka, extra={name: "x"})

    @pytest.mark.parametrize(
        "name", ["max.in.flight", "max.in.flight.requests.per.connection"]
    )
    def test_requests_in_flight(self, name: str) -> None:
        """Up to five keep the order; without idempotence there is none to keep."""
        for value in (1, 5, "3"):
            kafka(extra={name: value})
        for bad in (6, "6", 0, None, 1.0):
            assert "order" in refusal(kafka, extra={name: bad})
        kafka(idempotence=False, extra={name: 100})

    def test_queuing_strategy(self) -> None:
        """Last in, first out is no order."""
        kafka(extra={"queuing.strategy": "fifo"})
        assert "order" in refusal(kafka, extra={"queuing.strategy": "lifo"})

    @pytest.mark.parametrize("name", ["sasl.mechanism", "sasl.mechanisms"])
    def test_mechanisms(self, name: str) -> None:
        """Mechanisms that have no setting of ours are reached through extra."""
        kafka(extra={name: "GSSAPI", "sasl.kerberos.service.name": "kafka"})
        assert "use sasl_mechanism" in refusal(kafka, extra={name: "plain"})
        ours = {"sasl_mechanism": "PLAIN", "username": "u", "password": "p"}
        assert "already" in refusal(kafka, **ours, extra={name: "OAUTHBEARER"})

    def test_everything_else_passes(self) -> None:
        """Other settings reach the driver, whatever their values are."""
        extra = {
            "socket.keepalive.enable": True,
            "oauth_cb": print,
            "enable.gapless.guarantee": False,
            "ssl.ca.pem": "x",
            "statistics.interval.ms": 1000,
        }
        assert kafka(extra=extra).extra == extra

    def test_no_alias_is_forgotten(self) -> None:
        """What librdkafka calls by two names is refused by both."""
        aliases = {
            "bootstrap.servers": "metadata.broker.list",
            "linger.ms": "queue.buffering.max.ms",
            "retries": "message.send.max.retries",
            "compression.type": "compression.codec",
            "acks": "request.required.acks",
            "delivery.timeout.ms": "message.timeout.ms",
        }
        assert {*aliases, *aliases.values()} <= _extra._KAFKA.keys()
