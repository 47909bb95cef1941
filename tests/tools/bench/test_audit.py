"""All events that are counted are in the trail."""

from __future__ import annotations

import json
from pathlib import Path

from outrelay.tools.bench import audit
from outrelay.tools.deployment import TENANT, Deployment


def test_what_is_counted_is_stored(tmp_path: Path) -> None:
    (directory := tmp_path / "deployment").mkdir()
    with Deployment(directory) as deployment:
        deployment.make_certificates()
        deployment.start_controller()
        found = audit.measure(directory / "pki", deployment.controller, tmp_path / "spool", 30)
        query = ("audit", "query", "--tenant", TENANT, "--limit", "0", "--output", "json")
        events = [json.loads(line) for line in deployment.cli(*query).splitlines()]
    assert len(events) == 60
    assert len(found.recorded) == 30
    assert min(found.per_second, found.spooled_per_second) > 0
