"""Logins, permissions and TLS on real servers; no secret is shown, nothing hangs."""

import contextlib
import logging
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from conformance.suite import envelope, read
from support.eventually import eventually
from support.jetstream import MakeBus, buses, make_stream, reload_server
from support.nats_accounts import Certificates, Operator, user_keys
from support.patience import SLACK

from eventbus_sync import EventBus, Outcome
from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerUnavailable,
    BrokerUnreachable,
    ConfigError,
    NotAuthorized,
    StartFailed,
)
from eventbus_sync.testing import NatsServer


pytestmark = [pytest.mark.nats, pytest.mark.slow]

PASSWORD = "s3cr3t-p4ssw0rd"
TOKEN = "t0k3n-of-the-bus"


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator of our own."""
    return Operator(tmp_path)


def works(bus: EventBus) -> None:
    """Fail unless the bus starts and publishes."""
    bus.start(10)
    assert bus.publish_envelope_sync("secure.orders", envelope()).success


def refused(bus: EventBus, error: type[Exception], *reasons: str) -> None:
    """Fail unless start() raises *error* quickly, and outcomes name the reason."""
    started = time.monotonic()
    with pytest.raises(error) as caught:
        bus.start(30)
    assert time.monotonic() - started < 5 + SLACK
    bus.publish_envelope("secure.orders", envelope())
    (result,) = read(bus, 1)
    assert isinstance(result.error, BrokerUnavailable)
    assert result.error.retriable
    for reason in reasons:
        assert reason in str(caught.value)
        assert reason in str(result.error)
        assert reason in str(bus.health().last_error)


# -- who we are ------------------------------------------------------------------------


def test_user_and_password(make: MakeBus) -> None:
    """The right ones work, also as functions and in the URL; wrong ones are refused."""
    config = f"authorization {{ users: [ {{ user: bus, password: {PASSWORD} }} ] }}"
    with NatsServer(config=config) as server:
        settings: dict[str, Any] = {"stream": "SECURE", "delivery_timeout": 0.4}
        works(make(server, user="bus", password=PASSWORD, **settings))
        works(make(server, user=lambda: "bus", password=lambda: PASSWORD, **settings))
        works(make(server.url.replace("//", f"//bus:{PASSWORD}@"), **settings))
        for wrong in (
            {"user": "bus", "password": PASSWORD + "x"},
            {"user": "bus"},
            {"token": PASSWORD},
            {},
        ):
            bus = make(server, **wrong, **settings)
            refused(bus, AuthenticationFailed, "Authorization Violation", "credentials")


def test_token(make: MakeBus) -> None:
    """The right token works, also from a function; a wrong one is refused."""
    with NatsServer(config=f"authorization {{ token: {TOKEN} }}") as server:
        works(make(server, stream="SECURE", token=TOKEN))
        works(make(server, stream="SECURE", token=lambda: TOKEN))
        bus = make(server, token=TOKEN + "x", delivery_timeout=0.4)
        refused(bus, AuthenticationFailed, "Authorization Violation")


def test_nkey(make: MakeBus, tmp_path: Path) -> None:
    """The right seed works, also from a file; that of somebody else is refused."""
    ours, others = user_keys(), user_keys()
    seed_file = tmp_path / "seed.nk"
    seed_file.write_text(f"{ours.seed}\n")
    config = f"authorization {{ users: [ {{ nkey: {ours.public} }} ] }}"
    with NatsServer(config=config) as server:
        works(make(server, stream="SECURE", nkey_seed=ours.seed))
        works(make(server, stream="SECURE", nkey_seed_file=seed_file))
        bus = make(server, nkey_seed=others.seed, delivery_timeout=0.4)
        refused(bus, AuthenticationFailed, "Authorization Violation")


def test_creds_file(make: MakeBus, operator: Operator, tmp_path: Path) -> None:
    """A user of the operator's account works; one of another operator is refused."""
    good = operator.creds_file("good")
    (tmp_path / "other").mkdir()
    bad = Operator(tmp_path / "other").creds_file("bad")
    with NatsServer(config=operator.server_config()) as server:
        works(make(server, stream="SECURE", creds_file=good))
        bus = make(server, creds_file=bad, delivery_timeout=0.4)
        refused(bus, AuthenticationFailed, "Authorization Violation")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("creds_file", "no credentials in here\n", "holds no user JWT"),
        (
            "creds_file",
            "--BEGIN NATS USER JWT--\nx.y.z\n\n--BEGIN USER NKEY SEED--\nnone\n",
            "is no NKey seed",
        ),
        ("creds_file", b"\xff\xfe\x00", "is no text"),
        ("nkey_seed_file", "SUnothing", "is no NKey seed"),
        ("nkey_seed", "SUnothing", "is no NKey seed"),
    ],
)
def test_credentials_that_are_none(
    make: MakeBus,
    nats_server: NatsServer,
    tmp_path: Path,
    name: str,
    content: Any,
    reason: str,
) -> None:
    """Files without credentials are a ConfigError by name; the loop does not hang."""
    if name.endswith("_file"):
        file = tmp_path / "login"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content)
        content = str(file)
    bus = make(nats_server, delivery_timeout=0.4, **{name: content})
    refused(bus, ConfigError, name, reason)
    assert "SUnothing" not in str(bus.health().last_error)


