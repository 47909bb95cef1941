"""A relay that is attached and answers as it is told.

async with attached(stubs, "r1") as relay:
    relay.streams = [stream(1)]
    ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc.aio

from outrelay.lib.control.v1 import fleet_pb2 as pb
from outrelay.lib.control.v1 import registry_pb2
from outrelay.lib.tasks import beside
from tests.controller.live import AGENT_A, AGENT_B, Stubs

AttachCall = grpc.aio.StreamStreamCall[pb.RelayReport, pb.RelayCommand]


def stream(number: int, **more: object) -> pb.StreamInfo:
    fields: dict[str, object] = {
        "stream_id": f"{number:016x}",
        "tenant": "acme",
        "caller": AGENT_A,
        "provider": AGENT_B,
        "service": "db",
        "opened_unix_ms": 1000 * number,
    }
    return pb.StreamInfo(**{**fields, **more})  # type: ignore[arg-type]


def agent(uri: str = AGENT_A, **more: object) -> registry_pb2.AgentInfo:
    fields: dict[str, object] = {
        "agent_uri": uri,
        "tenant": uri.split("/")[2],
        "session_id": "5e55",
        "address": "192.0.2.7:4000",
        "carrier": "quic",
        "since_unix_ms": 1000,
    }
    return registry_pb2.AgentInfo(**{**fields, **more})  # type: ignore[arg-type]


@dataclass
class ScriptedRelay:
    """What it carries, what it was asked, and whether it answers."""

    name: str
    call: AttachCall
    streams: list[pb.StreamInfo] = field(default_factory=list)
    agents: list[registry_pb2.AgentInfo] = field(default_factory=list)
    status: pb.RelayStatus = field(default_factory=pb.RelayStatus)
    asked: list[pb.RelayCommand] = field(default_factory=list)
    answers: bool = True
    moved: int = 0
    """Bytes its first stream moves up, and half as many down, from one look to the next."""

    async def serve(self) -> None:
        """Answer every command until the call ends, however it ends."""
        with suppress(grpc.aio.AioRpcError):
            while isinstance(command := await self.call.read(), pb.RelayCommand):
                self.asked.append(command)
                if self.answers:
                    await self.answer(command)

    async def answer(self, command: pb.RelayCommand) -> None:
        """A stream or an agent a report, then the last one."""
        number = command.request_id
        last = pb.RelayReport(request_id=number, last=True)
        match command.WhichOneof("command"):
            case "list":
                for each in self.streams:
                    await self.call.write(pb.RelayReport(request_id=number, streams=[each]))
                self._move()
            case "agents":
                for one in self.agents:
                    await self.call.write(pb.RelayReport(request_id=number, agents=[one]))
            case "status":
                last.status.CopyFrom(self.status)
                last.status.agents = len(self._agents_of(command.status.tenant))
            case "drain":
                last.draining.streams = len(self.streams)
                last.draining.drain_ms = 10_000
            case _:
                wanted = command.kill.tenant, command.kill.stream_id
                left = [each for each in self.streams if (each.tenant, each.stream_id) != wanted]
                last.killed = len(self.streams) - len(left)
                self.streams = left
        await self.call.write(last)

    def _move(self) -> None:
        for first in self.streams[:1]:
            first.bytes_up += self.moved
            first.bytes_down += self.moved // 2

    def _agents_of(self, tenant: str) -> list[registry_pb2.AgentInfo]:
        return [each for each in self.agents if tenant in ("", each.tenant)]


async def attach(stubs: Stubs, name: str) -> AttachCall:
    """The call of a relay that is attached now."""
    call = stubs.fleet.Attach()
    await call.write(pb.RelayReport(relay_id=name))
    await call.initial_metadata()
    return call


@asynccontextmanager
async def attached(stubs: Stubs, name: str) -> AsyncIterator[ScriptedRelay]:
    relay = ScriptedRelay(name, await attach(stubs, name))
    async with beside(relay.serve(), name=f"relay {name}"):
        yield relay
        relay.call.cancel()
