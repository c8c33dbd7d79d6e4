"""NATS's settings: servers, stream, times, credentials, and what extra may hold."""

import copy
import os
import pickle

from pathlib import Path
from typing import Any

import attrs
import pytest

from support.configs import refusal

from eventbus_sync.config import NatsConfig
from eventbus_sync.config import extra as _extra
from eventbus_sync.errors import ConfigError


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """Return the path of a file that can be read."""
    path = tmp_path / "some.pem"
    path.write_text("-----BEGIN-----")
    return path


class TestNatsServers:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("h", ("nats://h:4222",)),
            ("nats://a:1, b:2", ("nats://a:1", "nats://b:2")),
            (["NATS://a", "b/"], ("nats://a:4222", "nats://b:4222")),
            ("tls://a,nats://b", ("tls://a:4222", "tls://b:4222")),
            ("nats://[::1]:1", ("nats://[::1]:1",)),
        ],
    )
    def test_forms(self, given: Any, kept: tuple[str, ...]) -> None:
        """Servers become URLs with a scheme and a port; TLS is for all or none."""
        config = NatsConfig(servers=given)
        assert config.servers == kept
        assert config.tls is kept[0].startswith("tls")

    def test_tls(self) -> None:
        """The setting and the scheme say the same."""
        assert NatsConfig(servers="a", tls=True).servers == ("tls://a:4222",)

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "a,",
            [],
            None,
            b"a",
            [1],
            "ws://a",
            "http://a",
            "a:b",
            "a:0",
            "a b",
            "a/b",
        ],
        ids=repr,
    )
    def test_refused(self, given: object) -> None:
        """What is no list of servers is refused."""
        assert refusal(NatsConfig, servers=given).startswith("servers ")

    def test_credentials(self) -> None:
        """Credentials before an @ become settings, as they were meant."""
        config = NatsConfig(servers=["nats://me:p%40%2Fss@a", "b", "me:p%40%2Fss@c"])
        assert (config.user, config.password) == ("me", "p@/ss")
        assert config.servers == ("nats://a:4222", "nats://b:4222", "nats://c:4222")
        assert NatsConfig(servers="t%C3%A9@a").token == "té"

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"servers": "u:hunter2@a,u:other@b"}, "different credentials"),
            ({"servers": ":hunter2@a"}, "incomplete"),
            ({"servers": "hunter2:@a"}, "incomplete"),
            ({"servers": "@a"}, "incomplete"),
            ({"servers": "u:hunter2%zz@a"}, "write %25"),
            ({"servers": "u:hunter2%ff@a"}, "write %25"),
            ({"servers": "u:hunter2@a", "token": "t"}, "token must be left out"),
            ({"servers": "hunter2@a", "user": "u"}, "user must be left out"),
            ({"servers": "hunter2@x@a"}, "must be like"),
        ],
    )
    def test_bad_credentials(self, settings: dict[str, Any], says: str) -> None:
        """Credentials that are unclear are refused without being shown."""
        said = refusal(NatsConfig, **settings)
        assert says in said
        assert "hunter2" not in said


