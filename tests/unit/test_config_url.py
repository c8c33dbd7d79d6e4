"""Configurations out of URLs and environment variables."""

from pathlib import Path
from typing import Any

import pytest

from eventbus_sync.config import KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.config.url import config_from_env, config_from_url
from eventbus_sync.errors import ConfigError


def refusal(url: Any, **overrides: Any) -> str:
    """Return what is said when a URL is refused."""
    with pytest.raises(ConfigError) as caught:
        config_from_url(url, **overrides)
    return str(caught.value)


def env_refusal(**variables: str) -> str:
    """Return what is said when variables are refused."""
    with pytest.raises(ConfigError) as caught:
        config_from_env(environ={f"EVENTBUS_{k}": v for k, v in variables.items()})
    return str(caught.value)


class TestSchemes:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("kafka://a", KafkaConfig(bootstrap_servers="a")),
            ("KAFKA://a:1,b:2/", KafkaConfig(bootstrap_servers="a:1,b:2")),
            ("kafka+tls://[::1]:1", KafkaConfig(bootstrap_servers="[::1]:1", tls=True)),
            ("kafka://a?tls=yes", KafkaConfig(bootstrap_servers="a", tls=True)),
            ("nats://a:1,b", NatsConfig(servers=["a:1", "b"])),
            ("nats+tls://a", NatsConfig(servers="a", tls=True)),
            ("tls://a", NatsConfig(servers="tls://a")),
            ("memory://", MemoryConfig()),
            ("memory:///?latency=1", MemoryConfig(latency=1)),
        ],
    )
    def test_known(self, url: str, expected: object) -> None:
        """A scheme says which broker, and whether with TLS."""
        assert config_from_url(url) == expected

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("kafak://a", "did you mean kafka://?"),
            ("http://a", "use kafka://, kafka+tls://, nats://"),
            ("localhost:9092", "must begin like kafka://host:9092"),
            ("kafka:localhost", "must begin like kafka://host:9092"),
            ("nats:a", "must begin like nats://host:4222"),
            ("", "must begin like nats://host:4222"),
            ("nats://a b", "without blanks"),
            ("nats://a\n", "without blanks"),
            ("://a", "path"),
            (7, "of type int"),
            (None, "of type NoneType"),
        ],
    )
    def test_unknown(self, url: object, says: str) -> None:
        """What is no URL of ours is refused with the nearest scheme."""
        assert says in refusal(url)

    def test_parts_that_urls_have(self) -> None:
        """A path or a fragment has no meaning here."""
        assert "has a path" in refusal("kafka://a/topic")
        assert "has a fragment" in refusal("kafka://a#x")
        assert "has a fragment" in refusal("kafka://a?linger=1#x")

    def test_hosts(self) -> None:
        """A host must be there, except for the memory broker."""
        assert refusal("kafka://").startswith("bootstrap_servers is blank")
        assert refusal("nats://?stream=S").startswith("servers is blank")
        assert "remove it" in refusal("memory://a")
        assert refusal("nats://a:x").startswith("servers must be like")

    def test_contradiction(self) -> None:
        """A scheme with TLS and tls=false cannot both be meant, whoever says it."""
        for scheme in ("kafka+tls", "nats+tls", "tls"):
            said = refusal(f"{scheme}://a?tls=false")
            assert said.startswith(f"tls=false contradicts {scheme}:// in the URL")
            said = refusal(f"{scheme.upper()}://a", tls=False)
            assert said.startswith(f"tls=False contradicts {scheme}:// in the URL")
            said = env_refusal(URL=f"{scheme}://a", TLS="no")
            assert said.startswith(f"EVENTBUS_TLS=no contradicts {scheme}:// in the")
        assert refusal("tls://a", tls=0).startswith("tls must be True or False")
        # Between two settings the nearer one wins, as with any other.
        assert config_from_url("nats://a?tls=true", tls=False) == NatsConfig(
            servers="a"
        )
        assert config_from_url("nats+tls://a?tls=true") == NatsConfig(
            servers="a", tls=True
        )


