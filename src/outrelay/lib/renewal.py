"""Our certificate and key on disk: what becomes of newer ones that somebody puts there.

Words: the files are *settled* when two looks in a row find them alike, so that whoever writes
one after the other is not caught in between. SIGHUP asks for a look that does not wait for it.

Invariants: what cannot be used, that no peer would accept, or that is somebody else's, is a
warning, and what we have stays.

Source: control-plane.md, Enrollment; protocol.md section 1.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Never

from outrelay.lib.errors import ConfigError, IdentityError
from outrelay.lib.identity.certs import Credentials, load_trust
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.observe import logs

log = logs.get_logger(__name__)

LOOK = 5.0
"""Seconds between two looks."""

_Seen = tuple[tuple[int, int, int] | None, ...]
"""What tells one state of the files from another: of each its time, its number and its size."""


class Renewal:
    """Follows the files of our credentials.

    Args:
        held: What they held when we started.
        load: Reads them; raises ConfigError when that is in vain.
        cert: The certificate's file, also the name of it all in a warning.
        key: The private key's.
        ca: The CAs', of which one must have issued what we show.
        usage: As what peers will judge it.
        show: Makes use of new ones; raises ConfigError when they are of no use.
    """

    def __init__(
        self,
        held: Credentials,
        load: Callable[[], Credentials],
        *,
        cert: Path,
        key: Path,
        ca: Path,
        usage: Usage,
        show: Callable[[Credentials], Awaitable[None]],
    ) -> None:
        self._held = held
        self._load = load
        self._cert, self._key, self._ca = cert, key, ca
        self._usage = usage
        self._show = show
        self._seen = self._judged = _state((cert, key))

    @property
    def expires(self) -> float:
        """When what we have ends, seconds since the epoch."""
        return self._held.expires

    async def run(self) -> Never:
        """Look at the files now and then, and at every SIGHUP, for ever."""
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK):
                        await asked.wait()
                except TimeoutError:
                    await self._look()
                else:
                    asked.clear()
                    await self._reload()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def _look(self) -> None:
        before, self._seen = self._seen, _state((self._cert, self._key))
        if self._seen == before != self._judged:
            await self._judge()

    async def _reload(self) -> None:
        self._seen = _state((self._cert, self._key))
        if not await self._judge():
            log.info("certificate unchanged", file=self._cert)

    async def _judge(self) -> bool:
        """Take what the files hold now; whether it is anything new."""
        self._judged = self._seen
        try:
            renewed = self._load()
            if renewed.certificate == self._held.certificate:
                return False
            self._check(renewed)
            await self._show(renewed)
        except ConfigError as error:
            log.warning("new certificate not used", error=str(error), hint="the old one stays")
            return True
        self._held = renewed
        ends = datetime.fromtimestamp(renewed.expires, UTC)
        log.info("certificate renewed", identity=renewed.identity, ends=f"{ends:%Y-%m-%d %H:%M:%S}")
        return True

    def _check(self, renewed: Credentials) -> None:
        ours, where = self._held.identity, f"--cert {self._cert}"
        if renewed.identity != ours:
            fault = f"is now the certificate of {renewed.identity}, not of {ours}"
            raise IdentityError(where, fault, "start another process for it")
        chain = (renewed.certificate, *renewed.chain)
        trust, now = load_trust(self._ca), datetime.now(UTC)
        try:
            verify_peer(chain, trust, usage=self._usage, roles={ours.role}, now=now)
        except IdentityError as error:
            raise IdentityError(where, error.fault, error.fix) from error


def _state(paths: Sequence[Path]) -> _Seen:
    return tuple(map(_state_of, paths))


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
