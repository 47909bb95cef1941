"""How calls end: bugs, broken databases, garbage - and health and reflection for all."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from outrelay.controller.feed import Feed
from outrelay.controller.listeners import MAX_REQUEST
from outrelay.controller.store import Audit, Policies
from outrelay.lib.control.v1 import audit_pb2, policy_pb2
from outrelay.lib.errors import ControlError, StoreError
from tests.controller.live import LiveController, answer, refused
from tests.support.events import events

LIST_METHOD = "/outrelay.control.v1.Policy/ListPolicies"
LIST = policy_pb2.ListPoliciesRequest(tenant="acme")


async def test_a_bug_is_internal_to_the_caller_and_a_trace_in_the_log(
    controller: LiveController, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_policies: Policies, _tenant: str) -> None:
        raise LookupError("secret detail")

    monkeypatch.setattr(Policies, "snapshot", broken)
    async with controller.admin() as stubs:
        async with refused(grpc.StatusCode.INTERNAL, "its log says why") as raised:
            await stubs.policy.ListPolicies(LIST)
        assert "secret" not in str(raised.value.details())
        async with refused(grpc.StatusCode.INTERNAL):
            await stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme")).read()
    (first, second) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "call failed" in str(first.msg)
    assert "LookupError" in str(first.msg)
    assert "Policy/Watch" in str(second.msg)


async def test_a_bug_that_is_a_timeout_is_not_taken_for_the_certificates_end(
    controller: LiveController, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(_policies: Policies, _tenant: str) -> None:
        raise TimeoutError

    monkeypatch.setattr(Policies, "snapshot", slow)
    async with controller.as_operator() as stubs, refused(grpc.StatusCode.INTERNAL):
        await stubs.policy.ListPolicies(LIST)


async def test_a_database_that_fails_is_unavailable(
    controller: LiveController, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_audit: Audit, _events: object) -> int:
        raise StoreError("x.db", "database or disk is full")

    monkeypatch.setattr(Audit, "record", full)
    event = audit_pb2.AuditEvent(tenant="acme")
    failure = refused(grpc.StatusCode.UNAVAILABLE, "database failed: database or disk is full")
    async with controller.plaintext() as stubs, failure:
        await stubs.audit.Record(audit_pb2.RecordAuditRequest(event=event))


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_garbage_is_an_invalid_argument(controller: LiveController, kind: str) -> None:
    method = {
        "unary_unary": "Policy/ListPolicies",
        "unary_stream": "Policy/Watch",
        "stream_unary": "Audit/RecordBatch",
        "stream_stream": "Fleet/Attach",
    }[kind]
    garbage = b"\xff" * 100
    async with controller.plaintext() as stubs:
        rpc = getattr(stubs.channel, kind)(f"/outrelay.control.v1.{method}")
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "cannot be decoded"):
            call = rpc(iter([garbage]) if kind.startswith("stream_") else garbage)
            await (call.read() if kind.endswith("_stream") else call)


async def test_calls_that_may_not_be_made_are_a_line_a_second(controller: LiveController) -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    with events() as seen:
        async with controller.calling(controller.pki.agent()) as stubs:
            for _ in range(30):
                async with refused(denied):
                    await stubs.policy.ListPolicies(LIST)
            async with refused(denied):
                await stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme")).read()
        async with controller.plaintext() as stubs, refused(grpc.StatusCode.INVALID_ARGUMENT):
            await stubs.policy.AddPolicy(policy_pb2.AddPolicyRequest())
    first, *more = seen.of("call refused", level="warning", method=LIST_METHOD)
    assert first["code"] == "PERMISSION_DENIED"
    assert "127.0.0.1" in str(first["address"])
    assert len(more) < 10  # one a second, however slow the machine
    assert seen.of("call refused", level="warning", method="/outrelay.control.v1.Policy/Watch")
    assert not seen.of("call refused", level="warning", code="INVALID_ARGUMENT")


HUGE = b"x" * (MAX_REQUEST + 1000)


@pytest.mark.parametrize("method", ["Policy/AddPolicy", "Registry/Watch", "Audit/RecordBatch"])
async def test_nothing_is_read_of_who_may_not_call(controller: LiveController, method: str) -> None:
    denied = refused(grpc.StatusCode.PERMISSION_DENIED)  # and not that it is too large
    async with controller.calling(controller.pki.agent()) as stubs, denied:
        channel: Any = stubs.channel
        await channel.stream_unary(f"/outrelay.control.v1.{method}")(iter([HUGE]))


async def test_a_request_that_is_too_large_is_said_to_be(controller: LiveController) -> None:
    async with controller.plaintext() as stubs, refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        channel: Any = stubs.channel
        await channel.unary_unary("/outrelay.control.v1.Policy/AddPolicy")(HUGE)


@pytest.mark.parametrize("method", ["Policy/ListPolicies", "Registry/Watch"])
async def test_a_call_without_its_request(controller: LiveController, method: str) -> None:
    async with (
        controller.plaintext() as stubs,
        refused(grpc.StatusCode.INVALID_ARGUMENT, "no request"),
    ):
        channel: Any = stubs.channel
        await channel.stream_unary(f"/outrelay.control.v1.{method}")(iter([]))


async def test_a_refused_call_is_forgotten_at_once(controller: LiveController) -> None:
    """What is only collected as garbage is kept until then, requests of megabytes too."""
    before = control_errors()
    gc.disable()
    try:
        async with controller.plaintext() as stubs, refused(grpc.StatusCode.INVALID_ARGUMENT):
            await stubs.policy.AddPolicy(policy_pb2.AddPolicyRequest())
        assert len(control_errors()) == len(before)
    finally:
        gc.enable()


def control_errors() -> list[object]:
    """Those that are kept by anybody."""
    return [each for each in gc.get_objects() if isinstance(each, ControlError)]


async def test_a_batch_that_is_refused_half_way_leaves_nothing_behind(
    controller: LiveController,
) -> None:
    def batch(tenant: str, event_id: str = "1") -> audit_pb2.RecordBatchRequest:
        event = audit_pb2.AuditEvent(tenant=tenant, event_id=event_id)
        return audit_pb2.RecordBatchRequest(events=[event])

    async with controller.plaintext() as stubs:
        batches = [batch("acme"), batch("Bad"), batch("acme", "2")]
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "event.tenant"):
            await answer(lambda: stubs.audit.RecordBatch(iter(batches)))
        query = stubs.audit.Query(audit_pb2.QueryAuditRequest(tenant="acme"))
        assert len([event async for event in query]) == 1


async def test_what_does_not_exist_is_unimplemented(controller: LiveController) -> None:
    async with controller.plaintext() as stubs, refused(grpc.StatusCode.UNIMPLEMENTED):
        channel: Any = stubs.channel
        await channel.unary_unary("/outrelay.control.v1.Policy/Nothing")(b"")


async def test_a_watcher_that_goes_is_forgotten(
    controller: LiveController, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = asyncio.Event()
    subscribe = Feed.subscribe

    @contextmanager
    def seen(feed: Feed[object], wanted: Callable[[object], bool]) -> Iterator[object]:
        try:
            with subscribe(feed, wanted) as subscription:
                yield subscription
        finally:
            left.set()

    monkeypatch.setattr(Feed, "subscribe", seen)
    async with controller.as_relay() as stubs:
        watch = stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme"))
        await watch.read()
        watch.cancel()
        async with asyncio.timeout(5):
            await left.wait()


class TestForAll:
    async def test_health(self, controller: LiveController) -> None:
        async with controller.calling(controller.pki.agent()) as stubs:
            stub = health_pb2_grpc.HealthStub(stubs.channel)
            for service in ("", "outrelay.control.v1.Policy"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def test_reflection(self, controller: LiveController) -> None:
        async with controller.calling(controller.pki.agent()) as stubs:
            stub = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([request])):
                names = {service.name for service in answer.list_services_response.service}
                assert {
                    f"outrelay.control.v1.{name}"
                    for name in ("Registry", "Policy", "Audit", "Fleet", "Admin")
                } < names