def test_credentials_that_vanish_and_come_back(
    make: MakeBus, operator: Operator
) -> None:
    """A creds file is read anew for every connection."""
    creds = operator.creds_file("user")
    content = creds.read_text()
    with NatsServer(config=operator.server_config()) as server:
        bus = make(server, stream="SECURE", creds_file=creds, delivery_timeout=0.4)
        creds.unlink()
        refused(bus, ConfigError, "creds_file", "No such file")
        creds.write_text(content)
        works(bus)


@pytest.mark.parametrize("what", ["user", "password", "token"])
def test_functions_that_give_no_credential(
    make: MakeBus, nats_server: NatsServer, what: str
) -> None:
    """What they raise or return is named by its type alone, for it may hold a secret."""

    def raises() -> str:
        raise RuntimeError(PASSWORD)

    for function, reason in ((raises, "RuntimeError"), (lambda: None, "NoneType")):
        settings: dict[str, Any] = {what: function}
        if what == "password":
            settings["user"] = "bus"
        bus = make(nats_server, delivery_timeout=0.4, **settings)
        refused(bus, ConfigError, what, reason)
        assert PASSWORD not in str(bus.health().last_error)


def test_promise_1_user_expires_while_connected(
    make: MakeBus, operator: Operator, tmp_path: Path
) -> None:
    """Expired credentials: clear in health, events end in outcomes; new ones mend it."""
    creds = operator.creds_file("brief", seconds=2)
    with NatsServer(config=operator.server_config()) as server:
        bus = make(server, stream="SECURE", creds_file=creds, delivery_timeout=1.5)
        works(bus)
        eventually(
            lambda: isinstance(bus.health().last_error, AuthenticationFailed), timeout=8
        )
        eventually(lambda: bus.health().connected is False)
        result = bus.publish_envelope_sync("secure.orders", envelope())
        assert isinstance(result.error, BrokerUnavailable)
        assert "Authorization Violation" in str(result.error)
        creds.write_text(operator.creds_file("fresh").read_text())
        works(bus)


def test_promise_1_user_removed_while_connected(make: MakeBus) -> None:
    """A reload that removes our user: outcomes name it; one that restores mends it."""
    config = (
        f"authorization {{{{ users: [ {{{{ user: {{}}, password: {PASSWORD} }}}} ] }}}}"
    ).format
    with NatsServer(config=config("bus")) as server:
        bus = make(
            server, stream="SECURE", user="bus", password=PASSWORD, delivery_timeout=1.5
        )
        works(bus)
        reload_server(server, config("somebody"))
        eventually(lambda: isinstance(bus.health().last_error, AuthenticationFailed))
        result = bus.publish_envelope_sync("secure.orders", envelope())
        assert result.outcome is Outcome.REJECTED
        assert "Authorization Violation" in str(result.error)
        reload_server(server, config("bus"))
        works(bus)


# -- what we may -----------------------------------------------------------------------


def _permissions(**permissions: str) -> str:
    inner = ", ".join(f"{name}: {{ {text} }}" for name, text in permissions.items())
    return (
        f"authorization {{ users: [ {{ user: bus, password: {PASSWORD}, "
        f"permissions: {{ {inner} }} }}, {{ user: admin, password: admin }} ] }}"
    )


