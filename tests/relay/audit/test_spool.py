"""The spool: what happened is in a file a moment later, and at the controller once."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.lib.tasks import beside
from outrelay.relay.audit import spool as spool_module
from outrelay.relay.audit import trail as trail_module
from outrelay.relay.audit.disk import Disk, open_disk
from outrelay.relay.audit.files import DAMAGED, SUFFIX
from outrelay.relay.audit.record import MAGIC, Record, decode, encode
from outrelay.relay.audit.sender import Sender
from outrelay.relay.audit.spool import Spool
from outrelay.relay.audit.trail import MEMORY, Trail
from outrelay.relay.call import Call
from tests.relay.fake_controller import FakeController, fake_controller
from tests.support.turns import until

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail_module, "GATHER", 0.001)
    monkeypatch.setattr(spool_module, "RETRY", 0.001)


@dataclass
class Room:
    """A trail and its spool, being written."""

    trail: Trail
    spool: Spool
    disk: Disk
    registry: CollectorRegistry

    def open(self, *numbers: int, tenant: str = "acme") -> None:
        for number in numbers:
            call = Call(tenant=tenant, caller="a", service=f"s{number}", stream_id=number)
            self.trail.opened(call, "provider", "allowed")

    async def written(self) -> None:
        """Return when nothing is in memory only."""
        await self.trail.wait_empty()

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)


@asynccontextmanager
async def room(folder: Path, *, size: int = SIZE, memory: int = MEMORY) -> AsyncIterator[Room]:
    registry = CollectorRegistry()
    metrics = AuditMetrics(registry)
    with open_disk(folder, size) as disk:
        trail = Trail(metrics, relay_id="r1", memory=memory, spool=disk.shares)
        spool = Spool(trail, disk, metrics)
        async with beside(spool.run(), name="spool"):
            yield Room(trail, spool, disk, registry)


@asynccontextmanager
async def sending(spool: Spool, fake: FakeController) -> AsyncIterator[Sender]:
    async with fake.line() as controller:
        sender = Sender(spool, controller)
        async with beside(sender.run(), name="sender"):
            yield sender


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def on_disk(folder: Path) -> list[str]:
    """The targets of the events in the files."""
    records = [record for path in segments(folder) for record in decode(path.read_bytes())[0]]
    return [record.decoded().target for record in records]


def targets(fake: FakeController) -> list[str]:
    return [event.target for event in fake.stored.values()]


async def test_what_happened_is_in_a_file_and_not_in_memory(tmp_path: Path) -> None:
    async with room(tmp_path) as relay:
        relay.open(1, 2)
        await relay.written()
        assert on_disk(tmp_path) == ["s1", "s2"]
        relay.open(3)
        await relay.written()
        assert on_disk(tmp_path) == ["s1", "s2", "s3"]
        assert len(segments(tmp_path)) == 1
        assert relay.spool.waiting == 3
        assert relay.metric("outrelay_audit_queue_events") == 0
        assert relay.metric("outrelay_audit_spool_events") == 3


async def test_what_is_stored_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    async with fake_controller(tmp_path) as fake, room(folder) as relay:
        async with sending(relay.spool, fake):
            relay.open(1, 2)
            await fake.calls.number("RecordBatch", 1)
            relay.open(3)
            await relay.written()
            await relay.spool.wait_empty()
            assert targets(fake) == ["s1", "s2", "s3"]
            assert segments(folder) == []
            assert relay.spool.waiting == 0
            assert relay.metric("outrelay_audit_spool_events") == 0
            assert relay.metric("outrelay_audit_events_sent_total") == 3
        assert relay.disk.shares.tenants == 0


async def test_a_file_holds_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail_module, "BATCH", 4)
    monkeypatch.setattr(spool_module, "BATCH", 4)
    async with fake_controller(tmp_path) as fake, room(tmp_path / "spool") as relay:
        relay.open(*range(10))
        await relay.written()
        assert len(segments(tmp_path / "spool")) == 3
        async with sending(relay.spool, fake):
            await relay.spool.wait_empty()
        assert targets(fake) == [f"s{number}" for number in range(10)]
        assert len(fake.calls.made) == 3


async def test_events_that_come_while_others_are_sent_get_another_file(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    async with fake_controller(tmp_path) as fake, room(folder) as relay:
        fake.failures["RecordBatch"] = grpc.StatusCode.UNAVAILABLE
        async with sending(relay.spool, fake):
            relay.open(1)
            await fake.calls.number("RecordBatch", 2)
            relay.open(2)
            await relay.written()
            assert on_disk(folder) == ["s1", "s2"]
            assert len(segments(folder)) == 2
            fake.failures.clear()
            await relay.spool.wait_empty()
        assert targets(fake) == ["s1", "s2"]


class TestEarlierRun:
    async def test_what_it_left_is_sent_first_and_keeps_its_ids(self, tmp_path: Path) -> None:
        folder = tmp_path / "spool"
        async with fake_controller(tmp_path) as fake:
            fake.loses_answers = True
            async with room(folder) as earlier:
                earlier.open(1, 2)
                await earlier.written()
                async with sending(earlier.spool, fake):
                    await fake.calls.number("RecordBatch", 1)  # stored, and not known to be
            assert on_disk(folder) == ["s1", "s2"]
            async with room(folder) as relay:
                assert relay.spool.waiting == 2
                assert relay.metric("outrelay_audit_spool_events") == 2
                relay.open(3)
                async with sending(relay.spool, fake):
                    await relay.written()
                    await relay.spool.wait_empty()
            assert targets(fake) == ["s1", "s2", "s3"]
            assert segments(folder) == []

    async def test_what_it_left_counts_for_its_tenant(self, tmp_path: Path) -> None:
        async with room(tmp_path) as earlier:
            earlier.open(*range(100))
            await earlier.written()
            size = sum(path.stat().st_size for path in segments(tmp_path))
        async with room(tmp_path, size=size + 1000) as relay:
            assert not relay.trail.has_room("acme")
            assert relay.trail.has_room("other")

    async def test_a_torn_end_costs_what_was_torn(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "spool"
        async with room(folder) as earlier:
            earlier.open(1, 2, 3)
            await earlier.written()
        (path,) = segments(folder)
        path.write_bytes(path.read_bytes()[:-5])
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            async with sending(relay.spool, fake):
                await relay.spool.wait_empty()
            assert targets(fake) == ["s1", "s2"]
            assert list(folder.iterdir()) == [folder / "lock"]
        assert caplog.text.count("ends in the middle of a record") == 1

    async def test_a_damaged_file_is_set_aside_and_the_good_in_it_sent(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "spool"
        folder.mkdir()
        event = audit.AuditEvent(tenant="acme", target="good", event_id="1")
        good = MAGIC + encode([Record.of(event)])
        (folder / f"{1:016x}{SUFFIX}").write_bytes(good + b"no record at all")
        (folder / f"{2:016x}{SUFFIX}").write_bytes(b"no record in there")
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            relay.open(3)
            async with sending(relay.spool, fake):
                await relay.written()
                await relay.spool.wait_empty()
            assert targets(fake) == ["good", "s3"]
            assert relay.spool.waiting == 0
        assert len(list(folder.glob(f"*{DAMAGED}"))) == 2
        assert "holds something that is no record" in caplog.text

    async def test_a_file_nobody_can_read_holds_up_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "spool"
        (folder / f"{1:016x}{SUFFIX}").mkdir(parents=True)
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            relay.open(1)
            async with sending(relay.spool, fake):
                await relay.written()
                await relay.spool.wait_empty()
            assert targets(fake) == ["s1"]
        assert "audit spool file cannot be read" in caplog.text


class TestDisk:
    """A disk that fails while the relay runs."""

    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Whether the disk is: its one element."""
        pwrite, full = os.pwrite, [True]

        def write(descriptor: int, data: bytes, at: int) -> int:
            if full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(descriptor, data, at)

        monkeypatch.setattr(os, "pwrite", write)
        return full

    async def test_a_full_one_is_bridged_by_memory_within_the_tenants_shares(
        self, tmp_path: Path, full: list[bool], caplog: pytest.LogCaptureFixture
    ) -> None:
        async with room(tmp_path, memory=10_000) as relay:
            opened = 0
            while relay.trail.has_room("acme"):
                opened += 1
                relay.open(opened)
                await asyncio.sleep(0)
            assert relay.trail.has_room("other")
            await logged(caplog, "audit spool cannot be written")
            full[0] = False
            await relay.written()
            assert on_disk(tmp_path) == [f"s{number + 1}" for number in range(opened)]
            assert relay.trail.has_room("acme")
            await logged(caplog, "audit spool is written again")
        assert caplog.text.count("audit spool cannot be written") == 1

    async def test_a_full_one_keeps_nothing_from_the_controller(
        self, tmp_path: Path, full: list[bool]
    ) -> None:
        folder = tmp_path / "spool"
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            async with sending(relay.spool, fake) as sender:
                relay.open(1)
                await relay.written()
                relay.open(2)
                assert await sender.settle()
            assert targets(fake) == ["s1", "s2"]
            assert relay.metric("outrelay_audit_events_sent_total") == 2
        assert segments(folder) == []  # there are while a try to write one is under way

    async def test_what_was_written_while_it_was_sent_from_memory_is_stored_once(
        self, tmp_path: Path, full: list[bool]
    ) -> None:
        folder = tmp_path / "spool"
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            relay.open(1)
            records = await relay.spool.next()
            full[0] = False
            await relay.written()
            await relay.spool.stored(records)
            async with sending(relay.spool, fake):
                await relay.spool.wait_empty()
            assert targets(fake) == ["s1"]
            assert relay.spool.waiting == 0
            assert relay.disk.shares.tenants == 0

    async def test_a_file_that_vanishes_holds_up_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "spool"
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            relay.open(1, 2)
            await relay.written()
            segments(folder)[0].unlink()
            async with sending(relay.spool, fake):
                await relay.spool.wait_empty()
                relay.open(3)
                await relay.written()
                await relay.spool.wait_empty()
            assert targets(fake) == ["s3"]
            assert relay.spool.waiting == 0
            assert relay.disk.shares.tenants == 0
        assert "audit spool file cannot be removed" in caplog.text


class TestSettling:
    async def test_with_the_controller_away_the_files_are_enough(self, tmp_path: Path) -> None:
        folder = tmp_path / "spool"
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            fake.failures["RecordBatch"] = grpc.StatusCode.UNAVAILABLE
            async with sending(relay.spool, fake) as sender:
                relay.open(1)
                relay.trail.rejected(Call(tenant="acme", caller="a", service="s2"), "403 no")
                assert not await sender.settle()
            assert sorted(on_disk(folder)) == ["s1", "s2"]
            assert sender.waiting == 2

    async def test_a_controller_that_answers_gets_everything(self, tmp_path: Path) -> None:
        folder = tmp_path / "spool"
        async with fake_controller(tmp_path) as fake, room(folder) as relay:
            async with sending(relay.spool, fake) as sender:
                relay.open(1)
                assert await sender.settle()
            assert targets(fake) == ["s1"]
            assert segments(folder) == []


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await until(lambda: text in caplog.text)
