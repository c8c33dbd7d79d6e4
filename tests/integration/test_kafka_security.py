"""TLS, logins and ACLs on Apache Kafka: what works, and what is said when it does not."""

import logging
import time

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import trustme

from confluent_kafka import KafkaException

# The submodules, because the package does not declare that it exports these names.
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
)
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from support.apache_kafka import ApacheKafka, availability
from support.eventually import eventually
from support.patience import SLACK
from support.rigs import unique

from eventbus_sync import Envelope, EventBus, KafkaConfig, Outcome, PublishResult
from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerUnreachable,
    ConfigError,
    EventBusError,
    NotAuthorized,
    StartFailed,
)
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import read_kafka_topic


pytestmark = [pytest.mark.kafka, pytest.mark.slow]

#: Part of every secret here, and of nothing else.
MARK = "s3cret"
USERS = {"alice": f"alice-{MARK}", "bob": f"bob-{MARK}", "carol": f"carol-{MARK}"}
KEY_PASSWORD = f"key-{MARK}"

OPEN_TOPIC = "open-to-all"

#: Promise 1 gives two seconds beyond delivery_timeout; the machine that runs this may
#: be asleep for another one.
LATE = 20.0

Settings = dict[str, Any]
OpenBus = Callable[..., EventBus]


# -- the broker ------------------------------------------------------------------------


class SecuredKafka(ApacheKafka):
    """
    A node with two listeners more, both TLS, and with ACLs; unnamed users may do all.

    ``mtls`` wants to see a client's certificate. The certificate of ``other_host`` is
    made out to another host. A topic without an ACL is open to everybody.
    """

    def _choose_ports(self) -> tuple[int, ...]:
        return tuple(free_port() for _ in range(5))

    def listener(self, name: str) -> str:
        """``host:port`` of a listener."""
        return f"{HOST}:{self._ports[LISTENERS.index(name)]}"

    def file(self, name: str) -> Path:
        """One of the files with certificates and keys."""
        return self._folder() / name

    def _command(self, folder: Path) -> Any:
        if not self.ca_file.exists():
            write_certificates(folder)
        return super()._command(folder)

    def _settings(self, folder: Path) -> Iterable[tuple[str, str]]:
        advertised = ",".join(
            f"{name.upper()}://{self.listener(name)}"
            for name in LISTENERS
            if name != "controller"
        )
        yield from super()._settings(folder)
        yield "listeners", f"{advertised},CONTROLLER://{self.listener('controller')}"
        yield "advertised.listeners", advertised
        protocols = "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,MTLS:SSL,OTHER_HOST:SSL"
        yield "listener.security.protocol.map", f"CONTROLLER:PLAINTEXT,{protocols}"
        for name, certificate in (("mtls", "server"), ("other_host", "other-host")):
            yield f"listener.name.{name}.ssl.keystore.type", "PEM"
            yield (
                f"listener.name.{name}.ssl.keystore.location",
                str(folder / f"{certificate}.pem"),
            )
        yield "listener.name.mtls.ssl.client.auth", "required"
        yield "listener.name.mtls.ssl.truststore.type", "PEM"
        yield "listener.name.mtls.ssl.truststore.location", str(folder / "clients.pem")
        yield (
            "listener.name.sasl_ssl.sasl.enabled.mechanisms",
            "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        )
        yield (
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        )


LISTENERS = ("plaintext", "controller", "sasl_ssl", "mtls", "other_host")

ACLS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "allow.everyone.if.no.acl.found": "true",
}


def write_certificates(folder: Path) -> None:
    """Every certificate and key that the tests need is there."""
    servers, clients, stranger = trustme.CA(), trustme.CA(), trustme.CA()
    servers.cert_pem.write_to_path(str(folder / "ca.pem"))
    clients.cert_pem.write_to_path(str(folder / "clients.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger.pem"))
    for name, host in (("server", HOST), ("other-host", "kafka.example")):
        certificate = servers.issue_cert(host)
        (folder / f"{name}.pem").write_bytes(key_of(certificate) + chain(certificate))
    for name, authority in (("client", clients), ("strange-client", stranger)):
        certificate = authority.issue_cert("client.example", common_name=name)
        (folder / f"{name}.pem").write_bytes(chain(certificate))
        (folder / f"{name}.key").write_bytes(key_of(certificate))
        locked = key_of(certificate, KEY_PASSWORD)
        (folder / f"{name}-locked.key").write_bytes(locked)


def chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in certificate.cert_chain_pems)


def key_of(certificate: trustme.LeafCert, password: str = "") -> bytes:
    """The key as Kafka reads it, PKCS 8; trustme writes the older form."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    locked = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecuredKafka]:
    """One node for this file; every topic has to be created."""
    if reason := availability():
        skip_or_fail(reason)
    with SecuredKafka(users=USERS, properties=ACLS, auto_create_topics=False) as node:
        yield node


#: What Kafka calls the cluster as the object of an ACL.
CLUSTER = "kafka-cluster"


class Admin:
    """Whoever may do everything; each call returns when the broker has done it."""

    def __init__(self, servers: str) -> None:
        self._client = AdminClient({"bootstrap.servers": servers, "log_level": 0})

    def create_topic(self, topic: str) -> str:
        """The topic exists; its name."""
        self._done(self._client.create_topics([NewTopic(topic, 1, 1)]))
        return topic

    def add_scram_512(self, user: str) -> None:
        """The user can log in with that mechanism too, and the same password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        credential = UserScramCredentialUpsertion(user, info, USERS[user].encode())
        self._done(self._client.alter_user_scram_credentials([credential]))

    def deny_write(self, user: str, topic: str) -> None:
        """The user may not write to the topic."""
        self._add(user, AclOperation.WRITE, AclPermissionType.DENY, topic)

    def deny_everything(self, user: str, topic: str) -> None:
        """The user may not even know of the topic."""
        self._add(user, AclOperation.ALL, AclPermissionType.DENY, topic)

    def forgive(self, user: str, topic: str) -> None:
        """The user may do to the topic what everybody may."""
        self._remove(user, topic, ResourceType.TOPIC)

    def grant_idempotence(self, user: str) -> None:
        """The user gets a producer id again."""
        self._remove(user, CLUSTER, ResourceType.BROKER)

    def _remove(self, user: str, name: str, kind: ResourceType) -> None:
        rule = AclBindingFilter(
            kind,
            name,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        self._done(self._client.delete_acls([rule]))

    def deny_idempotence(self, *users: str) -> None:
        """
        These users get no producer id, others do.

        As on clusters before Kafka 2.8, where that took a permission of its own. Today
        the right to write to any topic suffices. Whether somebody has that, where
        topics without ACLs are open to all, is found out with a topic of this name.
        """
        rights = [("*", AclPermissionType.ALLOW)]
        rights += [(user, AclPermissionType.DENY) for user in users]
        operation = AclOperation.IDEMPOTENT_WRITE
        for user, permission in rights:
            self._add(user, operation, permission, CLUSTER, ResourceType.BROKER)
        for user in users:
            self.deny_write(user, "hardcode")

    def _add(
        self,
        user: str,
        operation: AclOperation,
        permission: AclPermissionType,
        name: str,
        kind: ResourceType = ResourceType.TOPIC,
    ) -> None:
        literal = ResourcePatternType.LITERAL
        rule = AclBinding(
            kind, name, literal, f"User:{user}", "*", operation, permission
        )
        self._done(self._client.create_acls([rule]))

    def _done(self, futures: Mapping[Any, Any]) -> None:
        for future in futures.values():
            future.result(20)


@pytest.fixture(scope="module")
def admin(kafka: SecuredKafka) -> Admin:
    """The administrator, when users and the open topic exist."""
    admin = Admin(kafka.bootstrap_servers)
    admin.create_topic(OPEN_TOPIC)
    admin.add_scram_512("alice")
    admin.deny_idempotence("bob", "carol")
    return admin


# -- the bus, and what it says ---------------------------------------------------------


def words(thing: object) -> str:
    """Everything that one can read of an object, of an error its causes too."""
    said = [str(thing), repr(thing)]
    if isinstance(thing, BaseException):
        said += [repr(thing.args), repr(getattr(thing, "__dict__", None))]
        for reason in (thing.__cause__, thing.__context__):
            if reason is not None:
                said.append(words(reason))
    return "\n".join(said)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[object]]:
    """Whatever a test puts here or the bus logs, in whatever detail, holds no secret."""
    caplog.set_level(logging.DEBUG)
    things: list[object] = []
    yield things
    for phase in ("call", "teardown"):
        for record in caplog.get_records(phase):
            things += [record.getMessage(), record.args, (record.exc_info or (0, 0))[1]]
    assert [text for text in map(words, things) if MARK in text] == []


