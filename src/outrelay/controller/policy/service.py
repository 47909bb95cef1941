"""The Policy rpcs.

Source: control-plane.md, Policy.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from uuid import uuid4

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.clock import Clock
from outrelay.controller.fields import (
    check_agent,
    check_service_name,
    check_tenant,
    check_text,
    invalid,
)
from outrelay.controller.store import (
    Policies,
    PolicyBatch,
    PolicyChange,
    PolicyChangeKind,
    PolicySnapshot,
)
from outrelay.controller.watch import SNAPSHOT, admit, asks_for, watched_tenant
from outrelay.lib.control.convert import (
    explanation_to_proto,
    rule_from_proto,
    rule_to_proto,
)
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyServicer
from outrelay.lib.errors import ControlError, RemoteProtocolError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.policy import Rule, explain

log = get_logger(__name__)


class PolicyService(PolicyServicer):
    """Policy over the store.

    Args:
        policies: The store's part.
        clock: The time.
    """

    def __init__(self, policies: Policies, clock: Clock) -> None:
        self._policies = policies
        self._clock = clock

    async def AddPolicy(
        self, request: pb.AddPolicyRequest, _context: Context
    ) -> pb.AddPolicyResponse:
        """Add a rule; its id is drawn here unless it brings one, its time is ours."""
        rule = _checked_rule(request.rule)
        rule = dataclasses.replace(rule, id=rule.id or str(uuid4()), created_ms=self._clock())
        if not await self._policies.add(rule):
            raise ControlError("ALREADY_EXISTS", f"id: {rule.tenant} has a rule {rule.id} already")
        log.info(
            "policy added",
            tenant=rule.tenant,
            id=rule.id,
            decision=rule.decision.name.lower(),
            by=current_caller().name,
        )
        return pb.AddPolicyResponse(id=rule.id)

    async def RemovePolicy(
        self, request: pb.RemovePolicyRequest, _context: Context
    ) -> pb.RemovePolicyResponse:
        """Remove a rule, if there is one of that id."""
        current_caller().require_tenant(request.tenant)
        check_text("id", request.id)
        removed = await self._policies.remove(request.tenant, request.id)
        if removed:
            log.info(
                "policy removed", tenant=request.tenant, id=request.id, by=current_caller().name
            )
        return pb.RemovePolicyResponse(removed=removed)

    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, _context: Context
    ) -> pb.ListPoliciesResponse:
        """A tenant's rules, oldest first."""
        current_caller().require_tenant(request.tenant)
        found = await self._policies.snapshot(request.tenant)
        return pb.ListPoliciesResponse(
            rules=map(rule_to_proto, found.rules), revision=found.tenant_revision
        )

    async def ReplacePolicies(
        self, request: pb.ReplacePoliciesRequest, _context: Context
    ) -> pb.ReplacePoliciesResponse:
        """Let a tenant have exactly these rules, in one step, unless it has others than expected.

        Rules without an id get one; a list shows them in the order of the request.
        """
        tenant = request.tenant
        current_caller().require_tenant(tenant)
        check_tenant(tenant)
        rules = _checked_rules(request, self._clock())
        expected = request.expected_revision
        revision = await self._policies.replace(tenant, rules, expected_revision=expected)
        if revision != expected:
            log.info(
                "policies replaced",
                tenant=tenant,
                rules=len(rules),
                revision=revision,
                by=current_caller().name,
            )
        return pb.ReplacePoliciesResponse(revision=revision)

    async def Explain(self, request: pb.ExplainRequest, _context: Context) -> pb.ExplainResponse:
        """What would be decided about a call now, and why not otherwise."""
        tenant = request.tenant
        current_caller().require_tenant(tenant)
        check_tenant(tenant)
        check_agent(request.caller, tenant=tenant, field="caller")
        check_service_name(request.target, field="target")
        check_text("method", request.method, optional=True)
        if request.provider:
            check_agent(request.provider, tenant=tenant, field="provider")
        found = await self._policies.snapshot(tenant)
        explanation = await asyncio.to_thread(  # many rules take a while
            explain,
            found.rules,
            tenant=tenant,
            caller=request.caller,
            target=request.target,
            method=request.method,
            provider=request.provider,
            now_ms=self._clock(),
        )
        return explanation_to_proto(explanation)

    async def Watch(
        self, request: pb.WatchPoliciesRequest, context: Context
    ) -> AsyncGenerator[pb.PolicyEvent, None]:
        """The rules there are, a SNAPSHOT_END, then every change.

        To a watcher that sent ``outrelay-snapshot: 1`` each batch of changes ends with a
        SNAPSHOT_END too: its rules are complete again. Revisions are those of the tenant that is
        watched: by those of all changes its operator could count what others do.
        """
        tenant = watched_tenant(context, request.tenant)
        marks_batches = asks_for(context, SNAPSHOT)
        with self._policies.feed.subscribe(lambda each: tenant in (None, each.tenant)) as batches:
            await admit(context)
            found = await self._policies.snapshot(tenant)
            shown = _shown(found, tenant)
            for rule in found.rules:
                yield _added(rule, shown)
            yield _complete(shown)
            async for batch in batches:
                if batch.revision <= found.revision:
                    continue
                shown = _shown(batch, tenant)
                for change in batch.changes:
                    yield _event(change, shown)
                if marks_batches:
                    yield _complete(shown)


