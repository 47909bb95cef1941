"""Watches at size: large snapshots, and watchers that do not keep up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from outrelay.controller.feed import QUEUE_LIMIT
from outrelay.controller.store.session import Parameters, Row, Session
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.tasks import spawn
from tests.controller.live import (
    ALL_TENANTS,
    SNAPSHOT,
    TIMEOUT,
    LiveController,
    Stubs,
    policy_rule,
    refused,
    registration,
    relay_beat,
)

if TYPE_CHECKING:  # it is of the stubs only
    from outrelay.lib.control.v1.policy_pb2_grpc import PolicyAsyncStub

RULES = 10_000
SNAPSHOT_END = policy.PolicyEvent.POLICY_KIND_SNAPSHOT_END


Watch = grpc.aio.UnaryStreamCall[policy.WatchPoliciesRequest, policy.PolicyEvent]


@asynccontextmanager
async def lazy(controller: LiveController) -> AsyncIterator[PolicyAsyncStub]:
    """A caller whose gRPC reads 64 KiB ahead, not megabytes."""
    target, options = controller.targets["plaintext"], [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield PolicyStub(channel)


async def drained(watch: Watch) -> None:
    """Read a watch to its end."""
    while await watch.read() is not grpc.aio.EOF:
        pass


def watch_all(stub: PolicyAsyncStub) -> Watch:
    """The rules of all tenants, as a relay watches them."""
    request = policy.WatchPoliciesRequest()
    return stub.Watch(request, metadata=[SNAPSHOT, ALL_TENANTS], timeout=60)


async def take(watch: Watch) -> policy.PolicyEvent:
    event = await watch.read()
    assert isinstance(event, policy.PolicyEvent)
    return event


async def snapshot(stub: PolicyAsyncStub) -> list[policy.PolicyEvent]:
    """All rules, up to the end of the snapshot."""
    watch = watch_all(stub)
    found = []
    while (event := await take(watch)).kind != SNAPSHOT_END:
        found.append(event)
    watch.cancel()
    return found


async def test_ten_thousand_rules_come_whole_and_cut_nobody_off(
    controller: LiveController,
) -> None:
    rules = [policy_rule(id=str(n), target_pattern=f"service-{n}") for n in range(RULES)]
    request = policy.ReplacePoliciesRequest(tenant="acme", rules=rules)
    async with controller.admin() as admin, controller.as_relay() as relay:
        early = watch_all(relay.policy)
        assert (await take(early)).kind == SNAPSHOT_END
        answer = await admin.policy.ReplacePolicies(request, timeout=60)
        late = await snapshot(relay.policy)
        changes = [await take(early) for _ in range(RULES)]
        end = await take(early)
    assert (end.kind, end.revision) == (SNAPSHOT_END, answer.revision)
    for events in (late, changes):
        assert sorted(event.rule.id for event in events) == sorted(rule.id for rule in rules)


async def test_a_snapshot_is_read_at_once_however_many_rows_it_has(
    controller: LiveController, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    rows = Session.rows

    async def counted(
        session: Session, statement: str, parameters: Parameters | None = None
    ) -> list[Row]:
        statements.append(statement)
        return await rows(session, statement, parameters)

    async def services(stubs: Stubs) -> int:
        request = registry.WatchRequest(tenant="acme")
        watch = stubs.registry.Watch(request, metadata=[SNAPSHOT], timeout=TIMEOUT)
        found = 0
        async for event in watch:
            if event.kind == registry.EVENT_KIND_SNAPSHOT_END:
                break
            assert event.service_name == f"s{found:02}"
            found += 1
        watch.cancel()
        return found

    async with controller.admin() as admin, controller.as_relay() as relay:
        await relay.registry.UpsertRelay(relay_beat())
        seen = []
        for number in range(20):
            await relay.registry.RegisterService(registration(f"s{number:02}"))
            await admin.policy.AddPolicy(policy.AddPolicyRequest(rule=policy_rule()))
            if number in (0, 19):
                with monkeypatch.context() as patch:
                    patch.setattr(Session, "rows", counted)
                    assert await services(relay) == len(await snapshot(relay.policy)) == number + 1
                seen.append(len(statements))
                statements.clear()
        assert seen[0] == seen[1] > 0


async def test_a_watcher_that_does_not_read_is_cut_off_and_recovers(
    controller: LiveController,
) -> None:
    """Its queue is full once what is under way is full too; who reads notices nothing."""
    long, size, batches = "x" * 1000, 10, QUEUE_LIMIT + 50
    sets = [
        [
            policy_rule(id=f"{name}{number}", caller_pattern=long, target_pattern=long)
            for number in range(size)
        ]
        for name in "ab"
    ]

    async def keep_up(watch: Watch) -> None:
        ends = 0
        while ends <= batches:  # the snapshot's too
            ends += (await take(watch)).kind == SNAPSHOT_END

    async with (
        controller.admin() as admin,
        controller.as_relay() as relay,
        lazy(controller) as stub,
    ):
        slow = watch_all(stub)
        assert (await take(slow)).kind == SNAPSHOT_END
        async with asyncio.TaskGroup() as group:
            spawn(group, keep_up(watch_all(relay.policy)), name="a watcher that reads")
            revision = 0
            for number in range(batches):
                request = policy.ReplacePoliciesRequest(
                    tenant="acme", rules=sets[number % 2], expected_revision=revision
                )
                revision = (await admin.policy.ReplacePolicies(request)).revision
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "watch again"):
            await drained(slow)
        assert len(await snapshot(stub)) == size


async def test_a_watch_says_what_it_gives_of_what_was_asked_for(
    controller: LiveController,
) -> None:
    """A relay knows a controller of ours by it; who asks for nothing sees nothing."""
    async with controller.as_relay() as relay:
        for metadata, tenant in (([SNAPSHOT, ALL_TENANTS], ""), ([SNAPSHOT], "acme"), ([], "acme")):
            watches = (
                relay.policy.Watch(policy.WatchPoliciesRequest(tenant=tenant), metadata=metadata),
                relay.registry.Watch(registry.WatchRequest(tenant=tenant), metadata=metadata),
            )
            for watch in watches:
                given = [(key, value) for key, value in await watch.initial_metadata()]
                assert given == metadata
                watch.cancel()
