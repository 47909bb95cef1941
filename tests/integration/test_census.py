"""The same traffic with all of OutRelay in one loop, where its insides can be counted.

The programs' own ``run`` functions run here as tasks, on real sockets; what they log tells
where they listen. After traffic there are the tasks, the objects and the entries of tables that
there were before.
"""

from __future__ import annotations

import asyncio
import gc
import time
from asyncio import TaskGroup
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sized
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from outrelay.agent import app as agent
from outrelay.agent.options import AgentOptions, Consume, Expose
from outrelay.agent.resume import finished
from outrelay.controller import app as controller
from outrelay.controller.options import ControllerOptions
from outrelay.lib.values import Address, address_text, parse_address
from outrelay.relay import app as relay
from outrelay.relay.options import RelayOptions
from tests.integration.peers import Backend, unused_port
from tests.integration.traffic import Traffic, obedient
from tests.integration.world import ALLOWED, APP, CONSUMED, DEAD, SECRET, Carriers, write_pki
from tests.support.events import Events, events
from tests.support.patience import PATIENCE
from tests.support.processes import run

ANY = ("127.0.0.1", 0)

LINGERING = 10
"""How many more of a kind there may be than before: the last streams' own, in a traceback or on
their way to the controller, however many there were before them."""

REMEMBERED = 1
"""Streams that each agent remembers to have ended; as many as that are left on purpose."""

Census = Counter[str]
"""How many there are of what: tasks by name, objects by class, entries by table."""


async def test_nothing_is_left_of_streams_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carriers: Carriers
) -> None:
    monkeypatch.setattr(finished, "MOST", REMEMBERED)
    with events() as seen:
        async with (
            Backend.start() as backend,
            all_in_one(tmp_path, backend.address, seen, carriers) as at,
            backend.serving(obedient),
        ):
            before, traffic = census(), Traffic(at)
            await traffic.run(400)
            more = await surplus(before, traffic)
    assert not {what: count for what, count in more.items() if count > LINGERING}, more


async def surplus(before: Census, traffic: Traffic) -> Census:
    """What there is more of than before, once that is little or stays for very long.

    A single stream is the last one each time: what is kept of the last is kept of that. It and
    those before it have longer and longer to be over.
    """
    deadline, pause = time.monotonic() + PATIENCE, 0.1
    while True:
        await traffic.run(1)
        await asyncio.sleep(pause)  # no event tells that nothing is on its way
        pause = min(2 * pause, 2.0)
        more = census() - before
        if max(more.values(), default=0) <= LINGERING or time.monotonic() > deadline:
            return more


def census() -> Census:
    """Count everything that is OutRelay's, or aioquic's for it."""
    gc.collect()
    found: Census = Counter(f"task {_name(each)}" for each in asyncio.all_tasks())
    for each in gc.get_objects():
        kind = type(each)
        package = str(kind.__module__).partition(".")[0]
        if package in {"outrelay", "aioquic"}:
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
        if package == "outrelay":
            for name, table in _tables(each):
                found[f"{kind.__module__}.{kind.__qualname__}.{name}"] += len(table)
    return found


def _name(task: asyncio.Task[object]) -> str:
    """Its name, one for all that libraries do not name."""
    return task.get_name().rstrip("0123456789")


def _tables(owner: object) -> Iterator[tuple[str, Sized]]:
    """The containers an object has, by the names of its attributes."""
    slots = (name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ()))
    for name in {*slots, *getattr(owner, "__dict__", ())}:
        value = getattr(owner, name, None)
        if isinstance(value, dict | set | list | deque):
            yield name, value


# ---- OutRelay in one loop --------------------------------------------------------------------


class Files(NamedTuple):
    """Where somebody's credentials are."""

    cert: Path
    key: Path
    ca: Path

    @classmethod
    def of(cls, name: str, pki: Path) -> Self:
        """Those of a holder, as dev-pki names it."""
        return cls(pki / f"{name}.pem", pki / f"{name}.key", pki / "ca.pem")


