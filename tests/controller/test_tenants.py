"""Nobody learns anything of a tenant that is not his: not by what is answered, not by how.

*globex* has rules, services, events and a stream; *initech* has never been heard of. Who is
of *acme* gets the same answer about both, and about things of globex the same as about
things there are nowhere. Every rpc is in the table.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest

from outrelay.lib.control.v1 import admin_pb2, audit_pb2, fleet_pb2, policy_pb2, registry_pb2
from outrelay.lib.control.v1.admin_pb2_grpc import AdminStub
from outrelay.lib.control.v1.audit_pb2_grpc import AuditStub
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetStub
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryStub
from outrelay.lib.identity.uri import Role
from tests.controller.fleet.scripted import agent, attached, stream
from tests.controller.live import (
    AGENT_A,
    ALL_TENANTS,
    SNAPSHOT,
    TIMEOUT,
    LiveController,
    Stubs,
    answer,
    policy_rule,
    refused,
    registration,
    relay_beat,
)

UUID = "00000000-0000-4000-8000-0000000000cc"
SECRET = "globex-secret"
"""In everything that globex has."""

NOWHERE = "nobody-secret"
SECRET_STREAM, NO_STREAM = "00000000000000aa", "00000000000000bb"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about."""

    tenant: str
    name: str = SECRET
    """Of a service, or a rule's id."""
    stream_id: str = SECRET_STREAM

    @property
    def agent(self) -> str:
        return f"outrelay://{self.tenant}/agent/{UUID}"

    def rule(self) -> policy_pb2.PolicyRule:
        return policy_rule(self.tenant, id=self.name)


Call = Callable[[Stubs, Question], Coroutine[object, object, object]]


async def _snapshot(call: object, end: int) -> list[object]:
    """What a Watch begins with."""
    events = []
    while (event := await call.read()) and event.kind != end:  # type: ignore[attr-defined]
        events.append(event)
    call.cancel()  # type: ignore[attr-defined]
    return events


async def register(stubs: Stubs, asked: Question) -> object:
    request = registration(asked.name, asked.agent, relay="r7")
    return await stubs.registry.RegisterService(request)


async def deregister_agent(stubs: Stubs, asked: Question) -> object:
    return await stubs.registry.DeregisterAgent(
        registry_pb2.DeregisterAgentRequest(
            tenant=asked.tenant, agent_uri=asked.agent, relay_id="r7"
        )
    )


async def deregister_service(stubs: Stubs, asked: Question) -> object:
    return await stubs.registry.DeregisterService(
        registry_pb2.DeregisterServiceRequest(
            tenant=asked.tenant, service_name=asked.name, agent_uri=asked.agent, relay_id="r7"
        )
    )


async def resolve(stubs: Stubs, asked: Question) -> object:
    request = registry_pb2.ResolveRequest(tenant=asked.tenant, service_name=asked.name)
    return await stubs.registry.Resolve(request)


async def watch_services(stubs: Stubs, asked: Question) -> object:
    request = registry_pb2.WatchRequest(tenant=asked.tenant, service_names=[asked.name])
    call = stubs.registry.Watch(request, metadata=[SNAPSHOT, ALL_TENANTS], timeout=TIMEOUT)
    return await _snapshot(call, registry_pb2.EVENT_KIND_SNAPSHOT_END)


async def upsert_relay(stubs: Stubs, _asked: Question) -> object:
    answer = await stubs.registry.UpsertRelay(relay_beat("r7"))
    answer.ClearField("server_time_unix_ms")  # which everybody knows
    return answer


async def add_policy(stubs: Stubs, asked: Question) -> object:
    return await stubs.policy.AddPolicy(policy_pb2.AddPolicyRequest(rule=asked.rule()))


async def remove_policy(stubs: Stubs, asked: Question) -> object:
    request = policy_pb2.RemovePolicyRequest(tenant=asked.tenant, id=asked.name)
    return await stubs.policy.RemovePolicy(request)


async def list_policies(stubs: Stubs, asked: Question) -> object:
    request = policy_pb2.ListPoliciesRequest(tenant=asked.tenant)
    return list((await stubs.policy.ListPolicies(request)).rules)


async def replace_policies(stubs: Stubs, asked: Question) -> object:
    return await stubs.policy.ReplacePolicies(
        policy_pb2.ReplacePoliciesRequest(
            tenant=asked.tenant, rules=[asked.rule()], expected_revision=2**40
        )
    )


async def explain(stubs: Stubs, asked: Question) -> object:
    return await stubs.policy.Explain(
        policy_pb2.ExplainRequest(
            tenant=asked.tenant, caller=asked.agent, target=asked.name, provider=asked.agent
        )
    )


async def explain_anothers_provider(stubs: Stubs, asked: Question) -> object:
    return await stubs.policy.Explain(
        policy_pb2.ExplainRequest(
            tenant=asked.tenant,
            caller=asked.agent,
            target="db",
            provider=f"outrelay://{asked.name.partition('-')[0]}/agent/{UUID}",
        )
    )