def test_promise_1_publishing_to_one_subject_is_denied(make: MakeBus) -> None:
    """Rejected at once, retriable, by its exact subject; the others flow."""
    denied = ["secure.Denied", 'secure.de"ni\\ed', "secure.dénied"]
    quoted = ", ".join(
        '"' + subject.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for subject in denied
    )
    config = _permissions(publish=f"allow: '>', deny: [{quoted}]")
    with NatsServer(config=config) as server:
        bus = make(server, stream="SECURE", user="bus", password=PASSWORD)
        errors: list[Exception] = []
        bus.set_error_handler(errors.append)
        bus.start(10)
        # Of these two, which differ in case, one is denied.
        subjects = ["secure.denied", *denied]
        for number in range(400):
            bus.publish_envelope(subjects[number % 4], envelope(number))
        results = read(bus, 400)
        for result in results:
            assert result.success == (result.topic == "secure.denied")
            if not result.success:
                assert result.outcome is Outcome.REJECTED
                assert isinstance(result.error, NotAuthorized)
                assert result.error.retriable
                assert repr(result.topic) in str(result.error)
                assert result.latency < 5 + SLACK
        assert bus.health().reconnects == 0
        eventually(lambda: len(errors) >= 3)
        assert {type(error) for error in errors} == {NotAuthorized}
        assert len(errors) == 3  # not one for each event


def test_promise_1_many_events_to_a_denied_subject(make: MakeBus) -> None:
    """A whole backlog is refused, each event once, and nothing is slowed down."""
    config = _permissions(publish="allow: '>', deny: [secure.denied]")
    with NatsServer(config=config) as server:
        bus = make(server, stream="SECURE", user="bus", password=PASSWORD)
        bus.start(10)
        for number in range(5000):
            bus.publish_envelope("secure.denied", envelope(number), timeout=30)
            bus.publish("secure.denied", b"plain")
        results = read(bus, 5000)
        assert {type(r.error) for r in results} == {NotAuthorized}
        assert bus.stats().late_outcomes == 0
        assert bus.publish_envelope_sync("secure.orders", envelope()).success


def test_permission_given_later(make: MakeBus) -> None:
    """A reload that permits the subject is enough."""
    with NatsServer(
        config=_permissions(publish="allow: '>', deny: [secure.orders]")
    ) as server:
        bus = make(server, stream="SECURE", user="bus", password=PASSWORD)
        bus.start(10)
        result = bus.publish_envelope_sync("secure.orders", envelope())
        assert isinstance(result.error, NotAuthorized)
        reload_server(server, _permissions(publish="allow: '>'"))
        works(bus)


def test_inbox_is_denied(make: MakeBus) -> None:
    """Without an inbox no event has an outcome: start() fails clearly and at once."""
    config = _permissions(publish="allow: '>'", subscribe="deny: ['_INBOX.>']")
    with NatsServer(config=config) as server:
        settings: dict[str, Any] = {
            "stream": "SECURE",
            "user": "bus",
            "password": PASSWORD,
            "delivery_timeout": 0.4,
        }
        refused(
            make(server, **settings), AuthenticationFailed, "_INBOX.", "inbox_prefix"
        )
        works(make(server, inbox_prefix="mine.bus", **settings))


def test_promise_1_inbox_denied_while_connected(make: MakeBus) -> None:
    """A reload that takes the inbox away is noticed, and told."""
    good = _permissions(publish="allow: '>'")
    with NatsServer(config=good) as server:
        bus = make(
            server, stream="SECURE", user="bus", password=PASSWORD, delivery_timeout=1.5
        )
        works(bus)
        reload_server(
            server,
            _permissions(publish="allow: '>'", subscribe="deny: ['_INBOX.>']"),
        )
        eventually(lambda: "inbox_prefix" in str(bus.health().last_error))
        result = bus.publish_envelope_sync("secure.orders", envelope())
        assert "inbox_prefix" in str(result.error)
        reload_server(server, good)
        works(bus)


