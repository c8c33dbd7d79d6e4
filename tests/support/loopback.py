"""Looks at servers of this machine from outside."""

import socket

from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing._kafka_metadata import ask_metadata
from eventbus_sync.testing._ports import HOST


AnyServer = NatsServer | KafkaServer


def refuses(port: int) -> bool:
    """Whether nobody listens on that port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def answers(server: AnyServer, timeout: float = 5.0) -> bool:
    """Whether a client gets a real answer within ``timeout`` seconds."""
    if isinstance(server, KafkaServer):
        return ask_metadata(server.port, timeout=timeout) is not None
    try:
        with socket.create_connection(
            (HOST, server.port), timeout=timeout
        ) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False
