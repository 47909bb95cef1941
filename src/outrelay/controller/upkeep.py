"""What the controller does by itself, now and then.

A round that fails because of the database is logged and tried again the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from outrelay.controller.clock import Clock
from outrelay.controller.registry.relays import Relays
from outrelay.controller.store import Audit, Bindings, Policies, Store
from outrelay.lib.errors import StoreError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import StoreMetrics
from outrelay.lib.tasks import spawn

log = get_logger(__name__)

SWEEP_EVERY = 1.0
RETENTION_EVERY = 60.0
COUNT_EVERY = 60.0
EXPIRED_RULES_EVERY = 600.0

RETENTION_BATCH = 500
EXPIRED_RULES_KEPT_MS = 24 * 3600 * 1000


async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` for ever, with a pause of so many seconds after each time."""
    while True:
        try:
            await work()
        except StoreError as error:
            log.warning("upkeep failed", error=str(error))
        await asyncio.sleep(seconds)


async def sweep_relays(relays: Relays, bindings: Bindings) -> None:
    """Take what is behind dead relays out of the live bindings, and put it back."""
    turns = relays.sweep()
    for relay_ids, alive in ((turns.died, False), (turns.returned, True)):
        if not relay_ids:
            continue
        try:
            await bindings.set_alive(relay_ids, alive=alive)
        except StoreError:
            relays.note(relay_ids, alive=not alive)
            raise
        log.warning("relays returned" if alive else "relays died", relays=", ".join(relay_ids))


async def forget_old_events(audit: Audit, clock: Clock, retention: float) -> None:
    """Remove audit events older than ``retention`` seconds, little by little."""
    before = clock() - int(retention * 1000)
    removed = RETENTION_BATCH
    while removed == RETENTION_BATCH:
        removed = await audit.remove_before(before, limit=RETENTION_BATCH)


async def forget_expired_rules(policies: Policies, clock: Clock) -> None:
    """Remove rules that expired more than a day ago."""
    removed = await policies.remove_expired(clock() - EXPIRED_RULES_KEPT_MS)
    if removed:
        log.info("expired policies removed", count=removed)


async def count_rows(store: Store, metrics: StoreMetrics) -> None:
    """Have it known how much there is."""
    for table, rows in (await store.count_rows()).items():
        metrics.rows.labels(table).set(rows)


async def run_upkeep(
    store: Store, relays: Relays, clock: Clock, retention: float, metrics: StoreMetrics
) -> None:
    """Do all of it, for ever.

    Args:
        store: What to keep.
        relays: Who lives.
        clock: The time.
        retention: Seconds that audit events are kept.
        metrics: Told how much there is.
    """
    rounds: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
        "dead relays": (SWEEP_EVERY, lambda: sweep_relays(relays, store.bindings)),
        "rows": (COUNT_EVERY, lambda: count_rows(store, metrics)),
        "audit retention": (
            RETENTION_EVERY,
            lambda: forget_old_events(store.audit, clock, retention),
        ),
        "expired policies": (
            EXPIRED_RULES_EVERY,
            lambda: forget_expired_rules(store.policies, clock),
        ),
    }
    async with asyncio.TaskGroup() as group:
        for name, (seconds, work) in rounds.items():
            spawn(group, every(seconds, work), name=f"upkeep: {name}")