def test_jetstream_api_is_denied(make: MakeBus) -> None:
    """start() names what is missing, at once; ensure_stream="skip" does without."""
    config = _permissions(publish="allow: '>', deny: ['$JS.API.>']")
    with NatsServer(config=config) as server:
        admin = server.url.replace("//", "//admin:admin@")
        make_stream(admin, "SECURE", "secure.>")
        settings: dict[str, Any] = {
            "stream": "SECURE",
            "subjects": ["secure.>"],
            "user": "bus",
            "password": PASSWORD,
        }
        bus = make(server, **settings)
        started = time.monotonic()
        with pytest.raises(
            AuthenticationFailed, match=r"\$JS.API.STREAM.INFO.SECURE.*skip"
        ):
            bus.start(10)
        assert time.monotonic() - started < 1.5 + SLACK
        # Only the check is impossible; events are stored.
        assert bus.publish_envelope_sync("secure.orders", envelope()).success
        works(make(server, ensure_stream="skip", **settings))


# -- TLS -------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority of our own, and a certificate for 127.0.0.1."""
    return Certificates(tmp_path)


@pytest.mark.parametrize("more", ["", "handshake_first: true"], ids=["asked", "first"])
def test_tls_with_an_own_authority(
    make: MakeBus, certificates: Certificates, more: str
) -> None:
    """With its authority the server is trusted; without it not, and the text helps."""
    with NatsServer(config=certificates.server_config(more)) as server:
        extra = {"tls_handshake_first": True} if more else {}
        settings: dict[str, Any] = {"extra": extra, "delivery_timeout": 0.4}
        url = server.url.replace("nats://", "tls://")
        works(make(url, stream="SECURE", tls_ca=certificates.ca, **settings))
        refused(make(url, **settings), AuthenticationFailed, "tls_ca")


def test_tls_with_the_wrong_authority(
    make: MakeBus, certificates: Certificates, tmp_path: Path
) -> None:
    """A certificate of somebody else's authority is refused."""
    wrong = tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(str(wrong))
    with NatsServer(config=certificates.server_config()) as server:
        bus = make(server, tls=True, tls_ca=wrong, delivery_timeout=0.4)
        refused(bus, AuthenticationFailed, "cannot be trusted")


def test_tls_for_another_host(make: MakeBus, tmp_path: Path) -> None:
    """The certificate must be for the host, or for tls_hostname."""
    certificates = Certificates(tmp_path, host="nats.example.org")
    with NatsServer(config=certificates.server_config()) as server:
        settings: dict[str, Any] = {"tls": True, "tls_ca": certificates.ca}
        bus = make(server, delivery_timeout=0.4, **settings)
        refused(bus, AuthenticationFailed, "tls_hostname")
        named = make(
            server, stream="SECURE", tls_hostname="nats.example.org", **settings
        )
        works(named)


def test_tls_client_certificate(make: MakeBus, certificates: Certificates) -> None:
    """A server that wants one gets it; without it, start() fails and says TLS."""
    with NatsServer(config=certificates.server_config("verify: true")) as server:
        settings: dict[str, Any] = {"tls": True, "tls_ca": certificates.ca}
        works(
            make(
                server,
                stream="SECURE",
                tls_cert=certificates.client_cert,
                tls_key=certificates.client_key,
                **settings,
            )
        )
        bus = make(server, delivery_timeout=0.4, **settings)
        with pytest.raises(StartFailed) as caught:
            bus.start(2)
        # The alert may be lost behind the end of the connection.
        ends = ("TLS", "SSL", "Connection lost", "unexpected EOF")
        assert any(word in str(caught.value) for word in ends)


def test_tls_where_the_server_takes_both(
    make: MakeBus, certificates: Certificates
) -> None:
    """A server that offers TLS without asking for it is talked to in TLS."""
    config = certificates.server_config() + "allow_non_tls: true"
    with NatsServer(config=config) as server:
        bus = make(server, stream="SECURE", tls=True, tls_ca=certificates.ca)
        works(bus)
        connection = bus._runtime.backend._pump._connection  # type: ignore[union-attr]
        assert connection.client._writer.get_extra_info("cipher")


def test_tls_server_without_our_asking(
    make: MakeBus, certificates: Certificates
) -> None:
    """A server that demands TLS is verified all the same, and the text helps."""
    with NatsServer(config=certificates.server_config()) as server:
        bus = make(server, delivery_timeout=0.4)
        refused(bus, AuthenticationFailed, "tls_ca")


