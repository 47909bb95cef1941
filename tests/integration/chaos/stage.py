"""The worlds in which faults happen, and how each of them is done.

Words: a *stage* is a controller, one or two relays and two agents, with traffic through them.
Where there is one relay, each agent reaches it by *paths* of its own, one for each carrier it
speaks, which can fail; where there are two, agents reach both directly, so that they are told
by the system when a process is gone.

Invariant: after ``play`` everything is repaired and every flow is over, or the stage has told
which one is not.
"""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from outrelay.lib.identity.uri import Identity
from outrelay.lib.values import Address, address_text
from tests.integration.chaos.flows import Traffic
from tests.integration.chaos.schedule import Fault, Kind
from tests.integration.peers import Backend, unused_port
from tests.integration.world import ALLOWED, APP, CONSUMER, PROVIDER, World, write_pki
from tests.support.impair import UdpProxy
from tests.support.processes import ENGINE, Program, Programs
from tests.support.tcp_path import TcpPath

STALLED = 75.0
"""Seconds within which every stream must have moved again, once nothing fails any more: two
resume windows, and some for a busy machine."""

NOWHERE = "127.0.0.1:9"
"""What a relay advertises that is to be found by the agents' paths alone."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a stage looks like.

    Args:
        relays: How many: 1, with paths, or 2, without.
        consumer: Carriers it speaks, the better one first.
        provider: The same.
        engine: What builds the packets of QUIC.
    """

    relays: int
    consumer: Sequence[str]
    provider: Sequence[str]
    engine: str = ENGINE

    @property
    def paths(self) -> list[str]:
        """Those that can fail: ``agent-a quic``."""
        sides = ((CONSUMER, self.consumer), (PROVIDER, self.provider))
        return [f"{who} {each}" for who, carriers in sides for each in carriers if self.relays == 1]

    @property
    def names(self) -> list[str]:
        """Its relays'."""
        return [f"relay-{number}" for number in range(1, self.relays + 1)]


SETTINGS = {
    "one-quic": Setting(1, ["quic"], ["quic"]),
    "one-tcp": Setting(1, ["tcp"], ["tcp"]),
    "one-both": Setting(1, ["quic", "tcp"], ["quic", "tcp"]),
    "two-quic": Setting(2, ["quic"], ["quic"]),
    "two-tcp": Setting(2, ["tcp"], ["tcp"]),
    "two-mixed": Setting(2, ["tcp"], ["quic"]),
    "one-native": Setting(1, ["quic"], ["quic"], "native"),
    "two-native": Setting(2, ["quic"], ["quic"], "native"),
}


@dataclass(frozen=True, slots=True)
class _Doors:
    """Where a relay listens, now and whenever it is started again."""

    quic: Address = field(default_factory=unused_port)
    tcp: Address = field(default_factory=unused_port)

    def __getitem__(self, carrier: str) -> Address:
        return self.quic if carrier == "quic" else self.tcp


class StuckError(Exception):
    """A stream did not do within its time what it has to."""


