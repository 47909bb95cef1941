"""Engines that no network joins: a function carries their datagrams, as a forward plane does.

What differs from ``virtual_quic``: addresses mean nothing but which pipe it is, a pipe carries one
datagram at a time, and both protocols are spoken over it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.quic.engine import Engine, Event, EventKind
from outrelay.lib.transport.refusal import Cause
from tests.lib.transport.quic.engines import agent, relay

pytestmark = pytest.mark.usefixtures("each_engine")

FORWARD = "outrelay-fwd/1"
NEAR, FAR = ("2001:db8::1", 1), ("2001:db8::2", 2)
"""Made up: each end calls the other by its name for the pipe."""

MOST = 20_000
"""Turns within which whatever is waited for must have happened."""


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class Pipe:
    """Carries datagrams between two engines, each at once or not at all.

    Args:
        near: The one that dials.
        far: The one that is dialled.
        loses: Whether the datagram of that number, counted from 1, is lost.
    """

    def __init__(
        self, near: Engine, far: Engine, loses: Callable[[int], bool] = lambda _: False
    ) -> None:
        self.near, self.far = near, far
        self.now = 50.0
        self.carried = 0
        self.log: dict[Engine, list[Event]] = {near: [], far: []}
        self._loses = loses

    def dial(self) -> int:
        """A connection of the near end's that is being made."""
        roles = frozenset({Role.RELAY})
        return self.near.connect(FAR, roles=roles, server_name="localhost", now=self.now)

    def connected(self) -> tuple[int, int]:
        """A connection, by its numbers at both ends."""
        number = self.dial()
        before = len(self.seen(self.far, EventKind.CONNECTED))
        self.run(lambda: bool(self.seen(self.near, EventKind.CONNECTED, number)))
        self.run(lambda: len(self.seen(self.far, EventKind.CONNECTED)) > before)
        return number, self.seen(self.far, EventKind.CONNECTED)[-1].connection

    def seen(self, engine: Engine, kind: EventKind, connection: int | None = None) -> list[Event]:
        """What has happened of that kind at one end."""
        return [
            event
            for event in self.log[engine]
            if event.kind is kind and connection in (None, event.connection)
        ]

    def run(self, until: Callable[[], bool]) -> None:
        """Carry, and let time pass when there is nothing to carry, until something is so."""
        for _ in range(MOST):
            if until():
                return
            if not (self._carry(self.near, self.far, NEAR) | self._carry(self.far, self.near, FAR)):
                self._wait()
        raise AssertionError("it never was so")

    def _carry(self, source: Engine, target: Engine, name: tuple[str, int]) -> bool:
        transmits = source.transmits(self.now)
        for datagram in (each for transmit in transmits for each in transmit.datagrams()):
            self.carried += 1
            if not self._loses(self.carried):
                target.receive(memoryview(datagram), len(datagram), name, self.now)
        for engine in (source, target):
            self.log[engine] += engine.events()
        return bool(transmits)

    def _wait(self) -> None:
        deadlines = [each.next_deadline() for each in (self.near, self.far)]
        self.now = max(self.now, min(each for each in deadlines if each is not None))
        for engine in (self.near, self.far):
            engine.handle_timeout(self.now)
            self.log[engine] += engine.events()

    def transfer(
        self, source: Engine, number: int, target: Engine, other: int, data: bytes
    ) -> bytes:
        """Send ``data`` over a new stream; what arrived."""
        stream, sent, arrived, over = source.open_stream(number), 0, bytearray(), False
        assert stream is not None

        def moved() -> bool:
            nonlocal sent, over
            if sent < len(data):
                sent += source.write(number, stream, memoryview(data)[sent:])
                if sent == len(data):
                    source.finish(number, stream)
            opened = self.seen(target, EventKind.STREAM_OPENED, other)
            if not over and stream in [each.stream for each in opened]:
                part, over = target.read(other, stream, 1 << 20)
                arrived.extend(part)
            return over

        self.run(moved)
        return bytes(arrived)


@pytest.mark.parametrize("alpn", ["orp/1", FORWARD])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_stream_each_way_through_a_function(alpn: str, loss: float) -> None:
    chance = random.Random(5)
    pipe = Pipe(agent(alpn=alpn), relay(alpn=alpn), lambda _: chance.random() < loss)
    near, far = pipe.connected()

    assert pipe.transfer(pipe.near, near, pipe.far, far, payload(300_000)) == payload(300_000)
    assert pipe.transfer(pipe.far, far, pipe.near, near, payload(200_000)) == payload(200_000)

    pipe.near.close(near, ErrorCode.DRAIN, "over")
    pipe.run(lambda: bool(pipe.seen(pipe.near, EventKind.DRAINED)))
    pipe.run(lambda: bool(pipe.seen(pipe.far, EventKind.DRAINED)))
    (lost,) = pipe.seen(pipe.far, EventKind.LOST)
    assert lost.by_peer != lost.timed_out  # the close may have been lost
    if not loss:
        assert (lost.code, lost.reason) == (ErrorCode.DRAIN, "over")


@pytest.mark.parametrize("dials", ["orp/1", FORWARD])
def test_who_speaks_another_protocol_is_refused_by_both(dials: str) -> None:
    listens = FORWARD if dials == "orp/1" else "orp/1"
    pipe = Pipe(agent(alpn=dials), relay(alpn=listens))
    pipe.dial()
    pipe.run(lambda: bool(pipe.seen(pipe.near, EventKind.REFUSED)))
    pipe.run(lambda: bool(pipe.seen(pipe.far, EventKind.REFUSED)))

    (near,), (far,) = (pipe.seen(each, EventKind.REFUSED) for each in (pipe.near, pipe.far))
    assert (near.by_peer, near.final, near.cause) == (True, True, Cause.PEER)
    assert (far.by_peer, far.cause) == (False, Cause.ALPN)
    assert not pipe.seen(pipe.far, EventKind.CONNECTED)


def test_connections_to_one_peer_live_and_end_apart() -> None:
    pipe = Pipe(agent(), relay())
    connections = [pipe.connected() for _ in range(5)]
    assert len({near for near, _ in connections}) == 5
    assert len({far for _, far in connections}) == 5

    for index, (near, far) in enumerate(connections):
        data = payload(10_000 + index)
        assert pipe.transfer(pipe.near, near, pipe.far, far, data) == data
    (first, _), *rest = connections
    pipe.near.close(first, ErrorCode.NONE, "")
    pipe.run(lambda: bool(pipe.seen(pipe.far, EventKind.DRAINED)))
    for near, far in rest:
        assert pipe.transfer(pipe.far, far, pipe.near, near, b"still there") == b"still there"
    assert len(pipe.seen(pipe.far, EventKind.LOST)) == 1
