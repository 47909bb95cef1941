"""The Policy rpcs against a live controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import grpc
import pytest

from outrelay.controller.store import Policies, PolicySnapshot
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.tasks import spawn
from tests.controller.live import (
    AGENT_A,
    AGENT_B,
    ALL_TENANTS,
    SNAPSHOT,
    TIMEOUT,
    LiveController,
    Stubs,
    policy_rule,
    refused,
    registration,
)
from tests.lib.policy.rules import allow

OTHERS_AGENT = AGENT_A.replace("acme", "other")

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


async def revision(stubs: Stubs) -> int:
    return (await stubs.policy.ListPolicies(pb.ListPoliciesRequest(tenant="acme"))).revision


async def replace(stubs: Stubs, *new: pb.PolicyRule, expected: int | None = None) -> int:
    request = pb.ReplacePoliciesRequest(
        tenant="acme",
        rules=new,
        expected_revision=await revision(stubs) if expected is None else expected,
    )
    return (await stubs.policy.ReplacePolicies(request, timeout=TIMEOUT)).revision


def watch_policies(stubs: Stubs, tenant: str = "acme", *more: tuple[str, str]) -> Watch:
    metadata = more if tenant else (ALL_TENANTS, *more)
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

        async def busy(policies: Policies, tenant: str | None) -> PolicySnapshot:
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


class TestReplace:
    async def test_leaves_exactly_what_it_was_given_in_that_order(self, operator: Stubs) -> None:
        await add(operator, policy_rule(id="gone"))
        targets = [f"service-{number}" for number in range(20)]
        new = [policy_rule(target_pattern=target) for target in targets]
        assert await replace(operator, *new) == await revision(operator)
        assert [rule.target_pattern for rule in await rules(operator)] == targets

    async def test_a_rule_keeps_its_id_and_age_and_is_not_touched_if_it_is_the_same(
        self, operator: Stubs
    ) -> None:
        same, changed = policy_rule(id="same"), policy_rule(id="changed")
        await add(operator, same)
        await add(operator, changed)
        before = {rule.id: rule for rule in await rules(operator)}
        watch = watch_policies(operator, "acme", SNAPSHOT)
        while (await take(watch)).kind != SNAPSHOT_END:
            pass
        changed.decision = pb.DECISION_DENY
        await replace(operator, same, changed, policy_rule(id="new"))
        after = {rule.id: rule for rule in await rules(operator)}
        assert after["same"] == before["same"]
        assert after["changed"].created_at_unix_ms == before["changed"].created_at_unix_ms
        assert after["changed"].decision == pb.DECISION_DENY
        events = [await take(watch) for _ in range(4)]
        assert [(event.kind, event.rule.id) for event in events] == [
            (REMOVED, "changed"),
            (ADDED, "changed"),
            (ADDED, "new"),
            (SNAPSHOT_END, ""),
        ]

    async def test_what_comes_comes_before_what_goes_all_of_one_revision(
        self, operator: Stubs
    ) -> None:
        await add(operator, policy_rule(id="old"))
        marked = watch_policies(operator, "acme", SNAPSHOT)
        plain = watch_policies(operator)
        for watch in (marked, plain):
            while (await take(watch)).kind != SNAPSHOT_END:
                pass
        made = await replace(operator, policy_rule(id="new"))
        await add(operator, policy_rule(id="later"))
        events = [await take(marked) for _ in range(5)]
        assert [event.kind for event in events] == [
            ADDED,
            REMOVED,
            SNAPSHOT_END,
            ADDED,
            SNAPSHOT_END,
        ]
        assert [event.revision for event in events[:3]] == [made] * 3
        assert events[3].revision == events[4].revision > made
        kinds = [(await take(plain)).kind for _ in range(3)]
        assert kinds == [ADDED, REMOVED, ADDED]  # plain watchers know one SNAPSHOT_END only

    async def test_the_same_again_changes_nothing(self, operator: Stubs) -> None:
        await replace(operator, policy_rule())
        there, made = await rules(operator), await revision(operator)
        assert await replace(operator, *there) == made
        assert await rules(operator) == there

    async def test_another_revision_than_expected_changes_nothing(self, operator: Stubs) -> None:
        seen = await revision(operator)
        await add(operator, policy_rule(id="meanwhile"))
        async with refused(
            grpc.StatusCode.FAILED_PRECONDITION, "rules of acme have changed", f"not {seen}"
        ):
            await replace(operator, expected=seen)
        assert [rule.id for rule in await rules(operator)] == ["meanwhile"]

    async def test_other_tenants_rules_neither_change_nor_count(
        self, controller: LiveController
    ) -> None:
        async with controller.admin() as admin:
            await add(admin, policy_rule(id="mine"))
            seen = await revision(admin)
            await add(admin, policy_rule("other", id="theirs"))
            assert await revision(admin) == seen
            await replace(admin, expected=seen)
            assert await rules(admin) == []
            request = pb.ListPoliciesRequest(tenant="other")
            listed = await admin.policy.ListPolicies(request)
            assert [rule.id for rule in listed.rules] == ["theirs"]

    async def test_by_its_revisions_nobody_can_count_what_others_do(
        self, controller: LiveController, operator: Stubs
    ) -> None:
        watch = watch_policies(operator, "acme", SNAPSHOT)
        told = [(await take(watch)).revision]
        async with controller.plaintext() as others:
            for number in range(3):
                for _ in range(number):
                    await add(others, policy_rule("other"))
                    await others.registry.RegisterService(registration(f"s{number}", OTHERS_AGENT))
                assert await replace(operator, policy_rule(id=str(number))) == number + 1
                while (event := await take(watch)).kind != SNAPSHOT_END:
                    assert event.revision == number + 1
                told.append(event.revision)
        watch.cancel()
        assert told == [0, 1, 2, 3]
        again = watch_policies(operator, "acme", SNAPSHOT)
        assert [(await take(again)).revision for _ in range(2)] == [3, 3]
        again.cancel()

    async def test_a_removal_is_a_revision_too(self, operator: Stubs) -> None:
        assert await revision(operator) == 0
        rule_id = await add(operator)
        added = await revision(operator)
        await remove(operator, rule_id)
        assert 0 < added < await revision(operator)

    @pytest.mark.parametrize(
        ("bad", "texts"),
        [
            (policy_rule("other"), ("rules[1]: tenant: is not acme",)),
            (policy_rule(decision=0), ("rules[1]: decision:",)),
            (policy_rule(target_pattern=""), ("rules[1]: target_pattern: must be given",)),
            (policy_rule(id="first"), ("rules[1]: id: first is that of another",)),
        ],
    )
    async def test_a_bad_rule_is_named_and_nothing_changes(
        self, operator: Stubs, bad: pb.PolicyRule, texts: tuple[str, ...]
    ) -> None:
        await add(operator, policy_rule(id="there"))
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, *texts):
            await replace(operator, policy_rule(id="first"), bad)
        assert [rule.id for rule in await rules(operator)] == ["there"]


class TestExplain:
    async def test_tells_the_decision_and_every_rule(self, operator: Stubs) -> None:
        await add(operator, policy_rule(id="wide", target_pattern="*"))
        await add(operator, policy_rule(id="narrow", decision=pb.DECISION_DENY))
        await add(
            operator, policy_rule(id="callee", caller_pattern=AGENT_B, target_pattern=AGENT_A)
        )
        request = pb.ExplainRequest(tenant="acme", caller=AGENT_A, target="db", provider=AGENT_B)
        answer = await operator.policy.Explain(request, timeout=TIMEOUT)
        assert answer.decision == pb.DECISION_DENY
        assert answer.matched_rule_id == "narrow"
        assert answer.reason == "denied by policy rule narrow"
        told = [(each.rule.id, each.decides, each.callee_side) for each in answer.considered]
        assert told == [("narrow", True, False), ("callee", True, True), ("wide", False, False)]
        assert answer.considered[2].why == "less specific target than that of narrow"

    async def test_never_shows_a_rule_of_another_tenant(self, controller: LiveController) -> None:
        async with controller.admin() as admin:
            await add(admin, policy_rule("other"))
            request = pb.ExplainRequest(tenant="acme", caller=AGENT_A, target="db")
            answer = await admin.policy.Explain(request, timeout=TIMEOUT)
        assert (answer.decision, answer.matched_rule_id) == (pb.DECISION_DENY, "")
        assert list(answer.considered) == []

    @pytest.mark.parametrize(
        ("fields", "fault"),
        [
            ({"caller": "me"}, "caller: "),
            ({"caller": AGENT_A.replace("acme", "other")}, "tenant: acme is not the tenant of"),
            ({"target": ""}, "target: must be 1 to 255"),
            ({"provider": "outrelay://local/relay/r1"}, "provider: outrelay://local/relay/r1 is"),
            ({"method": "a\nb"}, "method: must be printable"),
        ],
    )
    async def test_a_bad_field_is_named(
        self, operator: Stubs, fields: dict[str, str], fault: str
    ) -> None:
        request = {"tenant": "acme", "caller": AGENT_A, "target": "db", **fields}
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, fault):
            await operator.policy.Explain(pb.ExplainRequest(**request))
