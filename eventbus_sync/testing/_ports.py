"""Ports of 127.0.0.1 for embedded servers, chosen so that they can be kept."""

import contextlib
import secrets
import socket


HOST = "127.0.0.1"

# Below the ranges from which kernels hand out ports to clients (Linux 32768, macOS
# 49152). A port from those ranges can be taken by any client socket while the server is
# down, even by a client that reconnects in a loop and meets itself.
_LOWEST, _HIGHEST = 15_000, 32_000


def free_port() -> int:
    """
    A TCP port of 127.0.0.1 on which nobody listened a moment ago.

    Somebody may take it before you do; whoever binds it must be ready to ask again.
    """
    while True:
        # Not random.randint: test runners seed it, and then every worker draws alike.
        port = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