class TestCredentials:
    def test_kafka(self) -> None:
        """Username and password log in by PLAIN, unless the URL says otherwise."""
        config = config_from_url("kafka+tls://m%40e:p%2Fw:x@a,b")
        assert isinstance(config, KafkaConfig)
        assert (config.username, config.password) == ("m@e", "p/w:x")
        assert config.sasl_mechanism == "PLAIN"
        assert config.bootstrap_servers == "a:9092,b:9092"
        config = config_from_url("kafka://me:pw@a?sasl_mechanism=SCRAM-SHA-256")
        assert isinstance(config, KafkaConfig)
        assert config.sasl_mechanism == "SCRAM-SHA-256"

    def test_nats(self) -> None:
        """User and password, or a token."""
        config = config_from_url("nats://me:p%40w@a,b")
        assert isinstance(config, NatsConfig)
        assert (config.user, config.password) == ("me", "p@w")
        config = config_from_url("nats://t%C3%A9@a")
        assert isinstance(config, NatsConfig)
        assert (config.token, config.servers) == ("té", ("nats://a:4222",))

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("kafka://hunter2@a", "password is missing"),
            ("kafka://me:@a", "incomplete"),
            ("nats://:hunter2@a", "incomplete"),
            ("nats://@a", "incomplete"),
            ("nats://me:hunter2@x@a", "two @"),
            ("nats://me:hunter2@a,me:hunter2@b", "two @"),
            ("nats://me:hunter2/x@a", "%2F for /"),
            ("nats://me:x?hunter2=x@a", "%3F for ?"),
            ("nats://me:x#hunter2@a", "%23 for"),
            ("nats://me:hunter2%@a", "%25"),
            ("nats://me:hunter2%ff@a", "%25"),
            ("nats://me:hunter2@a?user=you", "user twice"),
            ("kafka://me:hunter2@a?password=hunter2", "password twice"),
            ("nats://me:hunter2@a?token=hunter2", "exclude each other"),
            ("nats://me:hunter2@a?nkey_sed=hunter2", "did you mean nkey_seed?"),
            ("nats://me:x@a?x=1&hunter2=y", "setting number 1"),
            ("nats://a?password=x&hunter2=y", "setting number 2"),
            ("nats://a?token=x&hunter2", "setting number 2"),
            ("nats://a?token=hunter2%zz", "%25"),
            ("kafka://a?extra={hunter2", "JSON object"),
            ("memory://me:hunter2@", "memory://"),
            ("nats://me:hunter2", "servers must be like"),
            ("kafka://me:hunter2", "host and a port"),
        ],
    )
    def test_never_shown(self, url: str, says: str) -> None:
        """Whatever is wrong with a URL, its secrets are not repeated."""
        said = refusal(url)
        assert says in said
        assert "hunter2" not in said


class TestSettings:
    def test_types(self, tmp_path: Path) -> None:
        """Texts of a URL become what their settings are."""
        seed = tmp_path / "seed%file"
        seed.write_text("x")
        encoded = str(seed).replace("%", "%25")
        config = config_from_url(
            "nats://a?delivery_timeout=20&max_in_flight=5&jetstream=TRUE&ack_workers=3"
            f"&stream=ORDERS&subjects=a,b.%3E&overflow=reserve&nkey_seed_file={encoded}"
            "&extra=%7B%22pending_size%22:%205%7D&name=a%20b+c"
        )
        assert config == NatsConfig(
            servers="a",
            delivery_timeout=20.0,
            max_in_flight=5,
            ack_workers=3,
            stream="ORDERS",
            subjects=("a", "b.>"),
            overflow="reserve",
            nkey_seed_file=str(seed),
            extra={"pending_size": 5},
            name="a b+c",
        )

    @pytest.mark.parametrize("text", ["false", "no", "0", "False"])
    def test_flags(self, text: str) -> None:
        """There are three ways to say no."""
        config = config_from_url(f"kafka://a?idempotence={text}")
        assert isinstance(config, KafkaConfig)
        assert config.idempotence is False

    @pytest.mark.parametrize(
        ("query", "says"),
        [
            ("delivery_timeout=soon", "delivery_timeout must be a number of seconds"),
            ("delivery_timeout=nan", "delivery_timeout must be a number of seconds"),
            ("delivery_timeout=", "delivery_timeout must be a number of seconds"),
            ("max_in_flight=1.5", "max_in_flight must be a whole number"),
            ("ack_workers=None", "ack_workers must be a whole number"),
            ("tls=on", "tls must be true or false"),
            ("stream=", "stream must be a name"),
            ("token=", "token is empty"),
            ("extra=[1]", "extra must be a JSON object"),
            ("extra=" + "[" * 100_000, "extra must be a JSON object"),
            ('extra={"servers":1}', "extra cannot hold 'servers'"),
            ("stream", "gives stream no value"),
            ("stream=A&stream=A", "stream twice"),
            ("servers=b", "servers twice"),
            ("stram=A", "did you mean stream?"),
            ("foo=1", "setting 'foo' is unknown to NatsConfig: it has name"),
            ("=1", "setting number 1"),
            ("stream=A&&tls=true", "setting number 2"),
            ("a.b=1", "setting number 1"),
            ("linger=1", "'linger' is unknown to NatsConfig"),
        ],
        ids=lambda text: text[:30],
    )
    def test_refused(self, query: str, says: str) -> None:
        """A wrong setting is named, with the nearest if it is unknown."""
        assert says in refusal(f"nats://a?{query}")

    def test_overrides(self) -> None:
        """Arguments win over the URL, and are checked like all settings."""
        config = config_from_url(
            "nats://u:p@a?stream=A", stream="B", user="v", servers="c"
        )
        assert config == NatsConfig(servers="c", stream="B", user="v", password="p")
        assert "did you mean stream?" in refusal("nats://a", stram="B")
        assert refusal("nats://a", tls="yes").startswith("tls must be True or False")