def test_tls_files_that_cannot_be_used(
    make: MakeBus, certificates: Certificates, tmp_path: Path
) -> None:
    """Wrong files are a ConfigError when the bus is first used; nothing is asked for."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    key = serialization.load_pem_private_key(
        certificates.client_key.read_bytes(), password=None
    )
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for files in (
        {"tls_ca": empty},
        {"tls_cert": certificates.client_cert, "tls_key": locked},
        {"tls_cert": empty, "tls_key": certificates.client_key},
    ):
        bus = make("tls://127.0.0.1:4222", **files)
        with pytest.raises(ConfigError, match="cannot be used"):
            bus.start(1)
        assert bus.health().state == "new"


# -- secrets ---------------------------------------------------------------------------


def test_no_secret_is_shown(
    make: MakeBus, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in a repr, an error, health or any log, whether the login works or not."""
    caplog.set_level(logging.DEBUG)
    asyncio_logger = logging.getLogger("asyncio")
    keys = user_keys()
    creds = operator.creds_file("user")
    lines = [line for line in creds.read_text().splitlines() if " " not in line]
    jwt, seed = (line for line in lines if len(line) > 40 and "-" * 5 not in line)
    secrets = [PASSWORD, TOKEN, keys.seed, seed, jwt.rpartition(".")[2]]
    logins: list[tuple[str, dict[str, Any]]] = [
        (
            f"authorization {{ user: bus, password: {PASSWORD} }}",
            {"user": "bus", "password": PASSWORD},
        ),
        (f"authorization {{ token: {TOKEN} }}", {"token": TOKEN}),
        (
            f"authorization {{ users: [ {{ nkey: {keys.public} }} ] }}",
            {"nkey_seed": keys.seed},
        ),
        (operator.server_config(), {"creds_file": creds}),
        ("authorization { token: another }", {"user": "bus", "password": PASSWORD}),
        ("authorization { token: another }", {"token": TOKEN}),
        ("authorization { token: another }", {"nkey_seed": keys.seed}),
        ("authorization { token: another }", {"creds_file": creds}),
    ]
    texts: list[str] = []
    for config, login in logins:
        with NatsServer(config=config) as server:
            bus = make(server, stream="SECRET", delivery_timeout=0.5, **login)
            bus.set_error_handler(lambda e: texts.append(_all_of(e)))  # noqa: B023
            try:
                bus.start(5)
            except StartFailed as error:
                texts.append(_all_of(error))
            result = bus.publish_envelope_sync("secret", envelope())
            server.kill()
            eventually(lambda: bus.health().connected is not True)  # noqa: B023
            with contextlib.suppress(StartFailed):
                bus.start(0.1)
            texts += [repr(bus), repr(bus.health()), repr(result), repr(bus._config)]
            texts += [_all_of(result.error)]
            bus.close(1)
    assert asyncio_logger.isEnabledFor(logging.DEBUG)
    told = "\n".join([*texts, caplog.text])
    assert "Authorization Violation" in told
    for secret in secrets:
        assert secret not in told


def _all_of(error: BaseException | None) -> str:
    """Return everything that a traceback of *error* would show."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__
    return "\n".join(texts)


def test_start_does_not_blame_the_login_for_an_outage(
    make: MakeBus, unused_tcp_port: int
) -> None:
    """With a login configured, an unreachable server is an unreachable server."""
    bus = make(f"nats://127.0.0.1:{unused_tcp_port}", user="bus", password=PASSWORD)
    with pytest.raises(BrokerUnreachable, match="Connection refused"):
        bus.start(0.3)


def test_one_of_several_servers_refuses_us(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """start() succeeds if any server takes us, whichever is asked first."""
    with NatsServer(config=f"authorization {{ token: {TOKEN} }}") as other:
        for _ in range(5):
            bus = make(f"{other.url},{nats_server.url}")
            bus.start(10)
            bus.close(1)


def test_what_lasts_is_told_before_what_may_pass(
    make: MakeBus, unused_tcp_port: int
) -> None:
    """When no server takes us, start() raises what somebody must mend, at once."""
    with NatsServer(config=f"authorization {{ token: {TOKEN} }}") as server:
        for _ in range(6):  # they are asked in any order
            bus = make(f"{server.url},nats://127.0.0.1:{unused_tcp_port}")
            with pytest.raises(AuthenticationFailed, match="Authorization Violation"):
                bus.start(30)
            bus.close(1)
