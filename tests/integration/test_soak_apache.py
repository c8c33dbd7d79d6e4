"""The soak on Apache Kafka, which is killed and restarted too; what it starts, alone."""

import json

from pathlib import Path

import pytest

from support.apache_kafka import availability
from support.kafka_jars import find_jars
from support.verdict import kept

from eventbus_sync import Envelope, EventBus, KafkaConfig, cli
from eventbus_sync.soak import run as soak
from eventbus_sync.soak.schedule import Strike
from eventbus_sync.testing import (
    ApacheKafkaServer,
    BrokerNotInstalled,
    BrokerStartFailed,
    TcpProxy,
)
from eventbus_sync.testing import apache_kafka as apache_kafka_module
from eventbus_sync.testing.pytest_plugin import skip_or_fail
from eventbus_sync.testing.readback import read_kafka_topic


pytestmark = pytest.mark.kafka


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder as it is when somebody has unpacked Apache Kafka."""
    if reason := availability():
        skip_or_fail(reason)
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "libs").symlink_to(find_jars())
    return tmp_path / "kafka"


@pytest.mark.apache
@pytest.mark.slow
def test_killed_restarted_and_frozen(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the command; and the books balance, over a crash and an orderly restart."""
    strikes = [
        Strike(at=2.0, lane="server", kind="kill", seconds=0.5),
        Strike(at=2.2, lane="network", kind="cut", seconds=0.5),
        Strike(at=12.0, lane="server", kind="restart", seconds=0.5),
        Strike(at=22.0, lane="server", kind="freeze", seconds=1.0),
        Strike(at=22.5, lane="network", kind="slow", seconds=1.0, delay=0.05),
    ]
    monkeypatch.setattr(soak, "draw", lambda plan: strikes)
    file = tmp_path / "soak.json"
    wanted = ["soak", "--kafka-home", str(home), "--minutes", "0.45", "--seed", "3"]
    code = cli.main([*wanted, "--rate", "1000", "--json", str(file)])
    said = capsys.readouterr().out
    kept(code, said)
    assert said.startswith("Apache Kafka: 0.45 min")
    figures = json.loads(file.read_text())
    assert len(figures["strikes"]) == len(strikes)
    assert figures["stored"] >= figures["stats"]["acked"] > 5000
    assert figures["plan"]["kafka_home"] is None


@pytest.mark.apache
@pytest.mark.slow
def test_data_survives_and_clients_come_by_the_proxy(home: Path) -> None:
    """It tells them to; and what was stored before a kill is there after it."""
    with TcpProxy() as proxy, ApacheKafkaServer(home, proxy=proxy) as server:
        assert server.bootstrap_servers == proxy.address
        config = KafkaConfig(bootstrap_servers=server.bootstrap_servers)
        with EventBus(config) as bus:
            result = bus.publish_envelope_sync("t", Envelope("a", "E", 1, 1))
        assert result.success
        assert proxy.accepted > 0
        server.kill()
        server.start()
        (stored,) = read_kafka_topic(config, "t")
        assert stored.event_id == result.event_id


@pytest.mark.apache
@pytest.mark.slow
def test_what_kafka_does_not_take(home: Path) -> None:
    """What its own tool says is in the error."""
    with pytest.raises(BrokerStartFailed, match=r"format failed.*same port"):
        ApacheKafkaServer(home, ports=(1, 1)).start()


def test_no_jars(tmp_path: Path) -> None:
    with pytest.raises(BrokerNotInstalled, match="holds no Apache Kafka"):
        apache_kafka_module.find_jars(tmp_path)


def test_no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None at all, or one that is too old."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BrokerNotInstalled, match="no java"):
        apache_kafka_module.find_java()
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    with pytest.raises(BrokerNotInstalled, match="needs Java 17"):
        apache_kafka_module.find_java()
