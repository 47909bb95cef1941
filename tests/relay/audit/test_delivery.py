"""The audit room as a whole, with a spool and without."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.lib.tasks import beside
from outrelay.relay.audit.delivery import Delivery
from outrelay.relay.audit.disk import Disk, open_disk
from outrelay.relay.call import Call
from outrelay.relay.options import Overflow
from tests.relay.fake_controller import fake_controller

CALL = Call(tenant="acme", caller="a", service="db", stream_id=1)


@pytest.mark.parametrize("spool", [False, True])
async def test_what_is_recorded_is_delivered(tmp_path: Path, spool: bool) -> None:
    opened: AbstractContextManager[Disk | None]
    opened = open_disk(tmp_path / "spool", 1 << 20) if spool else nullcontext()
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        with opened as disk:
            metrics = AuditMetrics(CollectorRegistry())
            delivery = Delivery(
                controller, metrics, relay_id="r1", overflow=Overflow.DENY, disk=disk
            )
            async with beside(delivery.run(), name="audit"):
                delivery.trail.opened(CALL, "provider", "allowed")
                delivery.trail.rejected(CALL, "403 no")
                assert delivery.waiting == 2
                assert await delivery.settle()
            assert delivery.waiting == 0
    assert sorted(event.event for event in fake.stored.values()) == ["open", "reject"]
