"""The listeners: the end of what they serve."""

from __future__ import annotations

from pathlib import Path

import grpc

from outrelay.controller.audit.service import FOLLOWED
from outrelay.lib.control.v1 import audit_pb2, policy_pb2
from tests.controller.live import live_controller, refused


async def test_stopping_ends_watches_with_unavailable(tmp_path: Path) -> None:
    async with live_controller(tmp_path) as controller:
        stubs_of = controller.as_relay()
        stubs = await stubs_of.__aenter__()
        watch = stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme"))
        await watch.read()
    async with refused(grpc.StatusCode.UNAVAILABLE, "the controller is stopping"):
        await watch.read()
    await stubs_of.__aexit__(None, None, None)


async def test_who_followed_hears_so_in_the_end_as_well(tmp_path: Path) -> None:
    """gRPC may show it the end before the beginning, and then forgets the beginning."""
    async with live_controller(tmp_path) as controller:
        stubs_of = controller.admin()
        stubs = await stubs_of.__aenter__()
        trail = stubs.audit.Query(audit_pb2.QueryAuditRequest(tenant="acme", follow=True))
        assert await trail.initial_metadata() == FOLLOWED
    assert await trail.trailing_metadata() == FOLLOWED
    await stubs_of.__aexit__(None, None, None)
