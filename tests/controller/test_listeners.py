"""The listeners: the end of what they serve."""

from __future__ import annotations

from pathlib import Path

import grpc

from outrelay.lib.control.v1 import policy_pb2
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