def _checked_rule(message: pb.PolicyRule) -> Rule:
    """The rule of a request, once it is one that the caller may add and that makes sense."""
    current_caller().require_tenant(message.tenant)
    check_tenant(message.tenant)
    check_text("id", message.id, optional=True)
    check_text("caller_pattern", message.caller_pattern)
    check_text("target_pattern", message.target_pattern)
    check_text("method_pattern", message.method_pattern, optional=True)
    if message.expires_unix_ms < 0:
        raise invalid("expires_unix_ms", "must not be negative; 0 means never")
    try:
        return rule_from_proto(message)
    except RemoteProtocolError as error:
        raise ControlError("INVALID_ARGUMENT", error.reason) from error


def _checked_rules(request: pb.ReplacePoliciesRequest, now_ms: int) -> list[Rule]:
    """All rules of a request, each with an id."""
    rules = []
    ids = set()
    # Rules of one moment are listed by their ids.
    drawn = iter(sorted(str(uuid4()) for rule in request.rules if not rule.id))
    for number, message in enumerate(request.rules):
        try:
            if message.tenant != request.tenant:
                raise invalid("tenant", f"is not {request.tenant}")
            rule = _checked_rule(message)
        except ControlError as error:
            raise invalid(f"rules[{number}]", error.reason) from error
        if rule.id in ids:
            raise invalid(f"rules[{number}]", f"id: {rule.id} is that of another rule too")
        rule = dataclasses.replace(rule, id=rule.id or next(drawn), created_ms=now_ms)
        ids.add(rule.id)
        rules.append(rule)
    return rules


def _shown(seen: PolicySnapshot | PolicyBatch, tenant: str | None) -> int:
    """The revision that a watcher of ``tenant``, or of all, is told."""
    return seen.revision if tenant is None else seen.tenant_revision


def _complete(revision: int) -> pb.PolicyEvent:
    return pb.PolicyEvent(kind=pb.PolicyEvent.POLICY_KIND_SNAPSHOT_END, revision=revision)


def _added(rule: Rule, revision: int) -> pb.PolicyEvent:
    return pb.PolicyEvent(
        kind=pb.PolicyEvent.POLICY_KIND_ADDED, rule=rule_to_proto(rule), revision=revision
    )


def _event(change: PolicyChange, revision: int) -> pb.PolicyEvent:
    if change.kind is PolicyChangeKind.ADDED:
        return _added(change.rule, revision)
    return pb.PolicyEvent(
        kind=pb.PolicyEvent.POLICY_KIND_REMOVED,
        rule=rule_to_proto(change.rule),  # who watches all tenants needs to know whose it was
        removed_id=change.rule.id,
        revision=revision,
    )
