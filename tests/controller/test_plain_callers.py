"""Relays and CLIs of other implementations at our controller: the fixed contract, no more.

They call the plaintext listener with messages made from the contract's tables, send no
metadata, and know neither our fields nor our events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor

from outrelay.controller.registry import relays
from outrelay.lib.control.v1 import audit_pb2, policy_pb2, registry_pb2
from tests.controller.live import (
    AGENT_A,
    AGENT_B,
    TIMEOUT,
    LiveController,
    policy_rule,
    registration,
    relay_beat,
)
from tests.support.events import events
from tests.support.plain_contract import (
    CLASSES,
    DECISION_ALLOW,
    DECISION_DENY,
    EVENT_KIND_DEREGISTER,
    EVENT_KIND_REGISTER,
    PACKAGE,
    POLICY_KIND_ADDED,
    POLICY_KIND_REMOVED,
    POLICY_KIND_SNAPSHOT_END,
    RPCS,
    make,
)


class PlainCaller:
    """Calls the rpcs of the contract."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def call(self, rpc: str, **fields: object) -> Any:
        """The answer of an rpc."""
        request, response = RPCS[rpc]
        call = self._channel.unary_unary(
            f"/{PACKAGE}.{rpc}",
            request_serializer=CLASSES[request].SerializeToString,
            response_deserializer=CLASSES[response].FromString,
        )
        return await call(make(request, **fields), timeout=TIMEOUT)

    def stream(self, rpc: str, **fields: object) -> Any:
        """The call of an rpc that answers with a stream."""
        request, response = RPCS[rpc]
        call = self._channel.unary_stream(
            f"/{PACKAGE}.{rpc}",
            request_serializer=CLASSES[request].SerializeToString,
            response_deserializer=CLASSES[response.lstrip("*")].FromString,
        )
        return call(make(request, **fields), timeout=TIMEOUT)

    async def upsert(self, name: str = "r1") -> None:
        await self.call("Registry/UpsertRelay", id=name, region="local", endpoint="10.0.0.1:7443")

    async def register(self, name: str = "db", agent: str = AGENT_A, relay: str = "r1") -> str:
        answer = await self.call(
            "Registry/RegisterService",
            tenant="acme",
            service_name=name,
            agent_uri=agent,
            relay_id=relay,
            local_addr="127.0.0.1:80",
        )
        return str(answer.service_id)

    async def providers(self, name: str = "db") -> dict[str, Any]:
        """Who serves a service, by agent."""
        found = await self.call(
            "Registry/Resolve", tenant="acme", service_name=name, caller_region="local"
        )
        return {row.agent_uri: row for row in found.providers}


@pytest.fixture
async def plain(controller: LiveController) -> AsyncIterator[PlainCaller]:
    async with grpc.aio.insecure_channel(controller.targets["plaintext"]) as channel:
        yield PlainCaller(channel)


def _type(field: Any) -> object:
    """What a field is on the wire: enums travel as int32."""
    if field.message_type:
        return field.message_type.name
    is_enum = field.type == FieldDescriptor.TYPE_ENUM
    return FieldDescriptor.TYPE_INT32 if is_enum else field.type


def test_our_messages_have_all_that_the_contract_has() -> None:
    ours = {
        name: message
        for module in (registry_pb2, policy_pb2, audit_pb2)
        for name, message in module.DESCRIPTOR.message_types_by_name.items()
    }
    for name, theirs in CLASSES.items():
        fields = ours[name].fields_by_number
        for number, field in theirs.DESCRIPTOR.fields_by_number.items():
            assert fields[number].name == field.name, name
            assert fields[number].is_repeated == field.is_repeated, field
            assert _type(fields[number]) == _type(field), field
        added = set(fields) - set(theirs.DESCRIPTOR.fields_by_number)
        assert all(number >= 1001 for number in added), name


async def test_a_relay_that_calls_once_serves_for_ever(
    controller: LiveController, plain: PlainCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "DEAD_AFTER", 0.3)
    await plain.upsert()
    assert await plain.register() == "acme/db"
    with events() as seen:
        async with controller.plaintext() as ours:  # one that is expected to say more
            for _ in range(2):
                await ours.registry.UpsertRelay(relay_beat("beats"))
            await ours.registry.RegisterService(registration(agent=AGENT_B, relay="beats"))
        await seen.wait("relays died", relays="beats")

    assert set(await plain.providers()) == {AGENT_A}
    row = (await plain.providers())[AGENT_A]
    assert (row.service_id, row.relay_id, row.relay_endpoint, row.local_addr) == (
        *("acme/db", "r1", "10.0.0.1:7443"),
        "127.0.0.1:80",
    )
    assert row.updated_at_unix_ms > 0


async def test_an_agent_is_taken_out_only_by_the_relay_it_is_at(plain: PlainCaller) -> None:
    for relay in ("r1", "r2"):
        await plain.upsert(relay)
        await plain.register(relay=relay)  # it has moved
    left = {"tenant": "acme", "agent_uri": AGENT_A}
    await plain.call("Registry/DeregisterAgent", **left, relay_id="r1")
    assert (await plain.providers())[AGENT_A].relay_id == "r2"
    await plain.call("Registry/DeregisterAgent", **left, relay_id="r2")
    assert await plain.providers() == {}