class Stage:
    """One of the settings, built up; ``stage`` makes it.

    Args:
        setting: Which one.
        world: What there is besides relays and agents.
    """

    def __init__(self, setting: Setting, world: World) -> None:
        self.setting = setting
        self.world = world
        self.agents: dict[str, Program] = {}
        self.done: list[str] = []
        """The faults so far."""
        self._doors = {name: _Doors() for name in setting.names}
        self._relays: dict[str, Program] = {}
        self._paths: dict[str, UdpProxy | TcpPath] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def build(self, stack: AsyncExitStack) -> None:
        """Start everything; what is no process ends with ``stack``."""
        for name in self.setting.names:
            self.world.issue(Identity.parse(f"outrelay://local/relay/{name}"), name=name)
        for name in self.setting.paths:
            carrier = name.split()[1]
            door = self._doors["relay-1"][carrier]
            kind = UdpProxy if carrier == "quic" else TcpPath
            self._paths[name] = await stack.enter_async_context(kind(door))
        for name in self.setting.names:  # the agents meet at the first one
            await self._start_relay(name)
            if not self.agents:
                await self._start_agents()

    async def play(self, faults: Iterable[Fault], traffic: Traffic) -> None:
        """Have traffic, and the faults in it.

        Raises:
            StuckError: A stream did not go on, or did not end.
        """
        serving = self.world.backend.serving(traffic.serve, STALLED)
        async with serving, TaskGroup() as group:
            flowing = group.create_task(traffic.run(), name="traffic")
            repairs: list[asyncio.Task[None]] = []
            for number, fault in enumerate(faults):
                if fault.settled or number == 0:
                    await self._settle(repairs, traffic)
                await asyncio.sleep(fault.after)
                repairs.append(group.create_task(self._commit(fault), name=str(fault)))
                self.done.append(f"{_clock()} {fault}")
            await self._settle(repairs, traffic)
            traffic.end()
            await self._within(flowing, traffic, "did not end")

    async def _settle(self, repairs: Iterable[asyncio.Task[None]], traffic: Traffic) -> None:
        """Return when everything is repaired, and every stream has moved since then."""
        await asyncio.gather(*repairs)
        await self._within(traffic.moved(), traffic, "did not go on")

    async def _within(self, wait: Awaitable[None], traffic: Traffic, what: str) -> None:
        try:
            async with asyncio.timeout(STALLED):
                await wait
        except TimeoutError:
            flows = (
                f"{_clock()} {what} within {STALLED:g} s: {each}" for each in traffic.give_up()
            )
            raise StuckError("\n".join(flows)) from None

    # ---- faults --------------------------------------------------------------------------

    async def _commit(self, fault: Fault) -> None:
        """Let it happen, and repair it; no two happen to one target at a time."""
        names = self.setting.names if fault.kind is Kind.GONE else [fault.target]
        async with AsyncExitStack() as stack:
            for name in names:
                await stack.enter_async_context(self._locks[name])
            match fault.kind:
                case Kind.KILL | Kind.LOSE | Kind.GONE:
                    await asyncio.gather(*(self._relays[name].stop(SIGKILL) for name in names))
                    await asyncio.sleep(fault.lasts)
                    await asyncio.gather(*map(self._start_relay, names))
                case Kind.FREEZE:
                    self._relays[fault.target].send_signal(SIGSTOP)
                    await asyncio.sleep(fault.lasts)
                    self._relays[fault.target].send_signal(SIGCONT)
                case _:
                    await self._fail(self._paths[fault.target], fault)

    async def _fail(self, path: UdpProxy | TcpPath, fault: Fault) -> None:
        match fault.kind:
            case Kind.SEVER:
                path.sever()
            case Kind.MOVE:
                path.move()
            case Kind.MUTE:
                path.mute(up="up" in fault.detail, down="down" in fault.detail)
                await asyncio.sleep(fault.lasts)
                path.mute()

    # ---- programs ------------------------------------------------------------------------

    async def _start_relay(self, name: str) -> None:
        doors = self._doors[name]
        hidden = ("--advertise", NOWHERE, "--advertise-tcp", NOWHERE) if self._paths else ()
        relay = self._relays[name] = await self.world.programs.start(
            "outrelay-relay",
            *("--listen", address_text(doors.quic), "--listen-tcp", address_text(doors.tcp)),
            *("--controller", await self.world.controller_address()),
            *self.world.credentials(name),
            *hidden,
        )
        await relay.event("ready", timeout=STALLED)
        await relay.event("policy loaded", timeout=STALLED)

    async def _start_agents(self) -> None:
        backend = address_text(self.world.backend.address)
        work = {PROVIDER: f"--expose={APP}={backend}", CONSUMER: f"--consume={APP}@127.0.0.1:0"}
        for who, what in work.items():
            carriers = self.setting.consumer if who == CONSUMER else self.setting.provider
            self.agents[who] = await self.world.programs.start(
                "outrelay-agent",
                *(flag for each in carriers for flag in self._way(who, each)),
                *self.world.credentials(who),
                what,
            )
            await self.agents[who].event("ready", timeout=STALLED)
        self.world.at[APP] = await self.agents[CONSUMER].listening()

    def _way(self, who: str, carrier: str) -> list[str]:
        """Where an agent finds its relays."""
        if path := self._paths.get(f"{who} {carrier}"):
            addresses = [path.address]
        else:
            addresses = [doors[carrier] for doors in self._doors.values()]
        flag = "--relay" if carrier == "quic" else "--relay-tcp"
        return [flag, ",".join(map(address_text, addresses))]


@asynccontextmanager
async def stage(setting: Setting, directory: Path) -> AsyncIterator[Stage]:
    """A stage that is built up, gone after the ``with``; its logs stay in ``directory``."""
    write_pki(directory / "pki")
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(Backend.start())
        programs = await stack.enter_async_context(Programs(setting.engine))
        world = World(programs=programs, directory=directory, backend=backend, web=("", 0))
        await world.start_controller()
        await world.allow(ALLOWED)
        made = Stage(setting, world)
        await made.build(stack)
        try:
            yield made
        finally:
            for program in programs.all:
                log = directory / f"{program.name}-{program.pid}.log"
                log.write_text("\n".join(program.lines))


def _clock() -> str:
    """The time, as logs have it."""
    return f"{datetime.now(UTC).timestamp() * 1000:.0f}"
