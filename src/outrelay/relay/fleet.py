"""The relay's answers to operators: what it carries and who is there, and what it is told to do.

The relay attaches to its controller and answers commands on that call, from memory; a list
goes out in parts. A controller of another implementation does not know the call.

Source: api/control/v1/fleet.proto.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

from outrelay.lib.control.v1 import fleet_pb2 as fleet
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.relay.controller import Answers, Services
from outrelay.relay.inventory import Inventory
from outrelay.relay.lag import FLEET
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.revoke import Revoker

PART = 256
"""Streams, or agents, in one report."""

MOST = 1000
"""Streams, or agents, listed for who names no limit."""

RELAYED = "relayed"
"""How every stream passes that a relay knows of."""

PENDING = 64
"""Answers under way; a controller that takes none is not asked to wait for more."""

Leave = Callable[[str], registry.DrainRelayResponse]
"""Lets the relay drain, for a reason, and says what that means; more than once is no harm."""

_Row = TypeVar("_Row")
_Answers: TypeAlias = "asyncio.Queue[Iterator[fleet.RelayReport] | None]"
"""What is to be reported; None: no more, the call has ended."""


def _end(answers: _Answers) -> None:
    while not answers.empty():
        answers.get_nowait()
    answers.put_nowait(None)


class FleetWatch:
    """A ``Watch`` of the controller's commands.

    Args:
        relay_id: Who we are.
        pairs: The streams.
        revoker: Ends one, and has it recorded.
        inventory: Who is connected.
        leave: Lets the relay drain.
    """

    name = "fleet"
    kind = FLEET

    def __init__(
        self, relay_id: str, pairs: Pairs, revoker: Revoker, inventory: Inventory, leave: Leave
    ) -> None:
        self._relay_id = relay_id
        self._pairs = pairs
        self._revoker = revoker
        self._inventory = inventory
        self._leave = leave
        self._answers: _Answers = asyncio.Queue(PENDING)

    def open(self, services: Services) -> Answers[fleet.RelayCommand]:
        """See ``Watch``."""
        answers: _Answers = asyncio.Queue(PENDING)
        self._answers = answers
        call = services.fleet.Attach(self._reports(answers))
        # gRPC goes on waiting for reports on a call that has ended.
        call.add_done_callback(lambda _: _end(answers))
        return call

    def begun(self, *, extended: bool) -> None:
        """See ``Watch``."""

    def refused(self) -> None:
        """See ``Watch``."""

    def take(self, command: fleet.RelayCommand) -> None:
        """See ``Watch``."""
        match command.WhichOneof("command"):
            case "list":
                answer = self._list(command.request_id, command.list)
            case "kill":
                answer = self._kill(command.request_id, command.kill)
            case "agents":
                answer = self._agents(command.request_id, command.agents)
            case "status":
                answer = self._status(command.request_id, command.status)
            case "drain":
                answer = self._drain(command.request_id, command.drain)
            case _:
                return
        if not self._answers.full():
            self._answers.put_nowait(answer)

    def lost(self) -> None:
        """See ``Watch``."""

    async def _reports(self, answers: _Answers) -> AsyncIterator[fleet.RelayReport]:
        yield fleet.RelayReport(relay_id=self._relay_id)
        while (reports := await answers.get()) is not None:
            for report in reports:
                yield report

    def _list(
        self, request_id: int, request: fleet.ListStreamsRequest
    ) -> Iterator[fleet.RelayReport]:
        streams = [self._info(pair) for pair in self._of(request.tenant) if pair.splice]
        for part in _parts(streams[: request.limit or MOST]):
            yield fleet.RelayReport(request_id=request_id, streams=part)
        yield fleet.RelayReport(request_id=request_id, last=True)

    def _agents(
        self, request_id: int, request: registry.ListAgentsRequest
    ) -> Iterator[fleet.RelayReport]:
        for part in _parts([*self._inventory.agents(request.tenant, request.limit or MOST)]):
            yield fleet.RelayReport(request_id=request_id, agents=part)
        yield fleet.RelayReport(request_id=request_id, last=True)

    def _status(self, request_id: int, request: fleet.StatusRequest) -> Iterator[fleet.RelayReport]:
        status = self._inventory.status(request.tenant)
        yield fleet.RelayReport(request_id=request_id, status=status, last=True)

    def _drain(
        self, request_id: int, request: registry.DrainRelayRequest
    ) -> Iterator[fleet.RelayReport]:
        draining = self._leave(request.reason)
        yield fleet.RelayReport(request_id=request_id, draining=draining, last=True)

    def _kill(
        self, request_id: int, request: fleet.KillStreamRequest
    ) -> Iterator[fleet.RelayReport]:
        named = [
            pair
            for pair in self._of(request.tenant)
            if pair.call.stream_name == request.stream_id and not pair.revoked
        ]
        for pair in named:
            self._revoker.end(pair, request.reason or "ended by an operator")
        yield fleet.RelayReport(request_id=request_id, killed=len(named), last=True)

    def _of(self, tenant: str) -> list[Pair]:
        return [pair for pair in self._pairs if not tenant or pair.call.tenant == tenant]

    def _info(self, pair: Pair) -> fleet.StreamInfo:
        assert pair.splice is not None
        return fleet.StreamInfo(
            stream_id=pair.call.stream_name,
            tenant=pair.call.tenant,
            caller=pair.call.caller,
            provider=pair.provider.uri,
            service=pair.call.service,
            method=pair.call.method,
            relay_id=self._relay_id,
            opened_unix_ms=pair.opened_ms,
            bytes_up=pair.splice.up.bytes,
            bytes_down=pair.splice.down.bytes,
            path=RELAYED,
        )


def _parts(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    return (rows[start : start + PART] for start in range(0, len(rows), PART))