@pytest.fixture
def open_bus(
    kafka: SecuredKafka, admin: Admin, said: list[object]
) -> Iterator[OpenBus]:
    """A function that opens a bus on a listener; what it says is kept, and it ends."""
    del admin  # the users exist
    buses: list[EventBus] = []

    def open_bus(listener: str = "sasl_ssl", **settings: Any) -> EventBus:
        config = KafkaConfig(**settings_for(kafka, listener, **settings))
        bus = EventBus(config)
        bus.set_error_handler(said.append)
        buses.append(bus)
        said.append(config)
        return bus

    yield open_bus
    for bus in buses:
        said += [bus, bus.health(), bus.stats()]
        began = time.monotonic()
        bus.close(5)
        assert time.monotonic() - began < 6 + SLACK
        said += [bus, *bus.get_publish_result_channel()]


def settings_for(kafka: SecuredKafka, listener: str, **changes: Any) -> Settings:
    """Settings that are right for the listener, with changes; None takes one away."""
    settings: Settings = {
        "bootstrap_servers": kafka.listener(listener),
        "delivery_timeout": 15.0,
    }
    if listener != "plaintext":
        settings |= {"tls": True, "tls_ca": "ca.pem"}
    if listener == "sasl_ssl":
        settings |= {"sasl_mechanism": "PLAIN", "username": "alice"}
        settings["password"] = USERS[str(changes.get("username") or "alice")]
    if listener == "mtls":
        settings |= {"tls_cert": "client.pem", "tls_key": "client.key"}
    settings |= changes
    for name in {"tls_ca", "tls_cert", "tls_key"} & settings.keys():
        if settings[name] is not None:
            settings[name] = kafka.file(settings[name])
    return {name: value for name, value in settings.items() if value is not None}


def event(number: int = 0) -> Envelope:
    return Envelope("order-1", "OrderCreated", 1, {"n": number})


def outcomes(bus: EventBus, count: int) -> list[PublishResult]:
    """Exactly so many outcomes; fails if they don't come."""
    taken: list[PublishResult] = []
    while len(taken) < count:
        batch = bus.get_publish_result_channel().get_many(count, timeout=30)
        assert batch, bus.stats()
        taken += batch
    return taken


def error_of(result: PublishResult) -> EventBusError:
    assert result.error is not None, result
    return result.error


# -- what is right ---------------------------------------------------------------------


RIGHT = [
    pytest.param("sasl_ssl", {}, id="PLAIN"),
    pytest.param("sasl_ssl", {"sasl_mechanism": "SCRAM-SHA-256"}, id="SCRAM-SHA-256"),
    pytest.param("sasl_ssl", {"sasl_mechanism": "SCRAM-SHA-512"}, id="SCRAM-SHA-512"),
    pytest.param("mtls", {}, id="client certificate"),
    pytest.param(
        "mtls",
        {"tls_key": "client-locked.key", "tls_key_password": KEY_PASSWORD},
        id="client certificate with a locked key",
    ),
    pytest.param(
        "other_host", {"tls_verify_hostname": False}, id="any host name in certificate"
    ),
]


@pytest.mark.parametrize(("listener", "settings"), RIGHT)
def test_right_credentials(
    kafka: SecuredKafka,
    admin: Admin,
    open_bus: OpenBus,
    listener: str,
    settings: Settings,
) -> None:
    """start() returns, and what is acked is stored; the driver's every word is logged."""
    topic = admin.create_topic(unique("right"))
    bus = open_bus(listener, extra={"debug": "all"}, **settings)
    bus.start(20)
    events = [event(number) for number in range(20)]
    for one in events:
        bus.publish_envelope(topic, one)

    assert {r.outcome for r in outcomes(bus, 20)} == {Outcome.ACKED}
    assert bus.health().connected is True
    stored = read_kafka_topic(kafka.bootstrap_servers, topic)
    assert [e.event_id for e in stored] == [e.event_id for e in events]


