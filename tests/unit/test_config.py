"""Configurations: what all kinds have in common, and that no secret shows."""

import copy
import enum
import inspect
import os
import pickle
import subprocess
import sys

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from support.configs import kafka, refusal

from eventbus_sync.config import BusConfig, KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.config import fields as _settings
from eventbus_sync.errors import ConfigError


KINDS: list[Callable[..., BusConfig]] = [MemoryConfig, NatsConfig, kafka]


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    """Return the path of a file that can be read."""
    path = tmp_path / "some.pem"
    path.write_text("-----BEGIN-----")
    return path


class TestEveryKind:
    @pytest.mark.parametrize("kind", KINDS, ids=["memory", "nats", "kafka"])
    def test_defaults(self, kind: Callable[..., BusConfig]) -> None:
        """The defaults are those that are documented."""
        config = kind()
        assert (config.delivery_timeout, config.publish_timeout) == (30.0, 1.0)
        assert (config.max_in_flight, config.result_capacity) == (100_000, 100_000)
        assert config.max_in_flight_bytes == 256 * 1024 * 1024
        assert config.max_message_bytes == 1_000_000
        assert (config.close_timeout, config.exit_timeout) == (10.0, 5.0)
        assert (config.name, config.overflow) == ("eventbus", "drop")

    @pytest.mark.parametrize(
        "name", ["delivery_timeout", "publish_timeout", "close_timeout", "exit_timeout"]
    )
    @pytest.mark.parametrize(
        "value",
        ["1", True, None, -0.1, float("nan"), float("inf"), 2_147_484, [1]],
        ids=repr,
    )
    def test_seconds(self, name: str, value: object) -> None:
        """Seconds are finite numbers from 0 up, and no bools."""
        said = refusal(MemoryConfig, **{name: value})
        assert said.startswith(f"{name} must be a number of seconds")
        assert said.endswith(f"not {value!r}")

    def test_zero_seconds(self) -> None:
        """Not to wait at all is fine, to deliver in no time is not."""
        MemoryConfig(publish_timeout=0, close_timeout=0, exit_timeout=0, latency=0)
        assert "above 0" in refusal(MemoryConfig, delivery_timeout=0)

    @pytest.mark.parametrize(
        "name",
        [
            "max_in_flight",
            "max_in_flight_bytes",
            "max_message_bytes",
            "result_capacity",
        ],
    )
    @pytest.mark.parametrize("value", [0, -1, 1.0, "9", True, None, 2**41], ids=repr)
    def test_counts(self, name: str, value: object) -> None:
        """Counts are whole numbers from 1 to what drivers have room for."""
        said = refusal(MemoryConfig, **{name: value})
        assert said.startswith(f"{name} must be a whole number from 1 to ")

    def test_huge_number(self) -> None:
        """A number that Python would not print is refused like others."""
        assert "not that int" in refusal(MemoryConfig, max_in_flight=10**5000)

    @pytest.mark.parametrize("value", ["", " ", 7, None, "a\nb", b"a"], ids=repr)
    def test_name(self, value: object) -> None:
        """A name is printable text that says something."""
        assert refusal(MemoryConfig, name=value).startswith("name must be ")

    @pytest.mark.parametrize("value", ["block", None, 7, ["drop"]], ids=repr)
    def test_overflow(self, value: object) -> None:
        """Overflow is one of two words."""
        assert "'drop', 'reserve'" in refusal(MemoryConfig, overflow=value)
        assert MemoryConfig(overflow="reserve").overflow == "reserve"

    def test_long_values_are_cut(self) -> None:
        """A message stays readable whatever was passed."""
        assert len(refusal(MemoryConfig, overflow="x" * 10_000)) < 200

    def test_memory_latency(self) -> None:
        """The memory broker's latency is checked too."""
        assert refusal(MemoryConfig, latency=-1).startswith("latency must be")

    @pytest.mark.parametrize("kind", KINDS, ids=["memory", "nats", "kafka"])
    def test_unknown_setting(self, kind: Callable[..., BusConfig]) -> None:
        """An unknown setting is refused with the one that was probably meant."""
        assert "did you mean delivery_timeout?" in refusal(kind, delivery_timout=3)
        assert "it has name, delivery_timeout" in refusal(kind, zzz=3)

    def test_by_name_only(self) -> None:
        """Settings have names; a bare value is refused as a ConfigError."""
        construct: Any = KafkaConfig
        with pytest.raises(ConfigError, match="by name"):
            construct("localhost:9092")

    def test_missing_setting(self) -> None:
        """What cannot be left out is named."""
        said = refusal(KafkaConfig, linger=1)
        assert said.startswith("bootstrap_servers is missing")

    def test_signature_is_kept(self) -> None:
        """Help and editors show the settings."""
        assert "bootstrap_servers" in inspect.signature(KafkaConfig).parameters

    @pytest.mark.parametrize(
        "config",
        [
            MemoryConfig(latency=1),
            NatsConfig(servers="nats://u:p@h", stream="S", extra={"verbose": True}),
            kafka(extra={"client.rack": "a"}),
        ],
        ids=["memory", "nats", "kafka"],
    )
    def test_values(self, config: BusConfig) -> None:
        """Configurations are frozen, and equal to their copies and pickles."""
        for twin in (
            copy.copy(config),
            copy.deepcopy(config),
            pickle.loads(pickle.dumps(config)),
            attrs.evolve(config),
        ):
            assert twin == config
            assert hash(twin) == hash(config)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            config.name = "other"  # type: ignore[misc]
        assert attrs.evolve(config, name="other").name == "other"

    def test_extra_is_copied(self) -> None:
        """Changing the mapping afterwards changes nothing."""
        extra: dict[str, object] = {"client.rack": "a"}
        config = kafka(extra=extra)
        extra["acks"] = 0
        assert config.extra == {"client.rack": "a"}

    def test_extra_is_frozen_too(self) -> None:
        """Nothing can be put into it or taken out, in copies and pickles neither."""
        config = kafka(extra={"client.rack": "a"})
        for twin in (
            config,
            copy.copy(config),
            copy.deepcopy(config),
            pickle.loads(pickle.dumps(config)),
            attrs.evolve(config, name="other"),
        ):
            extra: Any = twin.extra
            with pytest.raises(TypeError):
                extra["acks"] = 0
            with pytest.raises(TypeError):
                del extra["client.rack"]
            assert not hasattr(extra, "update")
            assert not hasattr(extra, "__dict__")
            assert dict(extra) == {**extra} == {"client.rack": "a"} == extra
            assert len(extra) == 1
        more = attrs.evolve(
            config, extra={**config.extra, "socket.keepalive.enable": 1}
        )
        assert more != config
        assert more.extra["socket.keepalive.enable"] == 1

    def test_extra_hides_its_values(self) -> None:
        """Any of them may be a secret, so the repr shows the names."""
        extra = kafka(extra={"ssl.keystore.password": "hunter2"}).extra
        assert repr(extra) == "{'ssl.keystore.password': '***'}"

    def test_enum_members(self) -> None:
        """A member that is a text or a number counts as that text or number."""

        class Word(str, enum.Enum):  # noqa: UP042 - its str() is not its value
            SUBJECT = "orders"
            WHAT = "reserve"

        class Number(int, enum.Enum):
            ONE = 1

        class Half(float, enum.Enum):
            HALF = 0.5

        overflow: Any = Word.WHAT
        config = NatsConfig(
            name=Word.SUBJECT,
            overflow=overflow,
            servers=[Word.SUBJECT],
            stream=Word.SUBJECT,
            subjects=[Word.SUBJECT],
            replicas=Number.ONE,
            publish_timeout=Half.HALF,
        )
        assert f"{config.name} {config.stream}" == "orders orders"
        assert config.servers == ("nats://orders:4222",)
        assert config.subjects is not None
        texts = [config.name, config.overflow, config.stream, *config.subjects]
        assert {type(text) for text in texts} == {str}
        assert (type(config.replicas), type(config.publish_timeout)) == (int, float)

    @pytest.mark.parametrize("value", [None, "a=b", [("a", 1)], {1: 2}], ids=repr)
    def test_extra_is_a_mapping_of_names(self, value: object) -> None:
        """Anything but a mapping with texts as names is refused."""
        assert refusal(kafka, extra=value).startswith("extra ")


