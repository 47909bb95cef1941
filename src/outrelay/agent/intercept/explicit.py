"""Explicit interception: applications connect to an address that stands for a service.

Source: commands.md, ``--consume SVC@BIND`` and ``SVC/METHOD@BIND``.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from outrelay.agent.options import Consume
from outrelay.agent.sockets import address_of, listen, prepare
from outrelay.lib import advice
from outrelay.lib.errors import ConfigError
from outrelay.lib.observe import logs
from outrelay.lib.values import Address, address_text

log = logs.get_logger(__name__)

Take = Callable[[socket.socket, Consume], None]
"""Takes an application's connection, and what it is meant for; it must not wait."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

PAUSE = 1.0
"""Seconds until the next accept when the system has nothing left for one."""


class ExplicitListener:
    """Listens for the applications of one mapping.

    Args:
        consume: What they get, and where.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def __init__(self, consume: Consume) -> None:
        self.consume = consume
        try:
            self._socket = listen(consume.bind)
        except OSError as error:
            where = address_text(consume.bind)
            raise ConfigError(
                str(consume),
                f"cannot listen on {where}: {error.strerror}",
                advice.on_address(error),
            ) from error

    @property
    def address(self) -> Address:
        """Where it listens, with the port the system chose."""
        return address_of(self._socket)

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()

    async def run(self, take: Take) -> None:
        """Accept connections, for ever; cancelled, it listens no longer."""
        loop = asyncio.get_running_loop()
        log.info("listening", address=address_text(self.address), **self.consume.names)
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._socket)
                except OSError as error:
                    await self._failed(error)
                    continue
                prepare(sock)
                take(sock, self.consume)
                await asyncio.sleep(0)  # an accept need not wait: others have their turn
        finally:
            self.close()

    async def _failed(self, error: OSError) -> None:
        """Go on after an accept that failed: most are one connection's own."""
        if error.errno in _EXHAUSTED:
            log.error(
                "no connection accepted",
                **self.consume.names,
                error=error.strerror,
                hint="raise the limit of open files (ulimit -n)",
            )
            await asyncio.sleep(PAUSE)