async def test_a_watch_of_services_begins_with_nothing_and_says_only_what_all_know(
    controller: LiveController, plain: PlainCaller
) -> None:
    await plain.upsert()
    await plain.register("before")
    watch = plain.stream("Registry/Watch", tenant="acme")
    await watch.initial_metadata()
    named = plain.stream("Registry/Watch", tenant="acme", service_names=["web"])
    await named.initial_metadata()
    await plain.register("db")
    await plain.register("web")
    async with controller.plaintext() as ours:  # what a plain relay cannot do
        await ours.registry.DeregisterService(
            registry_pb2.DeregisterServiceRequest(
                tenant="acme", service_name="db", agent_uri=AGENT_A, relay_id="r1"
            )
        )
    seen = [await watch.read() for _ in range(3)]
    assert [(event.kind, event.service_name) for event in seen] == [
        (EVENT_KIND_REGISTER, "db"),
        (EVENT_KIND_REGISTER, "web"),
        (EVENT_KIND_DEREGISTER, "db"),
    ]
    only = await named.read()
    assert (only.provider.service_id, only.provider.agent_uri) == ("acme/web", AGENT_A)
    for call in (watch, named):
        call.cancel()


async def test_a_watch_of_rules_is_of_one_tenant_and_has_one_end_of_the_snapshot(
    controller: LiveController, plain: PlainCaller
) -> None:
    def rule(target: str, tenant: str = "acme", decision: int = DECISION_ALLOW) -> Any:
        return make(
            "PolicyRule",
            tenant=tenant,
            caller_pattern="*",
            target_pattern=target,
            decision=decision,
        )

    first = (await plain.call("Policy/AddPolicy", rule=rule("db"))).id
    await plain.call("Policy/AddPolicy", rule=rule("theirs", "globex"))
    watch = plain.stream("Policy/Watch", tenant="acme")
    added, end = await watch.read(), await watch.read()
    assert (added.kind, added.rule.id) == (POLICY_KIND_ADDED, first)
    assert end.kind == POLICY_KIND_SNAPSHOT_END

    await plain.call("Policy/AddPolicy", rule=rule("more", "globex"))
    second = (await plain.call("Policy/AddPolicy", rule=rule("web", decision=DECISION_DENY))).id
    async with controller.admin() as admin:  # several changes in one step
        listed = await admin.policy.ListPolicies(policy_pb2.ListPoliciesRequest(tenant="acme"))
        await admin.policy.ReplacePolicies(
            policy_pb2.ReplacePoliciesRequest(
                tenant="acme",
                rules=[policy_rule(id="new")],
                expected_revision=listed.revision,
            )
        )
    assert (await plain.call("Policy/RemovePolicy", tenant="acme", id="new")).removed
    assert not (await plain.call("Policy/RemovePolicy", tenant="acme", id="new")).removed
    seen = [await watch.read() for _ in range(5)]
    assert [(event.kind, event.rule.id, event.removed_id) for event in seen[:2]] == [
        (POLICY_KIND_ADDED, second, ""),
        (POLICY_KIND_ADDED, "new", ""),
    ]
    assert [event.kind for event in seen[2:]] == [POLICY_KIND_REMOVED] * 3
    assert {event.removed_id for event in seen[2:4]} == {first, second}
    assert seen[4].removed_id == "new"
    watch.cancel()


async def test_a_watch_of_no_tenant_is_refused_in_words(plain: PlainCaller) -> None:
    for rpc in ("Registry/Watch", "Policy/Watch"):
        with pytest.raises(grpc.aio.AioRpcError, match="tenant: must be given") as caught:
            await plain.stream(rpc).read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_events_without_our_fields_are_stored_and_found(plain: PlainCaller) -> None:
    for number, target in ((1, "db"), (2, "web"), (3, "db")):
        event = make(
            "AuditEvent",
            ts_unix_ms=number,
            tenant="acme",
            caller=AGENT_A,
            target=target,
            decision=DECISION_ALLOW,
            stream_id=f"{number:016x}",
        )
        await plain.call("Audit/Record", event=event)
        await plain.call("Audit/Record", event=event)  # without an id each is one of its own
    query = {"tenant": "acme", "caller": AGENT_A, "target": "db", "since_unix_ms": 2}
    found = [event.ts_unix_ms async for event in plain.stream("Audit/Query", **query)]
    assert found == [3, 3]
    newest = [event async for event in plain.stream("Audit/Query", tenant="acme", limit=3)]
    assert [event.stream_id for event in newest] == [f"{number:016x}" for number in (3, 3, 2)]


async def test_a_cli_adds_lists_and_removes_rules(plain: PlainCaller) -> None:
    rule = make(
        "PolicyRule",
        tenant="acme",
        caller_pattern="outrelay://acme/agent/*",
        target_pattern="db",
        method_pattern="GET",
        decision=DECISION_DENY,
        expires_unix_ms=2**45,
        p2p_mode=1,
        relay_mode=1,
    )
    rule_id = (await plain.call("Policy/AddPolicy", rule=rule)).id
    [listed] = (await plain.call("Policy/ListPolicies", tenant="acme")).rules
    assert listed.created_at_unix_ms > 0
    rule.id, rule.created_at_unix_ms = rule_id, listed.created_at_unix_ms  # type: ignore[attr-defined]
    listed.DiscardUnknownFields()
    assert listed == rule
    assert (await plain.call("Policy/RemovePolicy", tenant="acme", id=rule_id)).removed
    assert not (await plain.call("Policy/ListPolicies", tenant="acme")).rules


async def test_many_call_at_once(plain: PlainCaller) -> None:
    await plain.upsert()
    ids = await asyncio.gather(*(plain.register(f"s{number}") for number in range(100)))
    assert ids == [f"acme/s{number}" for number in range(100)]