class TestNats:
    def test_stream_subjects(self) -> None:
        """A stream that may be created takes its own name and all below it."""
        assert NatsConfig(stream="ORDERS").subjects == ("orders", "orders.>")
        assert NatsConfig(stream="S", subjects="a, b.*").subjects == ("a", "b.*")
        assert NatsConfig(stream="S", subjects=["a"]).subjects == ("a",)
        assert NatsConfig(stream="S", ensure_stream="validate").subjects is None
        assert NatsConfig().subjects is None

    @pytest.mark.parametrize("name", ["stream", "js_domain"])
    @pytest.mark.parametrize(
        "value", ["", "a b", "a.b", "a*", ">", "a/b", "a\\b", "a\n", 7], ids=repr
    )
    def test_names(self, name: str, value: object) -> None:
        """A stream's and a domain's name are one word that fits into a path."""
        assert refusal(NatsConfig, **{name: value}).startswith(f"{name} must be a name")

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "a..b",
            ".a",
            "a.",
            "a b",
            "a.>.b",
            "a>",
            "a*.b",
            ["a\n"],
            [""],
            [],
            [7],
            7,
        ],
        ids=repr,
    )
    def test_bad_subjects(self, value: object) -> None:
        """Subjects are tokens joined by dots, with wildcards in their places."""
        said = refusal(NatsConfig, stream="S", subjects=value)
        assert said.startswith("subjects ")

    @pytest.mark.parametrize("value", ["a", ">", "*", "a.*.b.>", "$X.é", "*.*"])
    def test_good_subjects(self, value: str) -> None:
        """Wildcards may stand for one token, or at the end for the rest."""
        assert NatsConfig(stream="S", subjects=[value]).subjects == (value,)

    @pytest.mark.parametrize("value", ["", "a b", "a.>", "*", ".a", None, 7], ids=repr)
    def test_inbox_prefix(self, value: object) -> None:
        """An inbox prefix is a subject without wildcards."""
        assert refusal(NatsConfig, inbox_prefix=value).startswith("inbox_prefix must")
        assert NatsConfig(inbox_prefix="_INBOX.me").inbox_prefix == "_INBOX.me"

    def test_streams_need_jetstream(self) -> None:
        """A stream without JetStream, or subjects without a stream, are mistakes."""
        said = refusal(NatsConfig, jetstream=False, stream="S")
        assert said.startswith("stream needs jetstream=True")
        assert refusal(NatsConfig, subjects="a").startswith("stream is missing")
        assert NatsConfig(jetstream=False).stream is None

    def test_defaults_that_follow(self) -> None:
        """Defaults make room for a short or a long delivery_timeout."""
        assert NatsConfig().ack_wait == 5
        assert NatsConfig().duplicate_window == 120
        assert NatsConfig().max_reconnect_wait == 2
        assert NatsConfig(delivery_timeout=3).ack_wait == 1.5
        assert NatsConfig(delivery_timeout=300, stream="S").duplicate_window == 305
        assert NatsConfig(reconnect_wait=7).max_reconnect_wait == 7

    def test_defaults_follow_through_evolve(self) -> None:
        """What followed from other settings follows them when those change."""
        usual = NatsConfig(stream="S")
        for config in (usual, copy.deepcopy(usual), pickle.loads(pickle.dumps(usual))):
            changed = attrs.evolve(config, delivery_timeout=200)
            assert changed.duplicate_window == 205
            changed = attrs.evolve(changed, delivery_timeout=4, reconnect_wait=7)
            assert changed.duplicate_window == 120
            assert changed.ack_wait == 2
            assert changed.max_reconnect_wait == 7
            assert attrs.evolve(changed, stream="T").subjects == ("t", "t.>")
            assert attrs.evolve(changed, stream=None).subjects is None
            assert attrs.evolve(changed, ensure_stream="skip").subjects is None
            back = attrs.evolve(changed, delivery_timeout=30.0, reconnect_wait=0.1)
            assert back == usual
            assert repr(back) == repr(usual)
            assert hash(back) == hash(usual)

    def test_what_was_given_follows_nothing(self) -> None:
        """A setting stays as it was given, also where that is the usual value."""
        given: dict[str, Any] = {
            "ack_wait": 5,
            "duplicate_window": 120.0,
            "subjects": ["s", "s.>"],
        }
        config = NatsConfig(stream="S", **given, max_reconnect_wait=2)
        assert config == NatsConfig(stream="S")
        changed = attrs.evolve(config, delivery_timeout=60, stream="T")
        assert (changed.ack_wait, changed.duplicate_window) == (5, 120)
        assert changed.subjects == ("s", "s.>")
        with pytest.raises(ConfigError, match="duplicate_window=120 must be at least"):
            attrs.evolve(config, delivery_timeout=200)
        with pytest.raises(ConfigError, match="max_reconnect_wait=2 must not be less"):
            attrs.evolve(config, reconnect_wait=7)

    def test_longest_delivery_timeout(self) -> None:
        """Also what follows from the longest time is a time, and can be evolved."""
        config = NatsConfig(delivery_timeout=2_147_483)
        assert config.duplicate_window == 2_147_483
        assert attrs.evolve(config) == config

    @pytest.mark.parametrize("name", ["delivery_timeout", "reconnect_wait"])
    @pytest.mark.parametrize("value", ["x", -1, float("nan"), None], ids=repr)
    def test_what_defaults_follow_from(self, name: str, value: object) -> None:
        """A wrong value is refused by its own name, not by what follows from it."""
        assert refusal(NatsConfig, **{name: value}).startswith(f"{name} must be")

    def test_times_that_contradict(self) -> None:
        """Times that would break a promise together are refused."""
        said = refusal(NatsConfig, ack_wait=30)
        assert said.startswith("ack_wait=30 must be less than delivery_timeout=30")
        said = refusal(NatsConfig, stream="S", duplicate_window=34)
        assert said.startswith("duplicate_window=34 must be at least 35")
        NatsConfig(stream="S", duplicate_window=35)
        NatsConfig(stream="S", duplicate_window=1, ensure_stream="validate")
        NatsConfig(duplicate_window=1)
        said = refusal(NatsConfig, reconnect_wait=2, max_reconnect_wait=1)
        assert said.startswith("max_reconnect_wait=1 must not be less")

    @pytest.mark.parametrize(
        "name", ["connect_timeout", "ping_interval", "reconnect_wait", "ack_wait"]
    )
    def test_no_time_at_all(self, name: str) -> None:
        """Where 0 makes no sense it is refused."""
        assert "above 0" in refusal(NatsConfig, **{name: 0})

    def test_numbers(self) -> None:
        """Workers and replicas are whole numbers in a sensible range."""
        assert NatsConfig().ack_workers is None
        assert NatsConfig(ack_workers=3, replicas=5).ack_workers == 3
        assert refusal(NatsConfig, ack_workers=0).startswith("ack_workers must be")
        assert refusal(NatsConfig, replicas=6).startswith("replicas must be")
        assert refusal(NatsConfig, replicas=None).startswith("replicas must be")

    @pytest.mark.parametrize(
        "settings", [{}, {"stream": "S", "ensure_stream": "skip"}, {"jetstream": False}]
    )
    def test_batches_need_a_stream(self, settings: dict[str, Any]) -> None:
        """What a stream takes has to be known before anything goes to it together."""
        said = refusal(NatsConfig, publish_mode="batch", **settings)
        assert "stream" in said
        assert "ensure_stream" in said
        assert NatsConfig(stream="S", publish_mode="batch").publish_mode == "batch"
        assert NatsConfig().publish_mode == "single"

    def test_choices(self) -> None:
        """Storage, mode and what to do about the stream are among those that exist."""
        assert "'batch'" in refusal(NatsConfig, stream="S", publish_mode="fast")
        assert "'memory'" in refusal(NatsConfig, storage="disk")
        assert "'validate'" in refusal(NatsConfig, ensure_stream=True)

    @pytest.mark.parametrize(
        "settings",
        [
            {"user": "u", "token": "t"},
            {"token": "t", "nkey_seed": "s"},
            {"user": "u", "password": "p", "nkey_seed": "s"},
        ],
        ids="-".join,
    )
    def test_one_kind_of_credential(self, settings: dict[str, Any]) -> None:
        """There is one way to log in."""
        assert "exclude each other" in refusal(NatsConfig, **settings)

    def test_credential_files(self, pem: Path, tmp_path: Path) -> None:
        """Credentials in files exclude others, and the files must be there."""
        assert NatsConfig(creds_file=pem).creds_file == os.fspath(pem)
        assert NatsConfig(nkey_seed_file=pem).nkey_seed_file == os.fspath(pem)
        said = refusal(NatsConfig, creds_file=pem, nkey_seed_file=pem)
        assert said.startswith("nkey_seed_file and creds_file exclude")
        said = refusal(NatsConfig, creds_file=tmp_path / "none")
        assert said.startswith("creds_file cannot be read")

    def test_password_needs_user(self) -> None:
        """A password is somebody's; a user may have none."""
        assert refusal(NatsConfig, password="p").startswith("user is missing")
        assert NatsConfig(user="u").password is None

    def test_credentials_by_function(self) -> None:
        """Credentials that change may be functions, which the repr does not show."""

        def fresh() -> str:
            return "hunter2"

        config = NatsConfig(user=fresh, password=fresh)
        assert config.password is fresh
        assert "password='***'" in repr(config)

    def test_tls_settings(self, pem: Path) -> None:
        """TLS settings need TLS, and a certificate needs its key."""
        said = refusal(NatsConfig, tls_hostname="h")
        assert said.startswith("tls_hostname needs tls=True")
        said = refusal(NatsConfig, servers="tls://h", tls_cert=pem)
        assert said.startswith("tls_key is missing")
        config = NatsConfig(tls=True, tls_ca=pem, tls_cert=pem, tls_key=pem)
        assert config.tls_ca == str(pem)

    @pytest.mark.parametrize("name", sorted(_extra._NATS))
    def test_extra_refused(self, name: str) -> None:
        """What has a setting of ours or would break a promise is refused by name."""
        said = refusal(NatsConfig, extra={name: None})
        assert said.startswith(f"extra cannot hold {name!r}: ")

    def test_extra_passes(self) -> None:
        """Other arguments of nats-py reach it."""
        extra = {"verbose": True, "pending_size": 1, "signature_cb": print}
        assert NatsConfig(extra=extra).extra == extra