class TestEnvironment:
    def test_url_and_settings(self) -> None:
        """The URL, and settings that win over it; others' variables do not matter."""
        environ = {
            "EVENTBUS_URL": "nats://a?stream=A&delivery_timeout=20",
            "EVENTBUS_STREAM": "B",
            "EVENTBUS_TOKEN": "p%40",
            "EVENTBUS_EXTRA": '{"verbose": true}',
            "PATH": "/bin",
            "eventbus_url": "x",
        }
        assert config_from_env(environ=environ) == NatsConfig(
            servers="a",
            stream="B",
            delivery_timeout=20.0,
            token="p%40",
            extra={"verbose": True},
        )

    def test_process_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a mapping it is this process's environment, at the call."""
        monkeypatch.setenv("ORDERS_BUS_URL", "memory://")
        monkeypatch.setenv("ORDERS_BUS_LATENCY", "0.5")
        assert config_from_env("ORDERS_BUS_") == MemoryConfig(latency=0.5)

    def test_empty_is_not_set(self) -> None:
        """An empty variable, as compose files pass it, counts as not set."""
        environ = {"EVENTBUS_URL": "nats://a", "EVENTBUS_STREAM": ""}
        assert config_from_env(environ=environ) == NatsConfig(servers="a")

    @pytest.mark.parametrize("variables", [{}, {"URL": ""}, {"STREAM": "A"}], ids=repr)
    def test_url_is_needed(self, variables: dict[str, str]) -> None:
        """Without a URL there is nothing to say."""
        assert env_refusal(**variables).startswith("EVENTBUS_URL is not set")

    def test_unknown(self) -> None:
        """A variable that is no setting is refused with the nearest one."""
        said = env_refusal(URL="kafka://a", LINGR="1")
        assert said == (
            "EVENTBUS_LINGR is no setting of KafkaConfig: did you mean EVENTBUS_LINGER?"
        )
        said = env_refusal(URL="kafka://a", ZZZ="hunter2")
        assert said.startswith("EVENTBUS_ZZZ is no setting")
        assert "hunter2" not in said

    def test_wrong_values(self) -> None:
        """Values are checked as those of a URL are."""
        assert "incomplete" in env_refusal(URL="kafka://me:@a")
        said = env_refusal(URL="kafka://a", PASSWORD="hunter2")
        assert "SASL_MECHANISM" in said
        assert "hunter2" not in said

    @pytest.mark.parametrize(
        ("said", "variables"),
        [
            ("LINGER must be a number", {"URL": "kafka://a", "LINGER": "x"}),
            ("LINGER must be a number", {"URL": "kafka://a?linger=1", "LINGER": "-1"}),
            ("URL: linger must be", {"URL": "kafka://a?linger=-1"}),
            ("URL: linger must be", {"URL": "kafka://a?linger=x"}),
            ("URL: the URL has an unknown scheme", {"URL": "kafak://a"}),
            ("URL: servers is blank", {"URL": "nats://"}),
            ("ACK_WAIT=99 must be less", {"URL": "nats://a", "ACK_WAIT": "99"}),
            ("SASL_MECHANISM must be set", {"URL": "kafka://a", "USERNAME": "me"}),
            ("USER is missing", {"URL": "nats://a", "PASSWORD": "hunter2"}),
            ("TLS=no contradicts", {"URL": "tls://a", "TLS": "no"}),
            ("EXTRA must be a JSON object", {"URL": "nats://a", "EXTRA": "x"}),
        ],
        ids=repr,
    )
    def test_the_variable_is_named(self, said: str, variables: dict[str, str]) -> None:
        """Who looks at an environment looks for a variable, not for a setting."""
        refused = env_refusal(**variables)
        assert refused.startswith(f"EVENTBUS_{said}")
        assert "hunter2" not in refused

    @pytest.mark.parametrize("prefix", ["", None, 7])
    def test_prefix(self, prefix: Any) -> None:
        """Without a prefix every variable of the process would be ours."""
        with pytest.raises(ConfigError, match="prefix"):
            config_from_env(prefix, environ={})
