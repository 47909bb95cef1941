"""What audit costs the relay's open path, and how fast events come into the controller's store.

The relay's own audit room records opens of streams and delivers them to a controller that
runs, over mutual TLS; an event is *stored* when the controller has said so. Recording is
what every open and every end of a stream pays; the rest happens beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from outrelay.lib.identity.certs import load_credentials, load_trust
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.lib.tasks import beside
from outrelay.lib.values import Address, address_text
from outrelay.relay.audit.delivery import Delivery
from outrelay.relay.audit.disk import open_disk
from outrelay.relay.audit.trail import Trail
from outrelay.relay.call import Call
from outrelay.relay.controller import Controller
from outrelay.relay.options import Overflow

_TENANT = "acme"
_CALLER = f"outrelay://{_TENANT}/agent/0a0a0a0a-0000-4000-8000-00000000000a"
_PROVIDER = f"outrelay://{_TENANT}/agent/0b0b0b0b-0000-4000-8000-00000000000b"
_REASON = "allowed by policy rule 0c0c0c0c-0000-4000-8000-00000000000c"
_PATIENCE = 60.0
_SPOOL = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found.

    Args:
        recorded: Seconds each event took to be recorded.
        per_second: Events stored a second, delivered from memory.
        spooled_per_second: The same, through a spool.
    """

    recorded: Sequence[float]
    per_second: float
    spooled_per_second: float


def measure(pki: Path, controller: Address, spool: Path, events: int) -> Found:
    """Record and deliver so many events, from memory and then through a spool.

    Args:
        pki: Folder with the relay's certificate.
        controller: Where the controller listens.
        spool: A folder for the spool.
        events: How many.
    """
    return asyncio.run(_measure(pki, controller, spool, events))


async def _measure(pki: Path, controller: Address, spool: Path, events: int) -> Found:
    async with Controller(
        (address_text(controller),),
        credentials=load_credentials(pki / "relay.pem", pki / "relay.key"),
        trust=load_trust(pki / "ca.pem"),
    ) as line:
        recorded, per_second = await _deliver(line, None, events)
        _, spooled_per_second = await _deliver(line, spool, events)
    return Found(recorded=recorded, per_second=per_second, spooled_per_second=spooled_per_second)


async def _deliver(line: Controller, spool: Path | None, events: int) -> tuple[list[float], float]:
    """Seconds of each recording, and events stored a second."""
    with ExitStack() as stack:
        disk = stack.enter_context(open_disk(spool, _SPOOL)) if spool else None
        delivery = Delivery(
            line,
            AuditMetrics(CollectorRegistry()),
            relay_id="r1",
            overflow=Overflow.DENY,
            disk=disk,
        )
        recorded = [_record(delivery.trail, number) for number in range(events)]
        began = time.monotonic()
        async with asyncio.timeout(_PATIENCE), beside(delivery.run(), name="bench: audit"):
            await delivery.settle()
        assert not delivery.waiting
    return recorded, events / (time.monotonic() - began)


def _record(trail: Trail, number: int) -> float:
    call = Call(tenant=_TENANT, caller=_CALLER, service="shop", stream_id=number + 1)
    began = time.perf_counter()
    if trail.has_room(_TENANT):
        trail.opened(call, _PROVIDER, _REASON)
    return time.perf_counter() - began
