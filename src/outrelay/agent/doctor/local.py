"""What can be checked without a relay: the agent's files, and the backends it exposes."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from outrelay.agent import sockets
from outrelay.agent.doctor.findings import Finding, Mark
from outrelay.agent.options import Expose
from outrelay.lib.errors import IdentityError, Refused
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.values import address_text

SOON = 0.25
"""The part of a certificate's life whose beginning is time to think of the next one."""

BACKEND_LIMIT = 2.0
"""Seconds a backend has to take a connection."""


def certificate(credentials: Credentials, trust: Trust, now: datetime) -> Finding:
    """Whether relays that trust the same CA will accept the agent's certificate."""
    subject = "certificate"
    chain = (credentials.certificate, *credentials.chain)
    try:
        verify_peer(chain, trust, usage=Usage.CLIENT, roles={Role.AGENT}, now=now)
    except IdentityError as error:
        fix = error.fix or "give a certificate that the CA of --ca has issued"
        return Finding(subject=subject, mark=Mark.FAIL, text=error.fault, advice=fix)
    ends = credentials.certificate.not_valid_after_utc
    text = f"{credentials.identity}, valid for {_duration(ends - now)} more"
    if ends - now > SOON * (ends - credentials.certificate.not_valid_before_utc):
        return Finding(subject=subject, mark=Mark.OK, text=text)
    advice = "renew it: every connection ends with it"
    return Finding(subject=subject, mark=Mark.WARN, text=text, advice=advice)


def key_file(path: Path) -> Iterator[Finding]:
    """A finding when others than its owner may read the private key."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(
            subject="key file",
            mark=Mark.WARN,
            text=f"{path} may be used by others than its owner (mode {mode:04o})",
            advice=f"chmod 600 {path}",
        )


async def backend(expose: Expose) -> Finding:
    """Whether a backend takes connections."""
    subject = f"backend of {expose.service}"
    where = address_text(expose.target)
    try:
        async with asyncio.timeout(BACKEND_LIMIT):
            sock = await sockets.connect(expose.target)
    except Refused as error:
        fault, advice = f"{where}: {error.reason}", "check that it runs there, and its name"
    except TimeoutError:
        fault = f"{where}: does not answer within {BACKEND_LIMIT:g} s"
        advice = "check that it runs, and that no firewall is between"
    else:
        sockets.close(sock)
        return Finding(subject=subject, mark=Mark.OK, text=f"{where} takes connections")
    return Finding(subject=subject, mark=Mark.FAIL, text=fault, advice=advice)


def now() -> datetime:
    """The time by this host's clock."""
    return datetime.now(UTC)


def _duration(left: timedelta) -> str:
    hours = int(left.total_seconds()) // 3600
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h" if hours else f"{int(left.total_seconds()) // 60} min"
