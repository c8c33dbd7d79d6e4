"""
Making a connection: which server comes next, and how long to wait before it.
"""

import asyncio
import random
import re
import time

from collections.abc import Callable

from eventbus_sync.backends.nats.connection import Connection, Listener
from eventbus_sync.config import NatsConfig
from eventbus_sync.errors import AuthenticationFailed, ConfigError, EventBusError


#: Of the servers that a server names, how many are remembered.
MAX_PEERS = 100

_MAX_PORT = 65_535
_peer = re.compile(r"(?:[A-Za-z0-9_.\-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}").fullmatch
_ip = re.compile(r"[0-9.]+|\[.*\]").fullmatch

_LASTING = (AuthenticationFailed, ConfigError)


class Dialer:
    """
    Tries one server after the other until one takes us. Lives on the loop thread.

    Args:
        config: of the bus.
        listener: of the connections.
        failed: is told of each attempt that failed.
        exhausted: is told after a round of all servers why none could be had.

    Attributes:
        reason: why there is no connection, as a clause to add to other texts; else "".
    """

    def __init__(
        self,
        config: NatsConfig,
        listener: Listener,
        *,
        failed: Callable[[EventBusError], None],
        exhausted: Callable[[EventBusError], None],
    ) -> None:
        self.reason = ""
        self._config = config
        self._listener = listener
        self._failed = failed
        self._exhausted = exhausted
        self._servers: dict[str, str | None] = dict.fromkeys(config.servers)
        self._backoff = 0.0
        self._connected_at = float("-inf")
        self._useful = False

    async def dial(self) -> Connection:
        """Return a fresh connection, however long it takes."""
        if time.monotonic() - self._connected_at > self._config.max_reconnect_wait:
            self._backoff = 0.0
        else:
            # The last one hardly lived. Without a pause, a server that takes us and
            # throws us out again would be asked a thousand times a second. If it was of
            # use all the same, the pause does not grow: a network that flaps is up now.
            if self._useful:
                self._backoff = 0.0
            await self._pause()
        while True:
            connection = await self._round()
            if connection is not None:
                self.reason = ""
                self._connected_at = time.monotonic()
                self._useful = False
                return connection
            await self._pause()

    def useful(self) -> None:
        """The last connection has brought an answer of a stream."""
        self._useful = True

    def note(self, error: EventBusError) -> None:
        """Keep why there is no connection."""
        self.reason = f"; last connection error: {error}"

    def learn(self, connection: Connection) -> None:
        """Remember the servers that *connection*'s named, and no others of before."""
        self._servers = {
            **discovered(connection),
            **dict.fromkeys(self._config.servers),
        }

    async def _round(self) -> Connection | None:
        """Return the first connection that can be had from any server."""
        servers = list(self._servers.items())
        random.shuffle(servers)
        worst: EventBusError | None = None
        for server, tls_name in servers:
            connection = Connection(self._config, server, self._listener, tls_name)
            try:
                await connection.open()
            except EventBusError as error:
                self.note(error)
                self._failed(error)
                # What somebody must mend says more than what may pass.
                if worst is None or isinstance(error, _LASTING):
                    worst = error
            else:
                return connection
        assert worst is not None  # noqa: S101 - there is at least one server
        self._exhausted(worst)
        return None

    async def _pause(self) -> None:
        self._backoff = min(
            max(self._config.reconnect_wait, 2 * self._backoff),
            self._config.max_reconnect_wait,
        )
        # Half of it random, so that a fleet does not come back as one.
        await asyncio.sleep(self._backoff * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret


def discovered(connection: Connection) -> dict[str, str | None]:
    """Return the servers that *connection*'s named, with their certificates' names."""
    scheme, _, own = connection.server.partition("://")
    own_host = connection.tls_name or own.rpartition(":")[0]
    own_name = None if _ip(own_host) else own_host
    found: dict[str, str | None] = {}
    for peer in connection.client.peers[:MAX_PEERS]:
        if not isinstance(peer, str) or _peer(peer) is None:
            continue
        host, _, port = peer.rpartition(":")
        # Servers name each other by address, and certificates do not.
        if 0 < int(port) <= _MAX_PORT:
            found[f"{scheme}://{peer}"] = own_name if _ip(host) else None
    return found