class TestSecrets:
    def test_kafka(self, pem: Path) -> None:
        """The repr shows that there is a password, and not which."""
        config = kafka(
            tls=True,
            tls_cert=pem,
            tls_key=pem,
            tls_key_password="hunter2",
            sasl_mechanism="PLAIN",
            username="me",
            password="hunter2",
            extra={"ssl.keystore.password": "hunter2"},
        )
        assert "hunter2" not in repr(config) + str(config)
        assert "username='me'" in repr(config)
        assert repr(config).count("'***'") == 3
        assert "password=None" in repr(kafka())

    @pytest.mark.parametrize(
        "settings",
        [
            {"user": "me", "password": "hunter2"},
            {"token": "hunter2"},
            {"nkey_seed": "hunter2"},
            {"servers": "nats://me:hunter2@h"},
            pytest.param({"servers": ["hunter2@h"]}, id="list"),
            {"extra": {"ws_connection_headers": "hunter2"}},
        ],
        ids="-".join,
    )
    def test_nats(self, settings: dict[str, Any]) -> None:
        """No kind of credential shows in the repr."""
        assert "hunter2" not in repr(NatsConfig(**settings))
        assert "'***'" in repr(NatsConfig(**settings))

    @pytest.mark.parametrize("name", ["password", "token", "nkey_seed"])
    @pytest.mark.parametrize("value", ["", 7, b"hunter2", ["hunter2"]], ids=repr)
    def test_wrong_types(self, name: str, value: object) -> None:
        """A secret of a wrong type is refused without being shown."""
        said = refusal(NatsConfig, user="me", **{name: value})
        assert said.startswith(name)
        assert "hunter2" not in said


def test_import_is_light() -> None:
    """Importing settings loads no driver and no asyncio, and reads no environment."""
    code = (
        "import sys, types\n"
        "before = set(sys.modules)\n"
        "package = types.ModuleType('eventbus_sync')\n"
        f"package.__path__ = [{str(Path(_settings.__file__).parents[1])!r}]\n"
        "sys.modules['eventbus_sync'] = package\n"
        "import eventbus_sync.config, eventbus_sync.config.url, eventbus_sync.envelope\n"
        "heavy = {'asyncio', 'nats', 'confluent_kafka', 'ssl', 'socket'}\n"
        "sys.exit(', '.join(heavy & (set(sys.modules) - before)) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "EVENTBUS_URL": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
