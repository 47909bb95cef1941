"""Streams outlive whatever fails between the agents: a seeded schedule of faults, in worlds side
by side, and every byte compared.

    pytest -s tests/integration/test_faults.py --faults=300 --seed=17 --stage=two-tcp

shows what happens. Nothing in these schedules lasts as long as streams wait, so no stream may be
reset: what could be a reason for that has tests of its own (``test_resume``).
"""

from __future__ import annotations

import random
from asyncio import TaskGroup
from functools import partial
from pathlib import Path

import pytest

from tests.integration.chaos.flows import Traffic
from tests.integration.chaos.schedule import schedule
from tests.integration.chaos.stage import SETTINGS, StuckError, stage
from tests.integration.peers import calling
from tests.integration.world import APP
from tests.support.native import FAULT

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.soak, pytest.mark.timeout(0)]

SHARES = {1: 3, 2: 2}
"""Faults of stages with so many relays, beside each other: those with two take longer."""


async def test_every_byte_arrives_whatever_fails(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count, seed = request.config.getoption("--faults"), request.config.getoption("--seed")
    chosen = request.config.getoption("--stage").split(",")
    there = [name for name in SETTINGS if not (FAULT and SETTINGS[name].engine == "native")]
    names = [name for name in there if chosen == [""] or name in chosen]
    print(f"stages: {' '.join(names)}; without the native engine: {FAULT or 'no'}")
    whole = sum(SHARES[SETTINGS[name].relays] for name in names)
    shares = {name: -(-count * SHARES[SETTINGS[name].relays] // whole) for name in names}
    async with TaskGroup() as group:
        playing = [
            group.create_task(_play(name, f"{seed} {name}", share, tmp_path), name=name)
            for name, share in shares.items()
        ]
    wrong = [line for each in playing for line in each.result()]
    assert not wrong, "\n".join(wrong)


async def _play(name: str, seed: str, count: int, directory: Path) -> list[str]:
    """What went wrong in one stage."""
    setting = SETTINGS[name]
    faults = schedule(seed, count, setting.names, setting.paths)
    streams = random.Random(seed).randint(1, 20)
    here = directory / name
    here.mkdir()
    async with stage(setting, here) as made:
        traffic = Traffic(partial(calling, made.world.at[APP]), seed, streams)
        wrong = []
        try:
            await made.play(faults, traffic)
        except* StuckError as stuck:
            wrong = [str(each) for each in stuck.exceptions]
        wrong += traffic.damages
        wrong += [
            f"{program.name}: {line['event']}"
            for program in made.world.programs.all
            for line in program.events
            if line["level"] == "error"
        ]
    print(f"{name}: seed {seed!r}, {streams} streams at a time", *made.done, sep="\n  ")
    resumed = [each.seen("stream resumed") for each in made.agents.values()]
    if not all(resumed):
        wrong.append("no stream was resumed: nothing was tested")
    print(
        f"  {traffic.whole} whole, {traffic.refused} refused, {traffic.bytes} bytes,"
        f" resumed {' and '.join(str(len(each)) for each in resumed)} times"
    )
    return [f"{name}: {each}" for each in wrong]
