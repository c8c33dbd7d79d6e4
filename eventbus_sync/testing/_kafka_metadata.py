"""One question in the Kafka protocol, without a driver: which cluster are you?"""

import socket
import struct

from typing import NamedTuple

from eventbus_sync.testing._ports import HOST


class ClusterMetadata(NamedTuple):
    """What a broker says about its cluster."""

    cluster_id: str | None
    controller_id: int
    node_ids: frozenset[int]


_METADATA, _VERSION, _CORRELATION_ID = 3, 2, 1
_NO_TOPICS = 0


def ask_metadata(port: int, timeout: float = 1.0) -> ClusterMetadata | None:
    """
    What the broker on this port of 127.0.0.1 says; None without an answer in time.

    ``timeout`` is in seconds, for the connection and for each wait for more bytes.
    """
    client_id = b"eventbus_sync.testing"
    request = struct.pack(
        f">hhih{len(client_id)}si",
        _METADATA,
        _VERSION,
        _CORRELATION_ID,
        len(client_id),
        client_id,
        _NO_TOPICS,
    )
    try:
        with (
            socket.create_connection((HOST, port), timeout=timeout) as connection,
            connection.makefile("rb") as stream,
        ):
            connection.sendall(struct.pack(">i", len(request)) + request)
            (length,) = struct.unpack(">i", stream.read(4))
            return _parse(stream.read(length))
    except (OSError, struct.error):  # struct.error: the connection ended early
        return None


def _parse(answer: bytes) -> ClusterMetadata:
    position = 0

    def integer(code: str) -> int:
        nonlocal position
        value: int
        (value,) = struct.unpack_from(code, answer, position)
        position += struct.calcsize(code)
        return value

    def string() -> str | None:
        nonlocal position
        length = integer(">h")
        if length < 0:
            return None
        position += length
        return answer[position - length : position].decode()

    integer(">i")  # correlation id
    nodes = set()
    for _ in range(integer(">i")):
        nodes.add(integer(">i"))
        string()  # host
        integer(">i")  # port
        string()  # rack
    cluster_id = string()
    return ClusterMetadata(cluster_id, integer(">i"), frozenset(nodes))
