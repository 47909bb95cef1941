"""What the CLI does itself when the controller is a plain one and does not know the call.

Source: control-plane.md, Plain peers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc.aio

from outrelay.cli.ruleset import Difference
from outrelay.cli.session import STREAM_TIMEOUT, TIMEOUT
from outrelay.lib.control.convert import explanation_to_proto, rule_from_proto
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.policy import explain

if TYPE_CHECKING:  # it is of the stubs only
    from outrelay.lib.control.v1.policy_pb2_grpc import PolicyAsyncStub


async def explained(policy: PolicyAsyncStub, request: pb.ExplainRequest) -> pb.ExplainResponse:
    """The controller's explanation, or one of the rules it lists."""
    try:
        return await policy.Explain(request, timeout=STREAM_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        _check_plain(error)
    listed = await policy.ListPolicies(
        pb.ListPoliciesRequest(tenant=request.tenant), timeout=STREAM_TIMEOUT
    )
    return explanation_to_proto(
        explain(
            map(rule_from_proto, listed.rules),
            tenant=request.tenant,
            caller=request.caller,
            target=request.target,
            method=request.method,
            provider=request.provider,
            now_ms=time.time_ns() // 1_000_000,
        )
    )


async def replaced(
    policy: PolicyAsyncStub, tenant: str, found: Difference, expected_revision: int
) -> int:
    """Make a difference in one step, or, where that is not to be had, rule by rule.

    Rule by rule, what is new comes before what goes: the tenant passes through a set that
    allows more for a moment, not less.

    Returns:
        The revision the tenant then has; 0: the controller has none.
    """
    request = pb.ReplacePoliciesRequest(
        tenant=tenant, rules=found.result, expected_revision=expected_revision
    )
    try:
        return (await policy.ReplacePolicies(request, timeout=STREAM_TIMEOUT)).revision
    except grpc.aio.AioRpcError as error:
        _check_plain(error)
    for rule in found.added:
        await policy.AddPolicy(pb.AddPolicyRequest(rule=rule), timeout=TIMEOUT)
    for rule in found.removed:
        await policy.RemovePolicy(
            pb.RemovePolicyRequest(tenant=tenant, id=rule.id), timeout=TIMEOUT
        )
    return 0


def _check_plain(error: grpc.aio.AioRpcError) -> None:
    """Raise the error of a controller that knows the call."""
    if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
        raise error
