"""The Policy rpcs.

Source: control-plane.md, Policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from uuid import uuid4

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.clock import Clock
from outrelay.controller.fields import check_tenant, check_text, invalid
from outrelay.controller.store import Policies, PolicyChange, PolicyChangeKind
from outrelay.controller.watch import watched_tenant
from outrelay.lib.control.convert import rule_from_proto, rule_to_proto
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyServicer
from outrelay.lib.errors import ControlError, RemoteProtocolError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.policy import Rule

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
        rules, _ = await self._policies.snapshot(request.tenant)
        return pb.ListPoliciesResponse(rules=map(rule_to_proto, rules))

    async def Watch(
        self, request: pb.WatchPoliciesRequest, context: Context
    ) -> AsyncGenerator[pb.PolicyEvent, None]:
        """The rules there are, a SNAPSHOT_END, then every change."""
        tenant = watched_tenant(context, request.tenant)

        def wanted(change: PolicyChange) -> bool:
            return tenant in (None, change.rule.tenant)

        with self._policies.feed.subscribe(wanted) as changes:
            rules, seen = await self._policies.snapshot(tenant)
            for rule in rules:
                yield _added(rule, seen)
            yield pb.PolicyEvent(kind=pb.PolicyEvent.POLICY_KIND_SNAPSHOT_END, revision=seen)
            async for change in changes:
                if change.revision > seen:
                    yield _event(change)


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


def _added(rule: Rule, revision: int) -> pb.PolicyEvent:
    return pb.PolicyEvent(
        kind=pb.PolicyEvent.POLICY_KIND_ADDED, rule=rule_to_proto(rule), revision=revision
    )


def _event(change: PolicyChange) -> pb.PolicyEvent:
    if change.kind is PolicyChangeKind.ADDED:
        return _added(change.rule, change.revision)
    return pb.PolicyEvent(
        kind=pb.PolicyEvent.POLICY_KIND_REMOVED,
        rule=rule_to_proto(change.rule),  # who watches all tenants needs to know whose it was
        removed_id=change.rule.id,
        revision=change.revision,
    )