def test_credentials_in_a_url(
    kafka: SecuredKafka, admin: Admin, said: list[object]
) -> None:
    """A URL says it all, and the bus that is made of it shows no password."""
    del admin
    url = (
        f"kafka+tls://alice:{USERS['alice']}@{kafka.listener('sasl_ssl')}"
        f"?sasl_mechanism=SCRAM-SHA-512&tls_ca={quote(str(kafka.ca_file))}"
    )
    with EventBus.from_url(url) as bus:
        bus.start(20)
        result = bus.publish_envelope_sync(OPEN_TOPIC, event())
        said += [bus, bus.health(), result]
    assert result.success


# -- what is wrong with the connection -------------------------------------------------


NO_LOGIN: Settings = {"sasl_mechanism": None, "username": None, "password": None}
NO_TLS: Settings = {"tls": None, "tls_ca": None}


class Wrong(NamedTuple):
    """What is wrong where, and what start() raises: the cause and the cure."""

    listener: str
    settings: Settings
    raised: type[StartFailed]
    cause: str
    cure: str


WRONG = {
    "wrong password": Wrong(
        "sasl_ssl",
        {"password": f"wr0ng-{MARK}"},
        AuthenticationFailed,
        "Invalid username or password",
        "password",
    ),
    "wrong password, SCRAM-SHA-256": Wrong(
        "sasl_ssl",
        {"sasl_mechanism": "SCRAM-SHA-256", "password": f"wr0ng-{MARK}"},
        AuthenticationFailed,
        "invalid credentials with SASL mechanism SCRAM-SHA-256",
        "password",
    ),
    "unknown user, SCRAM-SHA-512": Wrong(
        "sasl_ssl",
        {"sasl_mechanism": "SCRAM-SHA-512", "username": "bob"},
        AuthenticationFailed,
        "invalid credentials with SASL mechanism SCRAM-SHA-512",
        "username",
    ),
    "login where there is none": Wrong(
        "plaintext",
        {"sasl_mechanism": "PLAIN", "username": "bob", "password": USERS["bob"]},
        AuthenticationFailed,
        "mechanism handshake failed",
        "sasl_mechanism",
    ),
    "wrong authority": Wrong(
        "sasl_ssl",
        {"tls_ca": "stranger.pem"},
        AuthenticationFailed,
        "certificate verify failed",
        "tls_ca",
    ),
    "authority unknown to the system": Wrong(
        "sasl_ssl",
        {"tls_ca": None},
        AuthenticationFailed,
        "certificate verify failed",
        "tls_ca",
    ),
    "certificate of another host": Wrong(
        "other_host",
        {},
        AuthenticationFailed,
        "certificate verify failed",
        "tls_verify_hostname",
    ),
    "no client certificate": Wrong(
        "mtls",
        {"tls_cert": None, "tls_key": None},
        AuthenticationFailed,
        "certificate",
        "tls_cert",
    ),
    "unknown client certificate": Wrong(
        "mtls",
        {"tls_cert": "strange-client.pem", "tls_key": "strange-client.key"},
        AuthenticationFailed,
        "certificate",
        "tls_cert",
    ),
    "no TLS on a TLS port": Wrong(
        "sasl_ssl", NO_TLS | NO_LOGIN, BrokerUnreachable, "Disconnected", "tls"
    ),
    "login without TLS on a TLS port": Wrong(
        "sasl_ssl", NO_TLS, BrokerUnreachable, "Disconnected", "tls"
    ),
    "TLS on a plaintext port": Wrong(
        "plaintext",
        {"tls": True, "tls_ca": "ca.pem"},
        BrokerUnreachable,
        "connecting to a PLAINTEXT broker listener?",
        "tls",
    ),
    "no login where one is wanted": Wrong(
        "sasl_ssl", NO_LOGIN, BrokerUnreachable, "Disconnected", "sasl_mechanism"
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_promise_1_wrong_connection_settings(
    open_bus: OpenBus, said: list[object], wrong: Wrong
) -> None:
    """start() says soon what is wrong; without it, events end in time and say it."""
    unstarted = open_bus(wrong.listener, delivery_timeout=1.5, **wrong.settings)
    unstarted.publish_envelope(OPEN_TOPIC, event())
    bus = open_bus(wrong.listener, **wrong.settings)
    began = time.monotonic()
    with pytest.raises(wrong.raised) as caught:
        bus.start(10)
    took = time.monotonic() - began
    said.append(caught.value)

    assert took < 6 + SLACK
    assert wrong.cause in str(caught.value)
    assert wrong.cure in str(caught.value)
    assert isinstance(caught.value.__cause__, KafkaException)
    eventually(lambda: bus.health().connected is False)

    (result,) = outcomes(unstarted, 1)
    error = error_of(result)
    said += [result, error]
    assert not result.success
    assert 1.5 <= result.latency < 1.5 + LATE
    assert error.retriable
    assert "last connection error" in str(error)
    assert wrong.cause in str(error)
    assert isinstance(unstarted.health().last_error, wrong.raised)


# A key that cannot be used is found before any connection is made.
UNUSABLE = [
    pytest.param(
        {"tls_key": "client-locked.key", "tls_key_password": f"wr0ng-{MARK}"},
        "ssl.key.location failed",
        id="wrong password",
    ),
    pytest.param({"tls_key": "client-locked.key"}, "ssl.key.location", id="locked"),
    pytest.param({"tls_key": "strange-client.key"}, "mismatch", id="another's key"),
    pytest.param({"tls_ca": "client.key"}, "ssl.ca.location failed", id="no authority"),
]


@pytest.mark.parametrize(("settings", "text"), UNUSABLE)
def test_promise_1_unusable_certificates(
    open_bus: OpenBus, said: list[object], settings: Settings, text: str
) -> None:
    """start() and publishing both raise what the driver says of the file."""
    bus = open_bus("mtls", **settings)
    with pytest.raises(ConfigError, match=text) as refused:
        bus.publish_envelope(OPEN_TOPIC, event())
    with pytest.raises(StartFailed, match=text) as caught:
        bus.start(20)
    said += [refused.value, caught.value]
    assert bus.stats().accepted == 0


# -- what is not allowed ---------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True], ids=["write", "everything"])
def test_promise_1_a_denied_topic(
    kafka: SecuredKafka, admin: Admin, open_bus: OpenBus, *, hidden: bool
) -> None:
    """Its events are rejected, to be retried; others flow; a mended slip is noticed."""
    denied, free = (admin.create_topic(unique("acl")) for _ in range(2))
    (admin.deny_everything if hidden else admin.deny_write)("alice", denied)
    bus = open_bus()
    for number in range(50):
        bus.publish_envelope(denied, event(number))
        bus.publish_envelope(free, event(number))
    results = outcomes(bus, 100)
    # From the second time on the driver knows by itself.
    results.append(bus.publish_envelope_sync(denied, event(50)))

    for result in results:
        if result.topic == free:
            assert result.success
            continue
        error = error_of(result)
        assert (result.outcome, type(error)) == (Outcome.REJECTED, NotAuthorized)
        assert (error.code, error.retriable) == ("not_authorized", True)
        assert "grant Write on the topic" in str(error)
        assert error.__cause__ is not None
    assert len(read_kafka_topic(kafka.bootstrap_servers, free)) == 50
    assert read_kafka_topic(kafka.bootstrap_servers, denied) == []

    admin.forgive("alice", denied)
    eventually(lambda: bus.publish_envelope_sync(denied, event(51)).success)
    assert bus.publish_envelope_sync(free, event(51)).success
    assert len(read_kafka_topic(kafka.bootstrap_servers, denied)) == 1
    assert bus.stats().balanced


def test_promise_1_a_plain_message_to_a_denied_topic(
    admin: Admin, open_bus: OpenBus
) -> None:
    """It is lost, the error handler hears of it, and nothing is raised."""
    denied = admin.create_topic(unique("acl"))
    admin.deny_write("alice", denied)
    bus = open_bus()
    errors: list[EventBusError] = []
    bus.set_error_handler(errors.append)
    assert not bus.publish_envelope_sync(denied, event()).success
    bus.publish(denied, b"x")
    eventually(lambda: [type(e) for e in errors] == [NotAuthorized])
    assert bus.publish_envelope_sync(OPEN_TOPIC, event()).success


def test_promise_1_a_permission_that_is_taken_away(
    kafka: SecuredKafka, admin: Admin, open_bus: OpenBus
) -> None:
    """Under load: what was acked before is stored, what was rejected is not."""
    topic = admin.create_topic(unique("acl"))
    bus = open_bus(max_in_flight=50, publish_timeout=10)
    events = [event(number) for number in range(3000)]
    for number, one in enumerate(events):
        bus.publish_envelope(topic, one)
        if number == 1000:
            admin.deny_write("alice", topic)
        if number == 2000:
            assert bus.flush(20) == 0
            admin.forgive("alice", topic)
            eventually(lambda: bus.publish_envelope_sync(topic, event(9999)).success)
    results = outcomes(bus, len(events))
    ends = dict.fromkeys(Outcome, 0)
    for result in results:
        ends[result.outcome] += 1
        assert result.success or error_of(result).retriable

    assert ends[Outcome.UNKNOWN] == 0
    assert ends[Outcome.REJECTED] > 0
    assert results[-1].success
    stored = [e.event_id for e in read_kafka_topic(kafka.bootstrap_servers, topic)]
    acked = {r.event_id for r in results if r.success}
    order = [e.event_id for e in events if e.event_id in acked]
    assert [e for e in stored if e in acked] == order
    assert len(stored) == len(order) + 1


def test_refused_idempotence(open_bus: OpenBus, said: list[object]) -> None:
    """start() and every event name the way out, at once and without a loop of attempts."""
    bus = open_bus(username="bob")
    began = time.monotonic()
    with pytest.raises(StartFailed, match="idempotence=False") as caught:
        bus.start(20)
    results = [bus.publish_envelope_sync(OPEN_TOPIC, event(n)) for n in range(20)]
    took = time.monotonic() - began
    said.append(caught.value)

    assert took < 8 + SLACK
    assert caught.value.code == "not_authorized"
    assert "Cluster authorization failed" in str(caught.value)
    for result in results:
        error = error_of(result)
        assert (result.outcome, type(error)) == (Outcome.REJECTED, NotAuthorized)
        assert error.retriable
        assert "idempotence=False" in str(error)
    said += results


def test_refused_idempotence_without_start(open_bus: OpenBus) -> None:
    """What was published before the refusal is rejected too, as nothing was sent."""
    bus = open_bus(username="bob")
    for number in range(100):
        bus.publish_envelope(OPEN_TOPIC, event(number))
    results = outcomes(bus, 100)
    assert {r.outcome for r in results} == {Outcome.REJECTED}
    assert {type(r.error) for r in results} == {NotAuthorized}
    assert max(r.latency for r in results) < 8 + SLACK
    eventually(lambda: isinstance(bus.health().last_error, NotAuthorized))


def test_without_idempotence(
    kafka: SecuredKafka, admin: Admin, open_bus: OpenBus
) -> None:
    """Who gets no producer id can publish without."""
    topic = admin.create_topic(unique("acl"))
    bus = open_bus(username="bob", idempotence=False)
    bus.start(20)
    for number in range(100):
        bus.publish_envelope(topic, event(number))
    assert {r.outcome for r in outcomes(bus, 100)} == {Outcome.ACKED}
    stored = read_kafka_topic(kafka.bootstrap_servers, topic)
    bodies = [e.value.rpartition(b'{"n":')[2] for e in stored]
    assert bodies == [b"%d}}" % number for number in range(100)]


def test_a_producer_id_that_is_granted_later(
    admin: Admin, open_bus: OpenBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus that was refused goes on asking, and publishes when the slip is mended."""
    monkeypatch.setattr("eventbus_sync.backends.kafka.poller._REFUSED_BACKOFF", 0.3)
    bus = open_bus(username="carol")
    assert not bus.publish_envelope_sync(OPEN_TOPIC, event()).success
    admin.grant_idempotence("carol")
    eventually(lambda: bus.publish_envelope_sync(OPEN_TOPIC, event()).success)
    bus.start(20)
