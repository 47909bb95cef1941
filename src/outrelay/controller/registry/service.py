"""The Registry rpcs; those for operators are in ``operators``.

Source: control-plane.md, Registry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from random import random

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.clock import Clock
from outrelay.controller.fields import (
    check_agent,
    check_service_name,
    check_tenant,
    check_text,
    invalid,
)
from outrelay.controller.fleet.attachments import Attachments
from outrelay.controller.registry.operators import OperatorRpcs
from outrelay.controller.registry.order import in_order
from outrelay.controller.registry.relays import Relays
from outrelay.controller.store import Binding, BindingChange, Bindings, Relay, Service
from outrelay.controller.watch import SNAPSHOT, admit, asks_for, watched_tenant
from outrelay.lib.control.v1 import registry_pb2 as pb
from outrelay.lib.observe.logs import get_logger

log = get_logger(__name__)


class RegistryService(OperatorRpcs):
    """Registry over the store.

    Args:
        bindings: The store's part.
        relays: Who lives.
        attachments: Who is on the line.
        clock: The time.
    """

    def __init__(
        self, bindings: Bindings, relays: Relays, attachments: Attachments, clock: Clock
    ) -> None:
        super().__init__(bindings, attachments)
        self._relays = relays
        self._clock = clock

    async def RegisterService(
        self, request: pb.RegisterServiceRequest, _context: Context
    ) -> pb.RegisterServiceResponse:
        """Bind an agent's service to the relay it is attached to."""
        check_tenant(request.tenant)
        check_service_name(request.service_name)
        check_agent(request.agent_uri, tenant=request.tenant)
        check_text("local_addr", request.local_addr, optional=True)
        holder = await self._sign_of(request.relay_id)
        service = Service(
            tenant=request.tenant,
            name=request.service_name,
            agent_uri=request.agent_uri,
            relay_id=request.relay_id,
            local_addr=request.local_addr,
            weight=request.weight,
            priority=request.priority,
        )
        await self._bindings.register(service, holder=holder, now_ms=self._clock())
        log.info(
            "service registered",
            service=service.id,
            agent=service.agent_uri,
            relay=service.relay_id,
        )
        return pb.RegisterServiceResponse(service_id=service.id)

    async def DeregisterAgent(
        self, request: pb.DeregisterAgentRequest, _context: Context
    ) -> pb.DeregisterAgentResponse:
        """Unbind all services an agent has behind this relay."""
        await self._deregister(request.tenant, request.agent_uri, request.relay_id)
        return pb.DeregisterAgentResponse()

    async def DeregisterService(
        self, request: pb.DeregisterServiceRequest, _context: Context
    ) -> pb.DeregisterServiceResponse:
        """Unbind one service an agent has behind this relay."""
        check_service_name(request.service_name)
        await self._deregister(
            request.tenant, request.agent_uri, request.relay_id, request.service_name
        )
        return pb.DeregisterServiceResponse()

    async def Resolve(self, request: pb.ResolveRequest, _context: Context) -> pb.ResolveResponse:
        """The live providers of a service, in the order to try them."""
        current_caller().require_tenant(request.tenant)
        check_tenant(request.tenant)
        check_service_name(request.service_name)
        bindings = await self._bindings.resolve(request.tenant, request.service_name)
        ordered = in_order(bindings, region=request.caller_region, random=random)
        return pb.ResolveResponse(providers=map(_provider, ordered))

    async def Watch(
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncGenerator[pb.WatchEvent, None]:
        """Changes as they happen; before them, when asked for, what is live already."""
        tenant = watched_tenant(context, request.tenant)
        names = frozenset(request.service_names)

        def wanted(binding: Binding) -> bool:
            service = binding.service
            return tenant in (None, service.tenant) and (not names or service.name in names)

        with self._bindings.feed.subscribe(lambda change: wanted(change.binding)) as changes:
            await admit(context)
            seen = 0
            if asks_for(context, SNAPSHOT):
                bindings, seen = await self._bindings.snapshot(tenant)
                for binding in filter(wanted, bindings):
                    yield _event(pb.EVENT_KIND_REGISTER, binding)
                yield pb.WatchEvent(kind=pb.EVENT_KIND_SNAPSHOT_END)
            async for change in changes:
                if change.revision > seen:
                    yield _change_event(change)

    async def UpsertRelay(
        self, request: pb.UpsertRelayRequest, _context: Context
    ) -> pb.UpsertRelayResponse:
        """A relay's beat, and what it says of itself."""
        _check_relay(request)
        holder = self._relays.claim(request.id, current_caller().identity)
        beating = self._relays.beat(request.id)
        relay = Relay(
            id=request.id,
            region=request.region,
            endpoint=request.endpoint,
            forward_endpoint=request.forward_endpoint,
            tcp_endpoint=request.tcp_endpoint,
            intra_endpoint=request.intra_endpoint,
            load=request.load,
            draining=request.draining,
        )
        await self._bindings.upsert_relay(relay, holder=holder, beating=beating)
        return pb.UpsertRelayResponse(server_time_unix_ms=self._clock())

    async def _deregister(
        self, tenant: str, agent_uri: str, relay_id: str, name: str | None = None
    ) -> None:
        check_tenant(tenant)
        check_agent(agent_uri, tenant=tenant)
        await self._sign_of(relay_id)
        gone = await self._bindings.deregister(
            tenant=tenant, agent_uri=agent_uri, relay_id=relay_id, name=name
        )
        log.info("services deregistered", count=gone, agent=agent_uri, relay=relay_id)

    async def _sign_of(self, relay_id: str) -> str:
        """A relay speaks of its rows: who holds its id, once it is known to be alive."""
        check_text("relay_id", relay_id)
        holder = self._relays.claim(relay_id, current_caller().identity)
        if self._relays.sign(relay_id):
            await self._bindings.set_alive([relay_id], alive=True)
        return holder


def _check_relay(request: pb.UpsertRelayRequest) -> None:
    check_text("id", request.id)
    check_text("region", request.region, optional=True)
    check_text("endpoint", request.endpoint)
    check_text("forward_endpoint", request.forward_endpoint, optional=True)
    check_text("tcp_endpoint", request.tcp_endpoint, optional=True)
    check_text("intra_endpoint", request.intra_endpoint, optional=True)
    if ":" not in request.endpoint:
        raise invalid("endpoint", "must be host:port")


def _provider(binding: Binding) -> pb.Provider:
    service = binding.service
    return pb.Provider(
        service_id=service.id,
        agent_uri=service.agent_uri,
        relay_id=service.relay_id,
        local_addr=service.local_addr,
        updated_at_unix_ms=binding.updated_ms,
        relay_endpoint=binding.relay_endpoint,
        region=binding.region,
        weight=service.weight,
        healthy=binding.healthy,
        revision=binding.revision,
        priority=service.priority,
    )


def _event(kind: pb.EventKind.ValueType, binding: Binding) -> pb.WatchEvent:
    return pb.WatchEvent(kind=kind, provider=_provider(binding), service_name=binding.service.name)


def _change_event(change: BindingChange) -> pb.WatchEvent:
    kind = pb.EVENT_KIND_REGISTER if change.live else pb.EVENT_KIND_DEREGISTER
    event = _event(kind, change.binding)
    event.provider.revision = change.revision
    return event
