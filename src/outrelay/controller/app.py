"""The controller as a whole: store, services, listeners, upkeep; its start and its stop.

Stopping takes at most 5 s: watches end first, with UNAVAILABLE, so that relays go on with
what they know and look for a controller; other calls have ``listeners.GRACE``; the store is
closed last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from outrelay.controller.admin.service import AdminService
from outrelay.controller.audit.service import AuditService
from outrelay.controller.authz import ADMIN_SOCKET, PLAINTEXT, always, by_certificate
from outrelay.controller.calls import Calls
from outrelay.controller.certificate import Certificate
from outrelay.controller.clock import now_ms
from outrelay.controller.fleet.attachments import Attachments
from outrelay.controller.fleet.service import FleetService
from outrelay.controller.listeners import Listeners, Services, open_listeners
from outrelay.controller.options import (
    ControllerOptions,
    check_database,
    check_listeners,
    load_identity,
)
from outrelay.controller.policy.service import PolicyService
from outrelay.controller.registry.relays import Relays
from outrelay.controller.registry.service import RegistryService
from outrelay.controller.store import Store, open_store
from outrelay.controller.upkeep import run_upkeep
from outrelay.controller.views import Shown, views_of
from outrelay.lib.insight import opened
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import ControllerMetrics, new_registry
from outrelay.lib.service import cause_of
from outrelay.lib.tasks import beside
from outrelay.lib.values import address_text

log = get_logger(__name__)


async def run(options: ControllerOptions, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set.

    Raises:
        ConfigError: Something in the options cannot be used.
        StoreError: The database cannot be used.
    """
    async with serving(options):
        log.info("ready")
        await stop.wait()


@asynccontextmanager
async def serving(options: ControllerOptions) -> AsyncIterator[dict[str, str]]:
    """A controller that serves: the target to call by listener ("tls", "plaintext", "admin").

    Raises:
        ConfigError: Something in the options cannot be used.
        StoreError: The database cannot be used.
    """
    check_listeners(options)
    check_database(options.db)
    identity = load_identity(options)
    certificate = Certificate(identity) if identity else None
    registry = new_registry()
    metrics = ControllerMetrics.on(registry)
    attachments = Attachments()
    metrics.fleet.attached.set_function(lambda: len(attachments))
    shown = Shown(attachments)
    try:
        async with AsyncExitStack() as stack:
            views = views_of(shown, certificate, registry)
            await stack.enter_async_context(opened(options.insight, views))
            store = await stack.enter_async_context(open_store(options.db))
            relays = Relays(await store.bindings.relays(), time.monotonic)
            upkeep = run_upkeep(store, relays, now_ms, options.audit_retention, metrics.store)
            await stack.enter_async_context(beside(upkeep, name="controller: upkeep"))
            if certificate:
                following = beside(certificate.run(), name="controller: look at the certificate")
                await stack.enter_async_context(following)
            services = _services(store, relays, attachments)
            calls = partial(
                Calls,
                present=lambda caller: relays.present(caller.uri),
                metrics=metrics.rpc,
                clock=now_ms,
            )
            listeners = await stack.enter_async_context(open_listeners(services, calls))
            stack.callback(store.close_feeds)
            stack.callback(attachments.close)
            stack.callback(shown.stopping)
            shown.targets = await _listen(listeners, options, certificate)
            yield shown.targets
    except ExceptionGroup as errors:
        raise cause_of(errors) from errors


def _services(store: Store, relays: Relays, attachments: Attachments) -> Services:
    return Services(
        registry=RegistryService(store.bindings, relays, attachments, now_ms),
        policy=PolicyService(store.policies, now_ms),
        audit=AuditService(store.audit, now_ms),
        fleet=FleetService(attachments, relays),
        admin=AdminService(),
    )


async def _listen(
    listeners: Listeners, options: ControllerOptions, certificate: Certificate | None
) -> dict[str, str]:
    """Open the listeners that are asked for."""
    targets = {}
    if options.listen and certificate:
        secure = certificate.server_credentials()
        address = await listeners.serve_tls(options.listen, secure, by_certificate(now_ms))
        targets["tls"] = address_text(address)
    if options.listen_plaintext:
        address = await listeners.serve_plaintext(options.listen_plaintext, always(PLAINTEXT))
        targets["plaintext"] = address_text(address)
        log.warning(
            "plaintext listener: whoever reaches it is relay and operator of every tenant",
            address=targets["plaintext"],
        )
    if options.admin_socket:
        await listeners.serve_socket(options.admin_socket, always(ADMIN_SOCKET))
        targets["admin"] = f"unix:{options.admin_socket}"
    await listeners.announce()
    for listener, target in targets.items():
        log.info("listening", listener=listener, address=target)
    return targets
