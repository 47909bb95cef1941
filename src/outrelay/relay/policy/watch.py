"""Keeps the judge's rules those of the controller.

A watch begins with all rules; they replace the judge's in one step once they are complete,
so that no decision is taken on half a set. Later changes come in batches that a SNAPSHOT_END
ends too (``docs/decisions/0003-complete-revisions.md``); those of a plain controller, which
have no revision, count as they come, and it knows no Watch of all tenants. While the
controller is away the judge goes on with the rules it has.

Source: control-plane.md, Policy, Watch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from outrelay.lib.control.convert import rule_from_proto
from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.errors import ControlError, RemoteProtocolError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.policy import PolicySet, Rule
from outrelay.relay.controller import ALL_TENANTS, SNAPSHOT, Answers, Kind, Services
from outrelay.relay.lag import POLICY
from outrelay.relay.policy.judge import Judge

log = get_logger(__name__)


class PolicyWatch:
    """A ``Watch`` of the rules of one tenant, or of all.

    Args:
        judge: Whose rules to keep.
        tenant: Whose rules they are; empty: everybody's.
        kind: Told what the controller shows itself to be.
        on_plain: Told that a plain controller lets us in, which may have been restarted.
    """

    kind = POLICY

    def __init__(
        self, judge: Judge, tenant: str, kind: Kind, on_plain: Callable[[str], None]
    ) -> None:
        self.name = f"policy of {tenant}" if tenant else "policy"
        self._judge = judge
        self._tenant = tenant
        self._controllers_kind = kind
        self._on_plain = on_plain
        self._fresh: PolicySet | None = None
        self._batch: list[Callable[[], None]] = []

    def begin(self) -> None:
        """A call begins: with all rules."""
        self._fresh = PolicySet()
        self._batch.clear()

    def open(self, services: Services) -> Answers[policy.PolicyEvent]:
        """See ``Watch``."""
        self.begin()
        metadata = (SNAPSHOT,) if self._tenant else (SNAPSHOT, ALL_TENANTS)
        request = policy.WatchPoliciesRequest(tenant=self._tenant)
        return services.policy.Watch(request, metadata=metadata)

    def begun(self, *, extended: bool) -> None:
        """See ``Watch``."""
        if not (extended or self._tenant):
            raise ControlError("UNIMPLEMENTED", "it knows no watch of all tenants")
        self._controllers_kind.show(extended=extended)
        if not extended:
            self._on_plain(self._tenant)

    def refused(self) -> None:
        """See ``Watch``."""
        if not self._tenant:
            self._controllers_kind.show(extended=False)

    def take(self, event: policy.PolicyEvent) -> None:
        """See ``Watch``."""
        match event.kind:
            case policy.PolicyEvent.POLICY_KIND_ADDED:
                self._add(event.rule, event.revision)
            case policy.PolicyEvent.POLICY_KIND_REMOVED:
                tenant = self._tenant or event.rule.tenant
                self._remove(tenant, event.removed_id, event.revision)
            case policy.PolicyEvent.POLICY_KIND_SNAPSHOT_END:
                self._complete()

    def lost(self) -> None:
        """See ``Watch``."""
        self._fresh = None
        self._batch.clear()

    def _add(self, message: policy.PolicyRule, revision: int) -> None:
        try:
            rule = self._rule_of(message)
        except RemoteProtocolError as error:
            log.warning("a policy rule is left out", id=message.id, reason=str(error))
            return
        if self._fresh is not None:
            self._fresh.add(rule)
        else:
            self._change(partial(self._now_added, rule), revision)

    def _rule_of(self, message: policy.PolicyRule) -> Rule:
        """A rule that may be listened to, or RemoteProtocolError."""
        rule = rule_from_proto(message)
        if self._tenant not in ("", rule.tenant):
            raise RemoteProtocolError(f"tenant: is {rule.tenant!r}, not {self._tenant!r}")
        return rule

    def _remove(self, tenant: str, rule_id: str, revision: int) -> None:
        if self._fresh is not None:
            self._fresh.remove(tenant, rule_id)
        else:
            self._change(partial(self._now_removed, tenant, rule_id), revision)

    def _now_added(self, rule: Rule) -> None:
        self._judge.add(rule)
        log.debug("policy rule added", id=rule.id, tenant=rule.tenant)

    def _now_removed(self, tenant: str, rule_id: str) -> None:
        self._judge.remove(tenant, rule_id)
        log.debug("policy rule removed", id=rule_id, tenant=tenant)

    def _change(self, change: Callable[[], None], revision: int) -> None:
        """Make a change, at the end of its batch when it is part of one."""
        if revision:
            self._batch.append(change)
        else:
            change()

    def _complete(self) -> None:
        if self._fresh is None:
            for change in self._batch:
                change()
            self._batch.clear()
            return
        before = self._count()
        if self._tenant:
            self._judge.replace_tenant(self._tenant, self._fresh.rules(self._tenant))
        else:
            self._judge.replace(self._fresh)
        self._fresh = None
        after = self._count()
        if before and not after:
            log.error(
                "the controller has no policy rule any more: every new stream is denied",
                follows=self.name,
                rules_before=before,
            )
        else:
            log.info("policy loaded", rules=after, tenant=self._tenant or None)

    def _count(self) -> int:
        return self._judge.rules_of(self._tenant) if self._tenant else self._judge.rules