async def watch_policies(stubs: Stubs, asked: Question) -> object:
    request = policy_pb2.WatchPoliciesRequest(tenant=asked.tenant)
    call = stubs.policy.Watch(request, metadata=[SNAPSHOT, ALL_TENANTS], timeout=TIMEOUT)
    events = await _snapshot(call, policy_pb2.PolicyEvent.POLICY_KIND_SNAPSHOT_END)
    return [event.rule for event in events]  # type: ignore[attr-defined]


async def record(stubs: Stubs, asked: Question) -> object:
    event = audit_pb2.AuditEvent(tenant=asked.tenant, event_id=asked.name)
    return await stubs.audit.Record(audit_pb2.RecordAuditRequest(event=event))


async def record_batch(stubs: Stubs, asked: Question) -> object:
    event = audit_pb2.AuditEvent(tenant=asked.tenant, event="open")
    batch = audit_pb2.RecordBatchRequest(events=[event])
    return await stubs.audit.RecordBatch(iter([batch]))


async def query(stubs: Stubs, asked: Question) -> object:
    request = audit_pb2.QueryAuditRequest(tenant=asked.tenant, target=asked.name)
    return [event async for event in stubs.audit.Query(request, timeout=TIMEOUT)]


async def query_stream(stubs: Stubs, asked: Question) -> object:
    request = audit_pb2.QueryAuditRequest(tenant=asked.tenant, stream_id=asked.stream_id)
    return [event async for event in stubs.audit.Query(request, timeout=TIMEOUT)]


async def attach(stubs: Stubs, _asked: Question) -> object:
    call = stubs.fleet.Attach(iter([fleet_pb2.RelayReport(relay_id="r7")]))
    return [event async for event in call]


async def list_relays(stubs: Stubs, asked: Question) -> object:
    return await stubs.registry.ListRelays(registry_pb2.ListRelaysRequest(tenant=asked.tenant))


async def list_agents(stubs: Stubs, asked: Question) -> object:
    return await stubs.registry.ListAgents(registry_pb2.ListAgentsRequest(tenant=asked.tenant))


async def list_services(stubs: Stubs, asked: Question) -> object:
    request = registry_pb2.ListServicesRequest(tenant=asked.tenant)
    return await stubs.registry.ListServices(request)


async def drain_relay(stubs: Stubs, asked: Question) -> object:
    request = registry_pb2.DrainRelayRequest(relay_id=f"r-{asked.tenant}")
    return await stubs.registry.DrainRelay(request)


async def list_streams(stubs: Stubs, asked: Question) -> object:
    return await stubs.fleet.ListStreams(fleet_pb2.ListStreamsRequest(tenant=asked.tenant))


async def kill_stream(stubs: Stubs, asked: Question) -> object:
    return await stubs.fleet.KillStream(
        fleet_pb2.KillStreamRequest(tenant=asked.tenant, stream_id=asked.stream_id)
    )


TABLE: dict[str, tuple[Call, ...]] = {
    "Registry/RegisterService": (register,),
    "Registry/DeregisterAgent": (deregister_agent,),
    "Registry/DeregisterService": (deregister_service,),
    "Registry/Resolve": (resolve,),
    "Registry/Watch": (watch_services,),
    "Registry/UpsertRelay": (upsert_relay,),
    "Registry/ListRelays": (list_relays,),
    "Registry/ListAgents": (list_agents,),
    "Registry/ListServices": (list_services,),
    "Registry/DrainRelay": (drain_relay,),
    "Policy/AddPolicy": (add_policy,),
    "Policy/RemovePolicy": (remove_policy,),
    "Policy/ListPolicies": (list_policies,),
    "Policy/ReplacePolicies": (replace_policies,),
    "Policy/Explain": (explain, explain_anothers_provider),
    "Policy/Watch": (watch_policies,),
    "Audit/Record": (record,),
    "Audit/RecordBatch": (record_batch,),
    "Audit/Query": (query, query_stream),
    "Fleet/Attach": (attach,),
    "Fleet/ListStreams": (list_streams,),
    "Fleet/KillStream": (kill_stream,),
    "Admin/SetLogLevel": (),  # of no tenant, and for nobody who is of one
}
"""What is asked at each rpc. A new one needs a line, and whoever writes it a thought."""

CALLS = [call for calls in TABLE.values() for call in calls]
every_rpc = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)


def test_every_rpc_there_is_stands_in_the_table() -> None:
    modules = (registry_pb2, policy_pb2, audit_pb2, fleet_pb2, admin_pb2)
    services = [each for module in modules for each in module.DESCRIPTOR.services_by_name.values()]
    rpcs = {f"{service.name}/{method.name}" for service in services for method in service.methods}
    assert set(TABLE) == rpcs


