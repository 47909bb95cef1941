"""The relay as a service: its rooms put together, started and wound down.

When it is told to stop it turns new connections away, asks the agents to go elsewhere, lets
what is spliced go on for ``--drain``, closes the rest with DRAIN, and tells the controller what
it has not yet.

Source: architecture.md; protocol.md section 6, Drain.
"""

from __future__ import annotations

import asyncio
from asyncio import Task, TaskGroup
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial

from prometheus_client import CollectorRegistry

from outrelay.lib.checks import faults_of
from outrelay.lib.control.v1 import fleet_pb2 as fleet
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import ErrorCode, IdentityError
from outrelay.lib.identity.certs import Credentials, load_credentials, load_trust
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.identity.verify import Usage
from outrelay.lib.insight import insight_faults, opened
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import RelayMetrics, new_registry
from outrelay.lib.observe.views import Views
from outrelay.lib.renewal import Renewal
from outrelay.lib.tasks import beside, spawn
from outrelay.relay.audit.delivery import Delivery
from outrelay.relay.audit.disk import Disk, open_disk
from outrelay.relay.audit.files import try_spool
from outrelay.relay.clock import unix_ms
from outrelay.relay.controller import Controller
from outrelay.relay.doors import Doors, door_faults, open_doors
from outrelay.relay.edge.accept import DRAINING
from outrelay.relay.edge.refusals import Refusals
from outrelay.relay.edge.rooms import edge_of
from outrelay.relay.fleet import FleetWatch
from outrelay.relay.following import Following
from outrelay.relay.heartbeat import Heartbeat
from outrelay.relay.inventory import About, Inventory, about
from outrelay.relay.lag import KINDS
from outrelay.relay.limits import Limits, limits_of
from outrelay.relay.options import RelayOptions
from outrelay.relay.registrations import Registrations
from outrelay.relay.resolver import Resolver
from outrelay.relay.revoke import Revoker
from outrelay.relay.shared import Shared
from outrelay.relay.stalls import Stalls
from outrelay.relay.views import views_of

log = get_logger(__name__)

FAREWELL = 0.5
"""Seconds that connections have to wind up after they were closed, and that the controller has
to hear that this relay leaves."""

SETTLE = 2.0
"""Seconds for what the controller has still to be told."""

FIRST_SNAPSHOTS = 5.0
"""Seconds from the start within which policy and directory usually have come."""

REMINDER = 60.0
"""Seconds between warnings that no policy is asked."""


async def run(options: RelayOptions, stop: asyncio.Event) -> None:
    """Run a relay until ``stop`` is set and it has wound down.

    Raises:
        ConfigError: A file or flag that somebody has to change.
    """
    credentials, trust = _load_identity(options), load_trust(options.ca)
    registry = new_registry()
    metrics = RelayMetrics.on(registry)
    secure = not options.controller_plaintext
    async with (
        open_doors(options, credentials, trust, Refusals(metrics.carrier)) as doors,
        Controller(
            options.controllers,
            credentials=credentials if secure else None,
            trust=trust if secure else None,
        ) as controller,
    ):
        relay_id = options.relay_id or credentials.identity.name
        metrics.carrier.engine.labels(doors.engine).set(1)

        async def show(renewed: Credentials) -> None:
            doors.show(renewed)
            await controller.show(renewed)

        renewal = Renewal(
            credentials,
            partial(_load_identity, options),
            cert=options.cert,
            key=options.key,
            ca=options.ca,
            usage=Usage.SERVER,
            show=show,
        )
        with _open_spool(options) as disk:
            itself = partial(about, lambda: renewal.expires, unix_ms(), registry)
            relay = Relay(options, relay_id, controller, metrics, disk=disk, about=itself)
            views = relay.views(credentials.identity, registry, lambda: renewal.expires)
            async with (
                beside(renewal.run(), name="relay: look at the certificate"),
                opened(options.insight, views),
            ):
                await relay.serve(doors, stop)


def check(options: RelayOptions) -> Iterable[str]:
    """What is at fault with ``options``, one line each."""
    return [
        *faults_of(lambda: _load_identity(options), lambda: load_trust(options.ca)),
        *door_faults(options),
        *faults_of(lambda: _try_spool(options)),
        *insight_faults(options.insight),
    ]


