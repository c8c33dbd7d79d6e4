"""Every verb of the embedded servers does what it says, on every server."""

import re
import socket
import threading
import time

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support.loopback import AnyServer, answers, refuses
from support.patience import SLACK

from eventbus_sync.testing import (
    BrokerStartFailed,
    KafkaServer,
    NatsServer,
    _process,
    _server,
)
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing._server import Server


pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]


@pytest.fixture(params=["nats", "kafka"])
def server(request: pytest.FixtureRequest) -> AnyServer:
    """A running server of each kind, this test's own."""
    fixture = f"fresh_{request.param}_server"
    running: AnyServer = request.getfixturevalue(fixture)
    return running


class TestVerbs:
    """start, stop, kill, freeze, resume, restart, close: the same on every server."""

    def test_started_means_answering(self, server: AnyServer) -> None:
        """start() waits for an answer, so the first request needs no retry."""
        assert server.running
        assert answers(server)

    def test_start_of_a_running_server_changes_nothing(self, server: AnyServer) -> None:
        port = server.port
        server.start()
        assert server.port == port
        assert answers(server)

    def test_a_frozen_server_takes_connections_and_answers_nothing(
        self, server: AnyServer
    ) -> None:
        server.freeze()
        assert server.running
        assert not refuses(server.port)
        assert not answers(server, 0.5)
        server.resume()
        assert answers(server)

    def test_killed_means_gone(self, server: AnyServer) -> None:
        server.kill()
        assert not server.running
        assert refuses(server.port)

    def test_stopped_means_gone(self, server: AnyServer) -> None:
        server.stop()
        assert not server.running
        assert refuses(server.port)

    @pytest.mark.parametrize("verb", ["stop", "kill", "close"])
    def test_ending_twice_is_fine(self, server: AnyServer, verb: str) -> None:
        end: Callable[[], None] = getattr(server, verb)
        end()
        end()
        assert not server.running

    @pytest.mark.parametrize("verb", ["stop", "kill", "close"])
    def test_a_frozen_server_can_be_ended(self, server: AnyServer, verb: str) -> None:
        server.freeze()
        getattr(server, verb)()
        assert not server.running
        assert refuses(server.port)

    @pytest.mark.parametrize("end", ["stop", "kill", "restart", "close"])
    def test_the_port_is_for_life(self, server: AnyServer, end: str) -> None:
        port = server.port
        getattr(server, end)()
        server.start()
        assert server.port == port
        assert answers(server)

    @pytest.mark.parametrize("verb", ["freeze", "resume"])
    def test_a_server_that_does_not_run_cannot_be_frozen(
        self, server: AnyServer, verb: str
    ) -> None:
        server.stop()
        with pytest.raises(RuntimeError, match="does not run"):
            getattr(server, verb)()

    def test_verbs_from_another_thread(self, server: AnyServer) -> None:
        """A test's chaos thread breaks the server while the test works with it."""

        def break_and_mend() -> None:
            for _ in range(3):
                server.kill()
                server.start()

        chaos = threading.Thread(target=break_and_mend)
        chaos.start()
        while chaos.is_alive():
            server.start()
        chaos.join()
        assert answers(server)

    def test_before_the_first_start_there_is_no_port(self) -> None:
        for server in (NatsServer(), KafkaServer(kind="tansu")):
            assert not server.running
            with pytest.raises(RuntimeError, match="no port before"):
                assert server.port
            server.stop()  # nothing to do, nothing to complain about
            server.kill()
            server.close()

    def test_repr_says_where_and_whether(self, fresh_nats_server: NatsServer) -> None:
        port, pid = fresh_nats_server.port, fresh_nats_server.pid
        assert repr(fresh_nats_server) == f"<NatsServer {HOST}:{port}, pid {pid}>"
        fresh_nats_server.stop()
        assert repr(fresh_nats_server) == f"<NatsServer {HOST}:{port}, not running>"
        assert fresh_nats_server.pid is None
        assert repr(NatsServer()) == "<NatsServer no port yet, not running>"

    def test_repr_and_url_of_a_kafka_server(self) -> None:
        with KafkaServer(kind="tansu") as server:
            where = f"{HOST}:{server.port}"
            assert server.url == f"kafka://{where}"
            assert re.fullmatch(
                rf"<KafkaServer tansu {where}, pid \d+>", repr(server)
            ), repr(server)
            server.stop()
            assert repr(server) == f"<KafkaServer tansu {where}, not running>"
        assert (
            repr(KafkaServer(kind="tansu"))
            == "<KafkaServer tansu no port yet, not running>"
        )


class TestPorts:
    """An ephemeral port may be taken by somebody else between choice and use."""

    @pytest.fixture
    def taken_port(self) -> Iterator[int]:
        with socket.socket() as holder:
            port = free_port()
            holder.bind((HOST, port))
            yield port

    @pytest.mark.parametrize("kind", [NatsServer, KafkaServer])
    def test_a_port_grabbed_in_between_is_replaced(
        self,
        kind: Callable[[], AnyServer],
        taken_port: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        ports = iter([taken_port, taken_port])
        monkeypatch.setattr(_server, "free_port", lambda: next(ports, free_port()))
        with kind() as server:
            assert server.port != taken_port
            assert answers(server)

    def test_if_every_port_is_taken_the_error_says_so(
        self, taken_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_server, "free_port", lambda: taken_port)
        with pytest.raises(BrokerStartFailed, match="already in use"):
            NatsServer().start()

    @pytest.mark.parametrize("kind", [NatsServer, KafkaServer])
    def test_a_port_of_your_choice_is_not_replaced(
        self, kind: Callable[..., AnyServer], taken_port: int
    ) -> None:
        with pytest.raises(BrokerStartFailed) as caught:
            kind(port=taken_port).start()
        assert caught.value.port_taken
        assert str(caught.value).startswith(f"port {taken_port} is in use by another ")
        port = free_port()
        with kind(port=port) as server:
            assert server.port == port

    def test_an_answer_from_somebody_elses_server_does_not_count(
        self, server: AnyServer
    ) -> None:
        with pytest.raises(BrokerStartFailed) as caught:
            type(server)(port=server.port).start()
        assert caught.value.port_taken


class _Stubborn(Server):
    """A program that never answers, or never ends, as told."""

    name = "stubborn"
    answering = True

    def _command(self, folder: Path) -> Sequence[str]:  # noqa: ARG002
        return [
            "/bin/sh",
            "-c",
            "trap '' TERM; echo started; while :; do sleep 1; done",
        ]

    def _answers(self) -> bool:
        return self.answering and "started" in self.log


class TestStubbornServers:
    """Every wait has an end."""

    def test_no_answer_within_the_start_timeout(self) -> None:
        server = _Stubborn(start_timeout=1.0)
        server.answering = False
        with pytest.raises(BrokerStartFailed, match=r"within 1 s.*\nstarted"):
            server.start()
        assert not server.running

    def test_sigterm_ignored(self) -> None:
        with _Stubborn(stop_timeout=0.2) as server:
            begun = time.monotonic()
            server.stop()
            assert time.monotonic() - begun < 5 + SLACK
            assert not server.running

    def test_no_watchdog_no_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_process, "_SHELL", "/nonexistent/sh")
        server = _Stubborn()
        with pytest.raises(FileNotFoundError):
            server.start()
        assert not server.running

    def test_a_freeze_that_does_not_take(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_process, "_FREEZE_TIMEOUT", 0.05)
        monkeypatch.setattr(_process.ServerProcess, "_stopped", lambda _: False)
        with _Stubborn() as server, pytest.raises(TimeoutError, match="did not stop"):
            server.freeze()