@asynccontextmanager
async def all_in_one(
    directory: Path, app: Address, seen: Events, carriers: Carriers
) -> AsyncIterator[dict[str, Address]]:
    """Controller, relay and two agents; where the consumer listens, by service.

    Args:
        directory: An empty one.
        app: The backend's address.
        seen: What they log.
        carriers: What the agents speak to the relay.
    """
    pki = directory / "pki"
    write_pki(pki)
    stop = asyncio.Event()
    async with TaskGroup() as group:
        options = controller_options(directory, pki)
        group.create_task(controller.run(options, stop), name="controller")
        at_controller = await _listening(seen, "listener", "tls")
        await _allow(at_controller, pki)
        group.create_task(relay.run(relay_options(at_controller, pki), stop), name="relay")
        await seen.wait("policy loaded")
        doors = {
            each: await _listening(seen, "carrier", each)
            for each in {carriers.consumer, carriers.provider}
        }
        for each in agents_options(doors, carriers, app, pki):
            group.create_task(agent.run(each, stop), name="agent")
        await seen.wait("ready", count=4)
        yield {name: await _listening(seen, "service", name) for name in CONSUMED}
        stop.set()


def controller_options(directory: Path, pki: Path) -> ControllerOptions:
    """Of a controller whose database is in ``directory``."""
    cert, key, ca = Files.of("controller", pki)
    return ControllerOptions(listen=ANY, db=str(directory / "db"), cert=cert, key=key, ca=ca)


def relay_options(at_controller: Address, pki: Path) -> RelayOptions:
    """Of a relay."""
    cert, key, ca = Files.of("relay", pki)
    controllers = (address_text(at_controller),)
    return RelayOptions(
        listen=ANY, listen_tcp=ANY, controllers=controllers, cert=cert, key=key, ca=ca
    )


def agents_options(
    doors: Mapping[str, Address], carriers: Carriers, app: Address, pki: Path
) -> Iterator[AgentOptions]:
    """Of the provider, and of the consumer."""
    targets = {APP: app, SECRET: app, DEAD: unused_port()}
    cert, key, ca = Files.of("agent-b", pki)
    expose = tuple(Expose(service=name, target=to) for name, to in targets.items())
    relays, relays_tcp = _relays(carriers.provider, doors)
    yield AgentOptions(
        relays=relays, relays_tcp=relays_tcp, cert=cert, key=key, ca=ca, expose=expose
    )
    cert, key, ca = Files.of("agent-a", pki)
    consume = tuple(Consume(service=name, bind=ANY) for name in CONSUMED)
    relays, relays_tcp = _relays(carriers.consumer, doors)
    yield AgentOptions(
        relays=relays, relays_tcp=relays_tcp, cert=cert, key=key, ca=ca, consume=consume
    )


def _relays(
    carrier: str, doors: Mapping[str, Address]
) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """What an agent is told that speaks one carrier: relays over QUIC, and over TCP."""
    at = (doors[carrier],)
    return ((), at) if carrier == "tcp" else (at, ())


async def _listening(seen: Events, field: str, value: str) -> Address:
    """What the line says that announces a listener."""
    while not (lines := seen.of("listening", **{field: value})):
        await seen.wait("listening", count=1 + len(seen.of("listening")))
    (line,) = lines
    return parse_address(str(line["address"]))


async def _allow(at_controller: Address, pki: Path) -> None:
    """Let everybody call what the world's agents may."""
    cert, key, ca = Files.of("operator", pki)
    done = await run(
        "outrelay-cli",
        *("policy", "add", "--caller", "*", "--target", ALLOWED, "--decision", "allow"),
        *("--controller", address_text(at_controller)),
        *("--cert", cert, "--key", key, "--ca", ca),
    )
    assert done.code == 0, done
