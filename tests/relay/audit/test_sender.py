"""Sending: each event is stored once, whatever happens to the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.control.v1 import audit_pb2
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.lib.tasks import beside
from outrelay.relay.audit import trail as trail_module
from outrelay.relay.audit.sender import Sender
from outrelay.relay.audit.trail import Trail
from outrelay.relay.call import Call
from tests.relay.fake_controller import FakeController, fake_controller


def call(number: int) -> Call:
    return Call(tenant="acme", caller="a", service=f"s{number}", stream_id=number)


def made() -> Trail:
    return Trail(AuditMetrics(CollectorRegistry()), relay_id="r1")


@asynccontextmanager
async def sending(directory: Path, events: int) -> AsyncIterator[tuple[Trail, FakeController]]:
    """A trail of some events that is being sent."""
    trail = made()
    for number in range(1, events + 1):
        trail.opened(call(number), "provider", "allowed")
    async with (
        fake_controller(directory) as fake,
        fake.line() as controller,
        beside(Sender(trail, controller).run(), name="sender"),
    ):
        yield trail, fake


def targets(fake: FakeController) -> list[str]:
    return [event.target for event in fake.stored.values()]


async def test_events_go_out_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail_module, "BATCH", 4)
    async with sending(tmp_path, 10) as (trail, fake):
        await trail.settle()

        assert targets(fake) == [f"s{number}" for number in range(1, 11)]
        assert [name for name, _ in fake.calls.made] == ["RecordBatch"] * 3


async def test_events_that_come_one_after_another_share_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "GATHER", 3600)
    async with sending(tmp_path, 0) as (trail, fake):
        for number in (1, 2, 3):
            trail.opened(call(number), "provider", "allowed")
            for _ in range(5):  # what the sender does with one event, it does by now
                await asyncio.sleep(0)
        await trail.settle()

        assert targets(fake) == ["s1", "s2", "s3"]
        assert [name for name, _ in fake.calls.made] == ["RecordBatch"]


async def test_a_batch_whose_answer_was_lost_is_sent_again_with_the_same_ids(
    tmp_path: Path,
) -> None:
    async with sending(tmp_path, 0) as (trail, fake):
        fake.loses_answers = True
        trail.opened(call(1), "provider", "allowed")
        trail.opened(call(2), "provider", "allowed")
        await trail.settle()

        assert len(fake.calls.made) == 2
        assert targets(fake) == ["s1", "s2"]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
async def test_through_an_outage_nothing_is_lost(tmp_path: Path, code: grpc.StatusCode) -> None:
    async with sending(tmp_path, 0) as (trail, fake):
        fake.failures["RecordBatch"] = code
        trail.opened(call(1), "provider", "allowed")
        await fake.calls.number("RecordBatch", 2)
        trail.opened(call(2), "provider", "allowed")
        assert targets(fake) == []
        fake.failures.clear()
        await trail.settle()

        assert targets(fake) == ["s1", "s2"]


async def test_a_controller_without_batches_gets_them_one_by_one(tmp_path: Path) -> None:
    async with sending(tmp_path, 0) as (trail, fake):
        fake.failures["RecordBatch"] = grpc.StatusCode.UNIMPLEMENTED
        for number in (1, 2):
            trail.opened(call(number), "provider", "allowed")
        await trail.settle()
        trail.opened(call(3), "provider", "allowed")
        await trail.settle()

        assert targets(fake) == ["s1", "s2", "s3"]

        del fake.failures["RecordBatch"]  # it has been upgraded
        trail.opened(call(4), "provider", "allowed")
        await trail.settle()
        assert targets(fake) == ["s1", "s2", "s3", "s4"]
        assert len(fake.calls.of("RecordAudit", audit_pb2.RecordAuditRequest)) == 3


async def test_an_event_that_is_refused_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with sending(tmp_path, 0) as (trail, fake):
        fake.refuses = lambda event: event.target == "s3"
        for number in range(1, 6):
            trail.opened(call(number), "provider", "allowed")
        await trail.settle()

        assert sorted(targets(fake)) == ["s1", "s2", "s4", "s5"]
    assert "refused for good" in caplog.text


class Script(dict[str, grpc.StatusCode]):
    """What the calls of events one by one end with, in turn."""

    def __init__(self, *codes: grpc.StatusCode | None) -> None:
        super().__init__(RecordBatch=grpc.StatusCode.UNIMPLEMENTED)
        self._codes = iter(codes)

    def get(self, name: str, default: object = None) -> Any:
        return next(self._codes, None) if name == "RecordAudit" else super().get(name)


async def test_a_controller_without_batches_gets_nothing_again_that_it_took(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    status = grpc.StatusCode
    async with sending(tmp_path, 0) as (trail, fake):
        fake.failures = Script(None, status.INVALID_ARGUMENT, status.UNAVAILABLE)
        for number in range(1, 5):
            trail.opened(call(number), "provider", "allowed")
        await trail.settle()

        calls = fake.calls.of("RecordAudit", audit_pb2.RecordAuditRequest)
        sent = [request.event.target for request in calls]
        assert sent == ["s1", "s2", "s3", "s3", "s4"]
        assert targets(fake) == ["s1", "s3", "s4"]
    assert "refused for good" in caplog.text


async def test_a_relay_about_to_stop_does_not_wait_long_between_tries(tmp_path: Path) -> None:
    fakes = fake_controller(tmp_path)
    trail = made()
    async with fakes as fake, fake.line() as controller:
        sender = Sender(trail, controller)
        fake.failures["RecordBatch"] = grpc.StatusCode.UNAVAILABLE
        trail.opened(call(1), "provider", "allowed")
        async with beside(sender.run(), name="sender"), asyncio.TaskGroup() as group:
            settling = group.create_task(sender.settle(), name="settle")
            await fake.calls.number("RecordBatch", 5)
            fake.failures.clear()
            assert await settling
        assert targets(fake) == ["s1"]
        assert sender.waiting == 0
