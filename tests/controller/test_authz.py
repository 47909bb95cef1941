"""Who may do what, over real mutual TLS: every rpc for every role, tenants, expiry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial

import grpc
import pytest

from outrelay.controller import authz
from outrelay.lib.control.v1 import admin_pb2, audit_pb2, fleet_pb2, policy_pb2, registry_pb2
from outrelay.lib.errors import ControlError
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from tests.controller.live import (
    AGENT_A,
    ALL_TENANTS,
    TIMEOUT,
    LiveController,
    Stubs,
    answer,
    policy_rule,
    refused,
    registration,
    relay_beat,
)
from tests.support.pki import Hostile

Call = Callable[[Stubs], Coroutine[object, object, object]]


async def first_of(call: object) -> None:
    """Begin a Watch and give it up once the controller has let us in."""
    await call.initial_metadata()  # type: ignore[attr-defined]
    if call.done():  # type: ignore[attr-defined]
        await call.read()  # type: ignore[attr-defined]
    call.cancel()  # type: ignore[attr-defined]


def event(tenant: str = "acme") -> audit_pb2.AuditEvent:
    return audit_pb2.AuditEvent(tenant=tenant, event="open")


async def watch_services(stubs: Stubs) -> None:
    await first_of(stubs.registry.Watch(registry_pb2.WatchRequest(tenant="acme")))


async def watch_policies(stubs: Stubs) -> None:
    await stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme")).read()


async def query(stubs: Stubs) -> None:
    await stubs.audit.Query(audit_pb2.QueryAuditRequest(tenant="acme")).read()


async def record_batch(stubs: Stubs) -> None:
    await stubs.audit.RecordBatch(iter([audit_pb2.RecordBatchRequest(events=[event()])]))


async def list_policies(stubs: Stubs) -> None:
    await stubs.policy.ListPolicies(policy_pb2.ListPoliciesRequest(tenant="acme"))


async def add_policy(stubs: Stubs) -> None:
    await stubs.policy.AddPolicy(policy_pb2.AddPolicyRequest(rule=policy_rule()))


async def remove_policy(stubs: Stubs) -> None:
    await stubs.policy.RemovePolicy(policy_pb2.RemovePolicyRequest(tenant="acme", id="1"))


async def replace_policies(stubs: Stubs) -> None:
    try:
        await stubs.policy.ReplacePolicies(policy_pb2.ReplacePoliciesRequest(tenant="acme"))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:  # there are rules already
            raise


async def explain(stubs: Stubs) -> None:
    request = policy_pb2.ExplainRequest(tenant="acme", caller=AGENT_A, target="db")
    await stubs.policy.Explain(request)


async def register(stubs: Stubs) -> None:
    await stubs.registry.RegisterService(registration())


async def deregister_agent(stubs: Stubs) -> None:
    request = registry_pb2.DeregisterAgentRequest(tenant="acme", agent_uri=AGENT_A, relay_id="r1")
    await stubs.registry.DeregisterAgent(request)


async def deregister_service(stubs: Stubs) -> None:
    request = registry_pb2.DeregisterServiceRequest(
        tenant="acme", service_name="db", agent_uri=AGENT_A, relay_id="r1"
    )
    await stubs.registry.DeregisterService(request)


async def resolve(stubs: Stubs) -> None:
    await stubs.registry.Resolve(registry_pb2.ResolveRequest(tenant="acme", service_name="db"))


async def upsert_relay(stubs: Stubs) -> None:
    await stubs.registry.UpsertRelay(relay_beat())


async def record(stubs: Stubs) -> None:
    await stubs.audit.Record(audit_pb2.RecordAuditRequest(event=event()))


async def attach(stubs: Stubs) -> None:
    over = asyncio.Event()

    async def reports() -> AsyncIterator[fleet_pb2.RelayReport]:
        yield fleet_pb2.RelayReport(relay_id="r1")
        await over.wait()  # the call ends with its reports

    try:
        await first_of(stubs.fleet.Attach(reports()))
    finally:
        over.set()


async def list_relays(stubs: Stubs) -> None:
    await stubs.registry.ListRelays(registry_pb2.ListRelaysRequest(tenant="acme"))


async def list_agents(stubs: Stubs) -> None:
    await stubs.registry.ListAgents(registry_pb2.ListAgentsRequest(tenant="acme"))


async def list_services(stubs: Stubs) -> None:
    await stubs.registry.ListServices(registry_pb2.ListServicesRequest(tenant="acme"))


async def drain_relay(stubs: Stubs) -> None:
    try:
        await stubs.registry.DrainRelay(registry_pb2.DrainRelayRequest(relay_id="nobody"))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise


async def list_streams(stubs: Stubs) -> None:
    await stubs.fleet.ListStreams(fleet_pb2.ListStreamsRequest(tenant="acme"))


async def kill_stream(stubs: Stubs) -> None:
    await stubs.fleet.KillStream(fleet_pb2.KillStreamRequest(tenant="acme", stream_id="0" * 16))


async def tell_log_level(stubs: Stubs) -> None:
    await stubs.admin.SetLogLevel(admin_pb2.SetLogLevelRequest())


def unauthenticated(text: str) -> AbstractAsyncContextManager[object]:
    return refused(grpc.StatusCode.UNAUTHENTICATED, text)


CALLS: dict[str, Call] = {
    "Registry/RegisterService": register,
    "Registry/DeregisterAgent": deregister_agent,
    "Registry/DeregisterService": deregister_service,
    "Registry/Resolve": resolve,
    "Registry/Watch": watch_services,
    "Registry/UpsertRelay": upsert_relay,
    "Registry/ListRelays": list_relays,
    "Registry/ListAgents": list_agents,
    "Registry/ListServices": list_services,
    "Registry/DrainRelay": drain_relay,
    "Policy/AddPolicy": add_policy,
    "Policy/RemovePolicy": remove_policy,
    "Policy/ListPolicies": list_policies,
    "Policy/ReplacePolicies": replace_policies,
    "Policy/Explain": explain,
    "Policy/Watch": watch_policies,
    "Audit/Record": record,
    "Audit/RecordBatch": record_batch,
    "Audit/Query": query,
    "Fleet/Attach": attach,
    "Fleet/ListStreams": list_streams,
    "Fleet/KillStream": kill_stream,
    "Admin/SetLogLevel": tell_log_level,
}


LISTS = {"Registry/ListRelays", "Registry/ListAgents", "Registry/ListServices"}
RELAY = {rpc for rpc in CALLS if rpc.startswith("Registry/")} - LISTS - authz.OF_ALL_TENANTS | {
    "Policy/ListPolicies",
    "Policy/Watch",
    "Audit/Record",
    "Audit/RecordBatch",
    "Fleet/Attach",
}
OPERATOR = {rpc for rpc in CALLS if rpc.startswith("Policy/")} | {
    *LISTS,
    "Audit/Query",
    "Fleet/ListStreams",
    "Fleet/KillStream",
}


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.RELAY, RELAY),
        (Role.OPERATOR, OPERATOR),
        (Role.AGENT, set()),
        (Role.CONTROLLER, set()),
    ],
)
async def test_the_role_decides_which_rpcs(
    controller: LiveController, role: Role, allowed: set[str]
) -> None:
    credentials = {
        Role.RELAY: controller.pki.relay,
        Role.OPERATOR: controller.pki.operator,
        Role.AGENT: controller.pki.agent,
        Role.CONTROLLER: controller.pki.controller,
    }[role]()
    async with controller.calling(credentials) as stubs:
        for rpc, call in CALLS.items():
            if rpc in allowed:
                await call(stubs)
            else:
                async with refused(
                    grpc.StatusCode.PERMISSION_DENIED, str(credentials.identity), rpc, "needs a"
                ):
                    await answer(partial(call, stubs))


def test_the_table_knows_every_rpc_there_is() -> None:
    services = [
        module.DESCRIPTOR.services_by_name[name]
        for module, name in (
            (registry_pb2, "Registry"),
            (policy_pb2, "Policy"),
            (audit_pb2, "Audit"),
            (fleet_pb2, "Fleet"),
            (admin_pb2, "Admin"),
        )
    ]
    rpcs = {f"{service.name}/{method.name}" for service in services for method in service.methods}
    assert set().union(*authz.RPCS.values()) == rpcs == set(CALLS)


async def test_without_certificates_the_listener_decides(controller: LiveController) -> None:
    async with controller.plaintext() as stubs:
        for call in CALLS.values():
            await call(stubs)
    async with controller.admin() as stubs:
        await add_policy(stubs)
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "admin socket", "relay"):
            await upsert_relay(stubs)


class TestTenants:
    async def test_an_operator_is_bound_to_its_own(self, controller: LiveController) -> None:
        async with controller.as_operator("other") as stubs:
            for rpc in OPERATOR:
                call = CALLS[rpc]
                async with refused(grpc.StatusCode.PERMISSION_DENIED, "other", "not of acme"):
                    await answer(partial(call, stubs))

    async def test_an_operator_of_system_is_bound_to_none(self, controller: LiveController) -> None:
        async with controller.as_operator("system") as stubs:
            for rpc in (*OPERATOR, *authz.OF_ALL_TENANTS):
                await CALLS[rpc](stubs)

    async def test_only_who_may_touch_all_may_watch_all(self, controller: LiveController) -> None:
        everything = policy_pb2.WatchPoliciesRequest()
        for caller in (controller.as_relay(), controller.as_operator("system")):
            async with caller as stubs:
                await stubs.policy.Watch(everything, metadata=[ALL_TENANTS]).read()
        async with controller.as_operator() as stubs:
            async with refused(grpc.StatusCode.PERMISSION_DENIED, "not all tenants"):
                await stubs.policy.Watch(everything, metadata=[ALL_TENANTS]).read()
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "tenant: must be given"):
                await stubs.policy.Watch(everything).read()


class TestCertificates:
    @pytest.mark.parametrize(
        "fault", [Hostile.WRONG_CA, Hostile.SELF_SIGNED, Hostile.EXPIRED, Hostile.WRONG_USAGE]
    )
    async def test_one_that_fails_verification_never_gets_in(
        self, controller: LiveController, fault: Hostile
    ) -> None:
        liar = controller.pki.hostile(fault, role=Role.OPERATOR, usage=Usage.CLIENT)
        async with controller.calling(liar) as stubs, refused(grpc.StatusCode.UNAVAILABLE):
            await stubs.policy.ListPolicies(
                policy_pb2.ListPoliciesRequest(tenant="acme"), timeout=TIMEOUT
            )

    @pytest.mark.parametrize("fault", [Hostile.NO_URI, Hostile.TWO_URIS, Hostile.DNS_ONLY])
    async def test_one_without_one_identity_is_nobody(
        self, controller: LiveController, fault: Hostile
    ) -> None:
        nobody = controller.pki.hostile(fault, role=Role.OPERATOR, usage=Usage.CLIENT)
        async with controller.calling(nobody) as stubs, unauthenticated("URI SAN"):
            await list_policies(stubs)

    async def test_a_watch_ends_with_the_certificate(self, controller: LiveController) -> None:
        brief = controller.pki.operator(lifetime=timedelta(seconds=2))
        async with controller.calling(brief) as stubs:
            watch = stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme"))
            await watch.read()
            async with unauthenticated("has expired"):
                await watch.read()
            async with unauthenticated("has expired"):
                await list_policies(stubs)


def test_a_rpc_that_is_nobodys_is_nobodys() -> None:
    with pytest.raises(ControlError, match="nobody may call"):
        authz.begin_call(authz.PLAINTEXT, "/outrelay.control.v1.Policy/Nothing")
