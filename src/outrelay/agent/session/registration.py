"""Registers the agent's services with the relay of one session.

Source: protocol.md section 4.
"""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections.abc import Iterable

from outrelay.agent import hints
from outrelay.agent.options import Expose
from outrelay.agent.session.session import Session
from outrelay.lib.errors import StreamRejected
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe import logs
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.dial import Backoff
from outrelay.lib.values import address_text

log = logs.get_logger(__name__)

RETRY_FIRST = 1.0
RETRY_MOST = 30.0
"""Bounds of the wait between two tries, seconds."""


async def register_all(session: Session, services: Iterable[Expose], agent: Identity) -> None:
    """Return once the relay has acknowledged every service, however many tries that takes.

    Raises:
        ExceptionGroup: Of Closed: the connection is gone.
    """
    async with TaskGroup() as group:
        for each in services:
            spawn(group, _register(session, each, agent), name=f"agent: register {each.service}")


async def _register(session: Session, expose: Expose, agent: Identity) -> None:
    backoff = Backoff(first=RETRY_FIRST)
    service = expose.service
    while True:
        try:
            await session.register(service, address_text(expose.target))
        except StreamRejected as rejected:
            hint = hints.for_registration(rejected.code, agent=agent, service=service)
            log.warning("registration refused", service=service, reason=str(rejected), hint=hint)
        except TimeoutError:
            log.warning("registration not answered, trying again", service=service)
        else:
            log.info("registered", service=service)
            return
        await asyncio.sleep(backoff.delay(RETRY_MOST))