def _try_spool(options: RelayOptions) -> None:
    if options.audit_spool is not None:
        try_spool(options.audit_spool)


def _open_spool(options: RelayOptions) -> AbstractContextManager[Disk | None]:
    if options.audit_spool is None:
        return nullcontext()
    return open_disk(options.audit_spool, options.audit_spool_size)


def _load_identity(options: RelayOptions) -> Credentials:
    """Our credentials, fit for a relay."""
    credentials = load_credentials(options.cert, options.key)
    identity, where = credentials.identity, f"--cert {options.cert}"
    if identity.role is not Role.RELAY:
        raise IdentityError(
            where, f"is the certificate of {identity}, not a relay's", "give the relay's own"
        )
    if fault := credentials.date_fault(datetime.now(UTC)):
        raise IdentityError(where, fault, "give a certificate that is valid now")
    return credentials


class Relay:
    """The rooms of a relay.

    Args:
        options: What it is told to do.
        relay_id: What the registry knows it by.
        controller: Where policy and directory come from and audit goes.
        metrics: What it counts.
        limits: What one peer may use of it; those of the options where they say so.
        disk: Where audit events wait for the controller; None: in memory.
        about: What the process knows of itself, for operators.
    """

    def __init__(
        self,
        options: RelayOptions,
        relay_id: str,
        controller: Controller,
        metrics: RelayMetrics,
        limits: Limits | None = None,
        disk: Disk | None = None,
        about: About = fleet.RelayStatus,
    ) -> None:
        limits = limits or limits_of(options)
        self._options = options
        self._limits = limits
        self._relay_id = relay_id
        self._controller = controller
        self._draining = False
        self._stop = asyncio.Event()
        self._doors: Doors | None = None
        self._audit = Delivery(
            controller,
            metrics.audit,
            relay_id=relay_id,
            overflow=options.audit_overflow,
            disk=disk,
        )
        for kind in KINDS:
            metrics.watches.lag.labels(kind).set_function(partial(controller.lag.seconds, kind))
        shared = Shared.of(limits, metrics, self._audit.trail, allow_all=options.allow_all)
        self._shared = shared
        self._pairs = shared.pairs
        self._edge = edge_of(
            shared,
            relay_id=relay_id,
            elsewhere=Resolver(controller, shared.directory, options.region).relays_of,
            tenant=options.tenant,
        )
        self._heartbeat = Heartbeat(controller, self._describe)
        self._stalls = Stalls(shared.pairs, limits.stalled_bytes)
        self._revoker = Revoker(shared.judge, shared.pairs, shared.trail)
        self._registrations = Registrations(controller, shared.directory, relay_id)
        self._inventory = Inventory(shared.roster, shared.pairs, about)
        self._following = self._follow(shared)

    def _follow(self, shared: Shared) -> Following:
        return Following(
            controller=self._controller,
            tenant=self._options.tenant,
            judge=shared.judge,
            directory=shared.directory,
            registrations=self._registrations,
            roster=shared.roster,
            fleet=FleetWatch(
                self._relay_id, shared.pairs, self._revoker, self._inventory, self._leave
            ),
        )

    def views(
        self, identity: Identity, numbers: CollectorRegistry, expires: Callable[[], float]
    ) -> Views:
        """What there is to see of this relay.

        Args:
            identity: Who it is.
            numbers: What it counts.
            expires: When its certificate ends now, seconds since the epoch.
        """
        return views_of(
            relay_id=self._relay_id,
            region=self._options.region,
            identity=identity,
            expires=expires,
            registry=numbers,
            shared=self._shared,
            controller=self._controller,
            doors=lambda: self._doors,
            unready=self._unready,
        )

    def _unready(self) -> list[str]:
        """Why nobody should be sent here."""
        if self._draining:
            return [DRAINING]
        if self._options.allow_all or self._following.is_loaded:
            return []
        return ["no controller has told policy and directory yet; every stream is denied"]

    async def serve(self, doors: Doors, stop: asyncio.Event) -> None:
        """Serve whoever comes in until ``stop`` is set; then wind down."""
        self._doors, self._stop = doors, stop
        async with beside(self._talk_to_controller(), name="relay: controller"):
            async with (
                beside(self._stalls.run(), name="relay: stalls"),
                beside(self._edge.run(doors), name="relay: edge") as edge,
            ):
                doors.announce()
                async with beside(self._get_ready(doors.endpoint), name="relay: getting ready"):
                    await stop.wait()
                await self._drain()
                await self._close(doors, edge)
            await self._settle()

    async def _get_ready(self, endpoint: str) -> None:
        """Tell when streams can be opened, and when they cannot for want of a controller."""
        if not self._options.allow_all:
            try:
                async with asyncio.timeout(FIRST_SNAPSHOTS):
                    await self._following.wait_loaded()
            except TimeoutError:
                log.warning(
                    "not ready: every stream is denied until a controller has told the policy",
                    controllers=self._options.controllers,
                )
                await self._following.wait_loaded()
        log.info("ready", relay_id=self._relay_id, endpoint=endpoint)

    async def _talk_to_controller(self) -> None:
        async with TaskGroup() as group:
            spawn(group, self._heartbeat.run(), name="relay: heartbeat")
            spawn(group, self._following.run(), name="relay: following")
            spawn(group, self._revoker.run(), name="relay: revoker")
            spawn(group, self._registrations.run(), name="relay: registrations")
            spawn(group, self._audit.run(), name="relay: audit")
            if self._options.allow_all:
                spawn(group, _remind(), name="relay: reminder")

    def _describe(self) -> registry.UpsertRelayRequest:
        """What the controller is told of this relay."""
        assert self._doors is not None
        return registry.UpsertRelayRequest(
            id=self._relay_id,
            region=self._options.region,
            endpoint=self._doors.endpoint,
            tcp_endpoint=self._doors.tcp_endpoint,
            load=len(self._pairs),
            draining=self._draining,
        )

    # ---- winding down --------------------------------------------------------------------

    def _leave(self, reason: str) -> registry.DrainRelayResponse:
        """Wind down, as an operator says; see ``fleet.Leave``."""
        if not self._stop.is_set():
            log.info("told to drain", by=reason, streams=len(self._pairs))
            self._stop.set()
        return registry.DrainRelayResponse(
            streams=len(self._pairs), drain_ms=round(self._options.drain * 1000)
        )

    async def _drain(self) -> None:
        """Wait until nobody needs this relay any more, for ``--drain`` at most."""
        self._draining = True
        self._edge.drain(self._options.drain)
        self._heartbeat.hurry()
        if len(self._pairs):
            log.info("draining", streams=len(self._pairs), seconds=self._options.drain)
        try:
            async with asyncio.timeout(self._options.drain):
                await self._wait_unused()
        except TimeoutError:
            log.warning("streams cut off", streams=len(self._pairs))

    async def _wait_unused(self) -> None:
        """Wait until nothing is spliced, and agents that can go elsewhere have gone."""
        await self._pairs.wait_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.leaving_patience):
                await self._edge.wait_left()
        await self._pairs.wait_idle()

    async def _close(self, doors: Doors, edge: Task[None]) -> None:
        for pair in self._pairs:
            if pair.splice is not None:
                code = ErrorCode.LEG_LOST if pair.can_resume else ErrorCode.DRAIN
                pair.splice.abandon(code, DRAINING)
        self._edge.close(ErrorCode.DRAIN, DRAINING)
        await doors.close()
        await asyncio.wait([edge], timeout=FAREWELL)

    async def _settle(self) -> None:
        """Tell the controller the rest, as far as it listens."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._heartbeat.wait_told()  # that this relay leaves
        try:
            async with asyncio.timeout(SETTLE):
                if await self._audit.settle():
                    await self._registrations.wait_published()
                else:
                    log.info("audit events wait in the spool", events=self._audit.waiting)
        except TimeoutError:
            log.warning(
                "the controller was not told everything",
                audit_events=self._audit.waiting,
                agents=self._registrations.waiting,
            )


async def _remind() -> None:
    while True:
        log.warning("--allow-all: every stream is allowed, no policy is asked; never in production")
        await asyncio.sleep(REMINDER)