@pytest.fixture
async def populated(controller: LiveController) -> AsyncIterator[LiveController]:
    """A controller that knows globex well, and of acme nothing but that it has a stream."""
    globex = Question(tenant="globex")
    async with (
        controller.plaintext() as relay,
        controller.as_relay("r1") as r1,
        attached(r1, "r1") as streams,
    ):
        streams.streams = [
            stream(0xAA, tenant="globex", service=SECRET),
            stream(0xCC, tenant="acme", service="db"),
        ]
        streams.agents = [agent(globex.agent, services=[SECRET]), agent(AGENT_A)]
        for call in (upsert_relay, register, add_policy):
            await call(relay, globex)
        event = audit_pb2.AuditEvent(
            tenant="globex",
            target=SECRET,
            stream_id=SECRET_STREAM,
            event_id="globex-event",
        )
        await relay.audit.Record(audit_pb2.RecordAuditRequest(event=event))
        yield controller


def caller(controller: LiveController, role: Role) -> AbstractAsyncContextManager[Stubs]:
    """Somebody of acme."""
    credentials = {
        Role.OPERATOR: controller.pki.operator,
        Role.AGENT: controller.pki.agent,
        Role.RELAY: controller.pki.relay,
    }[role]
    return controller.calling(credentials())


async def outcome(stubs: Stubs, call: Call, asked: Question) -> str:
    """All that a caller gets to see, without the words of the question."""
    try:
        seen = repr(await answer(lambda: call(stubs, asked)))
    except grpc.aio.AioRpcError as error:
        seen = f"{error.code()} {error.details()}"
    for word in filter(None, (asked.name, *asked.name.split("-"), asked.stream_id, asked.tenant)):
        seen = seen.replace(word, "...")
    return seen


@every_rpc
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.AGENT])
async def test_of_another_tenant_one_cannot_even_tell_that_it_is_there(
    populated: LiveController, role: Role, call: Call
) -> None:
    async with caller(populated, role) as stubs:
        theirs = await outcome(stubs, call, Question(tenant="globex"))
        nobodys = await outcome(stubs, call, Question(tenant="initech"))
        assert theirs == nobodys
        assert theirs.startswith("StatusCode.PERMISSION_DENIED")


@every_rpc
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.AGENT])
async def test_who_names_no_tenant_gets_nothing(
    populated: LiveController, role: Role, call: Call
) -> None:
    async with caller(populated, role) as stubs:
        seen = await outcome(stubs, call, Question(tenant="", name=NOWHERE, stream_id=NO_STREAM))
        assert "PERMISSION_DENIED" in seen or "INVALID_ARGUMENT" in seen
        assert SECRET not in seen


@every_rpc
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.AGENT, Role.RELAY])
async def test_in_ones_own_tenant_their_things_are_not_there(
    populated: LiveController, role: Role, call: Call
) -> None:
    async with caller(populated, role) as stubs:
        theirs = await outcome(stubs, call, Question(tenant="acme"))
        unknown = Question(tenant="acme", name=NOWHERE, stream_id=NO_STREAM)
        assert theirs == await outcome(stubs, call, unknown)
        assert SECRET not in theirs


@every_rpc
async def test_without_a_certificate_nobody_gets_that_far(
    populated: LiveController, call: Call
) -> None:
    trust = grpc.ssl_channel_credentials(root_certificates=populated.pki.trust.pem)
    options = [("grpc.ssl_target_name_override", "controller.outrelay.internal")]
    target = populated.targets["tls"]
    async with grpc.aio.secure_channel(target, trust, options=options) as channel:
        stubs = Stubs(
            channel,
            RegistryStub(channel),
            PolicyStub(channel),
            AuditStub(channel),
            FleetStub(channel),
            AdminStub(channel),
        )
        async with refused(grpc.StatusCode.UNAVAILABLE):
            await call(stubs, Question(tenant="globex"))


async def test_a_watch_of_ones_own_hears_nothing_of_others(populated: LiveController) -> None:
    globex, acme = Question(tenant="globex", name="later"), Question(tenant="acme", name="ours")
    async with (
        populated.as_operator() as operator,
        populated.as_relay("r2") as relay,
        populated.plaintext() as all_mighty,
    ):
        request = policy_pb2.WatchPoliciesRequest(tenant="acme")
        rules = operator.policy.Watch(request, timeout=TIMEOUT)
        await rules.read()  # the end of no rules
        services = relay.registry.Watch(registry_pb2.WatchRequest(tenant="acme"), timeout=TIMEOUT)
        await services.initial_metadata()
        trail = operator.audit.Query(
            audit_pb2.QueryAuditRequest(tenant="acme", follow=True), timeout=TIMEOUT
        )
        await trail.initial_metadata()
        for asked in (globex, acme):
            for call in (add_policy, register, record):
                await call(all_mighty, asked)

        rule, row, event = await rules.read(), await services.read(), await trail.read()
        assert isinstance(rule, policy_pb2.PolicyEvent)
        assert isinstance(row, registry_pb2.WatchEvent)
        assert isinstance(event, audit_pb2.AuditEvent)
        assert rule.rule.tenant == event.tenant == "acme"
        assert row.provider.service_id == "acme/ours"
        for watch in (rules, services, trail):
            watch.cancel()
