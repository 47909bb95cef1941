"""What operators ask the registry: which relays, agents and services there are, and a drain.

The registry's tables say what is registered; who is connected is asked of the relays that are
attached. An operator of a tenant is told of what is that tenant's, and of a relay only where
the tenant has an agent or a service there, whatever a relay answers.

Source: control-plane.md, Registry; commands.md, ``fleet``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.fields import check_tenant, check_text, limit_of
from outrelay.controller.fleet.attachments import Answer, Attachment, Attachments, silent
from outrelay.controller.store import Binding, Bindings, ListedRelay
from outrelay.lib.control.v1 import fleet_pb2 as fleet
from outrelay.lib.control.v1 import registry_pb2 as pb
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryServicer
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.logs import get_logger

log = get_logger(__name__)


class OperatorRpcs(RegistryServicer):
    """The rpcs of the registry that are for operators.

    Args:
        bindings: What is registered.
        attachments: The relays that can be asked.
    """

    def __init__(self, bindings: Bindings, attachments: Attachments) -> None:
        self._bindings = bindings
        self._attachments = attachments

    async def ListRelays(
        self, request: pb.ListRelaysRequest, _context: Context
    ) -> pb.ListRelaysResponse:
        """The relays, by id, with what those that are attached say of themselves."""
        tenant, limit = _scope(request.tenant), limit_of(request.limit)
        command = fleet.RelayCommand(status=fleet.StatusRequest(tenant=tenant))
        answers = {each.relay_id: each for each in await self._attachments.ask(command)}
        relays = []
        for each in await self._bindings.list_relays(tenant):
            answer = answers.get(each.relay.id)
            if not tenant or each.serves or (answer and answer.status.agents):
                relays.append(self._relay(each, answer))
        shown = {each.id for each in relays[:limit]}
        return pb.ListRelaysResponse(
            relays=relays[:limit],
            silent_relays=[each for each in silent(answers.values()) if each in shown],
            truncated=len(relays) > limit,
        )

    async def ListAgents(
        self, request: pb.ListAgentsRequest, _context: Context
    ) -> pb.ListAgentsResponse:
        """The connections of agents, by agent."""
        tenant, limit = _scope(request.tenant), limit_of(request.limit)
        asked = pb.ListAgentsRequest(tenant=tenant, limit=limit + 1)
        answers = await self._attachments.ask(fleet.RelayCommand(agents=asked), most=limit + 1)
        agents = sorted(_agents(answers, tenant), key=_by_agent)
        return pb.ListAgentsResponse(
            agents=agents[:limit],
            silent_relays=silent(answers),
            truncated=len(agents) > limit,
        )

    async def ListServices(
        self, request: pb.ListServicesRequest, _context: Context
    ) -> pb.ListServicesResponse:
        """What is registered, dead relays' services too."""
        tenant, limit = _scope(request.tenant), limit_of(request.limit)
        found = await self._bindings.list_services(tenant, limit + 1)
        return pb.ListServicesResponse(
            services=map(_service, found[:limit]), truncated=len(found) > limit
        )

    async def DrainRelay(
        self, request: pb.DrainRelayRequest, _context: Context
    ) -> pb.DrainRelayResponse:
        """Have a relay drain and exit, as at SIGTERM."""
        caller = current_caller()
        check_text("relay_id", request.relay_id)
        check_text("reason", request.reason, optional=True)
        attachment = await self._attachment(request.relay_id)
        told = f": {request.reason}" if request.reason else ""
        own = pb.DrainRelayRequest(relay_id=request.relay_id, reason=f"{caller.name}{told}")
        answer = await attachment.ask(fleet.RelayCommand(drain=own))
        if answer.draining is None:
            fault = f"relay {request.relay_id} did not answer; it may be an older version"
            raise ControlError("FAILED_PRECONDITION", fault)
        log.info("relay drains", relay=request.relay_id, by=caller.name, reason=request.reason)
        return answer.draining

    async def _attachment(self, relay_id: str) -> Attachment:
        """The line to a relay.

        Raises:
            ControlError: NOT_FOUND, or FAILED_PRECONDITION: it cannot be told.
        """
        if attachment := self._attachments.find(relay_id):
            return attachment
        if any(each.relay.id == relay_id for each in await self._bindings.list_relays("")):
            fault = f"relay {relay_id} is not connected to this controller; send it SIGTERM"
            raise ControlError("FAILED_PRECONDITION", fault)
        raise ControlError("NOT_FOUND", f"there is no relay {relay_id}; see fleet relays")

    def _relay(self, listed: ListedRelay, answer: Answer | None) -> pb.RelayInfo:
        relay, status = listed.relay, answer.status if answer else fleet.RelayStatus()
        attachment = self._attachments.find(relay.id)
        return pb.RelayInfo(
            id=relay.id,
            region=relay.region,
            endpoint=relay.endpoint,
            tcp_endpoint=relay.tcp_endpoint,
            holder=listed.status.holder,
            alive=listed.status.alive,
            draining=relay.draining,
            attached_unix_ms=attachment.since_ms if attachment else 0,
            **{field.name: value for field, value in status.ListFields()},
        )


def _scope(tenant: str) -> str:
    """Whose things are asked for; empty: everybody's."""
    if tenant:
        check_tenant(tenant)
    current_caller().require_scope(tenant)
    return tenant


def _agents(answers: Iterable[Answer], tenant: str) -> Iterator[pb.AgentInfo]:
    for answer in answers:
        for agent in answer.agents:
            if tenant in ("", agent.tenant):
                agent.relay_id = answer.relay_id
                yield agent


def _by_agent(agent: pb.AgentInfo) -> tuple[str, int, str]:
    return agent.agent_uri, -agent.since_unix_ms, agent.session_id


def _service(binding: Binding) -> pb.ServiceInfo:
    service = binding.service
    return pb.ServiceInfo(
        tenant=service.tenant,
        service=service.name,
        agent_uri=service.agent_uri,
        relay_id=service.relay_id,
        region=binding.region,
        local_addr=service.local_addr,
        weight=service.weight,
        priority=service.priority,
        updated_unix_ms=binding.updated_ms,
        state=_state(binding),
    )


def _state(binding: Binding) -> pb.ServiceState.ValueType:
    if not binding.alive:
        return pb.SERVICE_STATE_DEAD
    return pb.SERVICE_STATE_LIVE if binding.healthy else pb.SERVICE_STATE_DRAINING
