"""A Prometheus scrapes a world as deployments/ says: dashboard and alerts tell what is the case."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrelay.lib.values import Address, address_text
from tests.deployments.test_observability import FOLDER, PANELS, plain
from tests.integration.peers import unused_port
from tests.integration.world import World, outrelay_world
from tests.support.patience import PATIENCE
from tests.support.processes import Program

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus (Debian) is not installed"
    ),
]

OFTEN = "200ms"
READY = b"ready to receive web requests"
Series = dict[str, float]


class Prometheus:
    """One that runs; made by ``prometheus``."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def query(self, query: str, by: str = "instance") -> Series:
        """The series of a query now, by one of their labels.

        Raises:
            OSError: It takes no such query.
        """
        data = await self._get(f"query?{urllib.parse.urlencode({'query': query})}")
        return {each["metric"].get(by, ""): float(each["value"][1]) for each in data["result"]}

    async def alerts(self) -> set[str]:
        """The alerts that fire, or will when it stays like this."""
        return {each["labels"]["alertname"] for each in (await self._get("alerts"))["alerts"]}

    async def _get(self, path: str) -> Any:
        url = f"http://{address_text(self._address)}/api/v1/{path}"
        return json.loads(await asyncio.to_thread(_read, url))["data"]


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        data: bytes = answer.read()
    return data


async def comes(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once a condition holds; Prometheus tells nobody when it has looked."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            pass


@asynccontextmanager
async def prometheus(folder: Path, jobs: dict[str, list[Program]]) -> AsyncIterator[Prometheus]:
    """A Prometheus with our configuration, but for the addresses; it has scraped once."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": OFTEN, "evaluation_interval": OFTEN}
    config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
    for each in config["scrape_configs"]:
        programs = jobs[each["job_name"]]
        at = [address_text(await program.listening(service="debug")) for program in programs]
        each["static_configs"] = [{"targets": at}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = unused_port()
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address_text(address)}",
        stderr=asyncio.subprocess.PIPE,
    )
    here = Prometheus(address)

    async def has_scraped() -> bool:
        return len(await here.query("up == 1")) == sum(map(len, jobs.values()))

    try:
        await is_ready(process)
        await comes(has_scraped)
        yield here
    finally:
        process.terminate()
        await process.communicate()


async def is_ready(process: asyncio.subprocess.Process) -> None:
    """Return once it says that it serves; it says little after that."""
    assert process.stderr
    async with asyncio.timeout(PATIENCE):
        while READY not in (line := await process.stderr.readline()):
            assert line, "prometheus has ended"


def jobs_of(world: World) -> dict[str, list[Program]]:
    return {
        "outrelay-controller": [world.controller],
        "outrelay-relay": [world.relay],
        "outrelay-agent": [world.provider, world.consumer],
    }


async def test_dashboard_and_alerts_tell_what_is_the_case(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    async with (
        outrelay_world(tmp_path / "world") as world,
        prometheus(tmp_path, jobs_of(world)) as watching,
    ):
        for panel in PANELS:
            for target in panel["targets"]:
                await watching.query(plain(target["expr"]))
        assert await shown(watching, "Relays up") == 1
        assert await shown(watching, "Controllers up") == 1
        assert await shown(watching, "Agents connected") == 2
        assert await shown(watching, "Not ready") == 0
        assert 0 < await shown(watching, "Next certificate ends") < 86400
        # Nothing but that the certificates of a test are short.
        short = {"OutRelayCertificateEnds", "OutRelayCertificateEndsToday"}

        async def judged() -> bool:
            return short <= await watching.alerts()

        await comes(judged)
        assert await watching.alerts() == short

        await world.relay.stop()

        async def told() -> bool:
            return {"OutRelayRelayDown", "OutRelayNotReady"} <= await watching.alerts()

        await comes(told)
        unready = await watching.query("outrelay_ready == 0", by="job")
        assert set(unready) == {"outrelay-agent"}


async def shown(watching: Prometheus, title: str) -> float:
    """What a panel of one number shows."""
    (panel,) = (panel for panel in PANELS if panel["title"] == title)
    (target,) = panel["targets"]
    (value,) = (await watching.query(plain(target["expr"]))).values()
    return value
