"""The Policy rpcs against a live controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import grpc
import pytest

from outrelay.controller.store import Policies
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.policy import Rule
from outrelay.lib.tasks import spawn
from tests.controller.live import (
    ALL_TENANTS,
    TIMEOUT,
    LiveController,
    Stubs,
    policy_rule,
    refused,
)
from tests.lib.policy.rules import allow

ADDED = pb.PolicyEvent.POLICY_KIND_ADDED
REMOVED = pb.PolicyEvent.POLICY_KIND_REMOVED
SNAPSHOT_END = pb.PolicyEvent.POLICY_KIND_SNAPSHOT_END

Watch = grpc.aio.UnaryStreamCall[pb.WatchPoliciesRequest, pb.PolicyEvent]


@pytest.fixture
async def operator(controller: LiveController) -> AsyncIterator[Stubs]:
    """An operator of acme."""
    async with controller.as_operator("acme") as stubs:
        yield stubs


async def add(stubs: Stubs, rule: pb.PolicyRule | None = None) -> str:
    request = pb.AddPolicyRequest(rule=rule or policy_rule())
    return (await stubs.policy.AddPolicy(request, timeout=TIMEOUT)).id


async def remove(stubs: Stubs, rule_id: str, tenant: str = "acme") -> bool:
    request = pb.RemovePolicyRequest(tenant=tenant, id=rule_id)
    return (await stubs.policy.RemovePolicy(request, timeout=TIMEOUT)).removed


async def rules(stubs: Stubs) -> list[pb.PolicyRule]:
    return list((await stubs.policy.ListPolicies(pb.ListPoliciesRequest(tenant="acme"))).rules)


def watch_policies(stubs: Stubs, tenant: str = "acme") -> Watch:
    metadata = () if tenant else (ALL_TENANTS,)
    request = pb.WatchPoliciesRequest(tenant=tenant)
    return stubs.policy.Watch(request, metadata=metadata, timeout=60)


async def take(watch: Watch) -> pb.PolicyEvent:
    event = await watch.read()
    assert isinstance(event, pb.PolicyEvent)
    return event


class TestAdd:
    async def test_keeps_everything_that_a_rule_says(self, operator: Stubs) -> None:
        rule = policy_rule(
            caller_pattern="outrelay://acme/agent/*",
            method_pattern="GET",
            decision=pb.DECISION_DENY,
            expires_unix_ms=2_000_000_000_000,
            p2p_mode=pb.P2P_REQUIRED,
            relay_mode=pb.RELAY_MODE_FORWARD,
        )
        rule_id = await add(operator, rule)
        (kept,) = await rules(operator)
        assert kept.created_at_unix_ms > 1_700_000_000_000
        rule.id, rule.created_at_unix_ms = rule_id, kept.created_at_unix_ms
        assert kept == rule

    async def test_takes_an_id_once(self, operator: Stubs) -> None:
        assert await add(operator, policy_rule(id="mine")) == "mine"
        async with refused(grpc.StatusCode.ALREADY_EXISTS, "id: acme has a rule mine"):
            await add(operator, policy_rule(id="mine"))

    async def test_ids_are_the_tenants_own(self, controller: LiveController) -> None:
        async with controller.admin() as admin:
            for tenant in ("acme", "other"):
                await add(admin, policy_rule(tenant, id="mine"))
            assert await remove(admin, "mine", "other")
            assert [rule.id for rule in await rules(admin)] == ["mine"]

    @pytest.mark.parametrize(
        ("rule", "field"),
        [
            (policy_rule(""), "tenant: must be given"),
            (policy_rule(caller_pattern=""), "caller_pattern: must be given"),
            (policy_rule(target_pattern=""), "target_pattern: must be given"),
            (policy_rule(target_pattern="x" * 2000), "target_pattern: has 2000"),
            (policy_rule(method_pattern="a\nb"), "method_pattern: must be printable"),
            (policy_rule(decision=0), "decision: must be one of allow, deny"),
            (policy_rule(decision=7), "decision:"),
            (policy_rule(p2p_mode=9), "p2p_mode:"),
            (policy_rule(relay_mode=9), "relay_mode:"),
            (policy_rule(expires_unix_ms=-1), "expires_unix_ms:"),
            (policy_rule(id="a\nb"), "id:"),
        ],
    )
    async def test_a_bad_field_is_named(
        self, operator: Stubs, rule: pb.PolicyRule, field: str
    ) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, field):
            await add(operator, rule)

    async def test_a_tenant_must_be_one(self, controller: LiveController) -> None:
        fault = refused(grpc.StatusCode.INVALID_ARGUMENT, "tenant: 'No Tenant'")
        async with controller.admin() as admin, fault:
            await add(admin, policy_rule("No Tenant"))


class TestRemove:
    async def test_says_whether_there_was_one(self, operator: Stubs) -> None:
        rule_id = await add(operator)
        assert await remove(operator, rule_id)
        assert not await remove(operator, rule_id)
        assert await rules(operator) == []

    async def test_needs_an_id(self, operator: Stubs) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "id: must be given"):
            await remove(operator, "")


class TestWatch:
    async def test_begins_with_what_there_is(self, operator: Stubs) -> None:
        ids = [await add(operator) for _ in range(3)]
        watch = watch_policies(operator)
        events = [await take(watch) for _ in range(4)]
        assert [event.rule.id for event in events[:3]] == ids
        assert [event.kind for event in events] == [ADDED, ADDED, ADDED, SNAPSHOT_END]

    async def test_goes_on_with_changes(self, operator: Stubs) -> None:
        watch = watch_policies(operator)
        end = await take(watch)
        rule_id = await add(operator)
        added = await take(watch)
        await remove(operator, rule_id)
        removed = await take(watch)
        assert (added.kind, added.rule.id) == (ADDED, rule_id)
        assert (removed.kind, removed.removed_id) == (REMOVED, rule_id)
        assert end.revision < added.revision < removed.revision

    async def test_of_all_tenants_names_the_tenant_of_what_is_removed(
        self, controller: LiveController
    ) -> None:
        async with controller.admin() as admin, controller.as_relay() as relay:
            await add(admin, policy_rule("other", id="1"))
            watch = watch_policies(relay, "")
            assert (await take(watch)).rule.tenant == "other"
            assert (await take(watch)).kind == SNAPSHOT_END
            await remove(admin, "1", "other")
            removed = await take(watch)
            assert (removed.kind, removed.rule.tenant) == (REMOVED, "other")

    async def test_of_one_tenant_hears_nothing_of_others(self, controller: LiveController) -> None:
        async with controller.admin() as admin:
            watch = watch_policies(admin)
            assert (await take(watch)).kind == SNAPSHOT_END
            await add(admin, policy_rule("other"))
            mine = await add(admin)
            assert (await take(watch)).rule.id == mine

    async def test_what_changes_around_the_snapshot_comes_once(
        self, operator: Stubs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Just before the snapshot is read, and just after, when it is about to be sent."""
        snapshot = Policies.snapshot

        async def busy(policies: Policies, tenant: str | None) -> tuple[list[Rule], int]:
            await policies.add(allow(id="before"))
            read = await snapshot(policies, tenant)
            await policies.add(allow(id="after"))
            return read

        with monkeypatch.context() as patch:
            patch.setattr(Policies, "snapshot", busy)
            watch = watch_policies(operator)
            events = [await take(watch) for _ in range(3)]
        await add(operator, policy_rule(id="last"))
        events.append(await take(watch))
        assert [event.rule.id for event in events] == ["before", "", "after", "last"]
        assert events[1].kind == SNAPSHOT_END

    async def test_under_concurrent_changes_loses_and_repeats_nothing(
        self, controller: LiveController
    ) -> None:
        """Watchers come while rules come and go; each ends with exactly what is there."""
        done = asyncio.Event()
        random = Random(11)

        async def change(stubs: Stubs, number: int) -> None:
            mine: list[str] = []
            for step in range(40):
                if mine and random.random() < 0.4:
                    assert await remove(stubs, mine.pop(random.randrange(len(mine))))
                else:
                    mine.append(await add(stubs, policy_rule(id=f"{number}-{step}")))

        async def follow(stubs: Stubs) -> dict[str, pb.PolicyRule]:
            """What a relay would hold: every event must fit what came before."""
            held: dict[str, pb.PolicyRule] = {}
            watch = watch_policies(stubs)
            snapshot_revision = 0
            while not (done.is_set() and "last" in held):
                event = await take(watch)
                if event.kind == SNAPSHOT_END:
                    snapshot_revision = event.revision
                elif event.kind == ADDED:
                    assert event.rule.id not in held
                    assert not snapshot_revision or event.revision > snapshot_revision
                    held[event.rule.id] = event.rule
                else:
                    del held[event.removed_id]
            watch.cancel()
            return held

        async with controller.admin() as stubs:
            watchers = []
            async with asyncio.TaskGroup() as group:
                async with asyncio.TaskGroup() as changes:
                    for number in range(4):
                        spawn(changes, change(stubs, number), name=f"changes {number}")
                    for number in range(6):
                        watchers.append(spawn(group, follow(stubs), name=f"watch {number}"))
                        await add(stubs, policy_rule(id=f"between-{number}"))
                done.set()
                await add(stubs, policy_rule(id="last"))
            there = {rule.id: rule for rule in await rules(stubs)}
            assert len(there) > 20
            for watcher in watchers:
                assert watcher.result() == there
