"""Random sequences of operations on a bad path: whatever is asked, no byte is wrong or lost.

Both ends do at random what the port allows; a model remembers what each direction of each
stream must deliver. At the end every stream is brought to its end, and nothing is left.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from outrelay.lib.transport.quic.engine import Event, EventKind
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine
from tests.lib.transport.quic.engines import agent, relay
from tests.support.virtual_quic import End, Network, Path

pytestmark = pytest.mark.usefixtures("each_engine")

PATHS = {
    "good": Path(),
    "lossy": Path(loss=0.1),
    "rough": Path(delay=0.03, loss=0.05, reorder=0.3, held=0.05, duplicate=0.1),
    "narrow": Path(mtu=1300, reorder=0.1),
}


@dataclass(slots=True)
class Direction:
    """What one end has sent on a stream, and what the other has read."""

    sent: bytearray = field(default_factory=bytearray)
    read: bytearray = field(default_factory=bytearray)
    finished: bool = False
    reset: bool = False
    """Reset by its sender, or told to stop."""
    stopped: bool = False
    """Its reader wants no more."""
    ended: bool = False
    """Its reader has seen its end."""

    @property
    def may_write(self) -> bool:
        return not (self.finished or self.reset)

    @property
    def may_read(self) -> bool:
        return not (self.ended or self.stopped)


class Side:
    """One end, its random choices, and the model of what it sends."""

    def __init__(self, end: End, choices: random.Random) -> None:
        self.end = end
        self.other: Side
        self.out: dict[int, Direction] = {}
        self._choices = choices
        end.host.listeners.append(self._on_event)

    def _on_event(self, event: Event) -> None:
        match event.kind:
            case EventKind.STREAM_OPENED:
                self.out[event.stream] = Direction()
            case EventKind.STOPPED:
                self.out[event.stream].reset = True
            case EventKind.RESET:
                incoming = self.other.out[event.stream]
                assert incoming.reset
                incoming.ended = True

    def act(self) -> None:
        """Do something."""
        if self._choices.random() < 0.15 or not self.out:
            stream = self.end.open()
            if stream is not None:
                self.out[stream] = Direction()
            return
        stream = self._choices.choice(list(self.out))
        if self._choices.random() < 0.5:
            self._send_on(stream)
        else:
            self._receive_on(stream)

    def _send_on(self, stream: int) -> None:
        direction = self.out[stream]
        if not direction.may_write:
            return
        what = self._choices.random()
        if what < 0.8:
            data = self._choices.randbytes(self._choices.choice([1, 100, 5_000, 50_000]))
            taken = self.end.write(stream, data)
            direction.sent += data[:taken]
        elif what < 0.95:
            self.end.finish(stream)
            direction.finished = True
        else:
            self.end.reset(stream, 1)
            direction.reset = True

    def _receive_on(self, stream: int) -> None:
        direction = self.other.out.get(stream)
        if direction is None or not direction.may_read:
            return
        if self._choices.random() < 0.95:
            self.read(stream, self._choices.choice([1, 1_000, 1 << 20]))
        else:
            self.end.stop(stream, 1)
            direction.stopped = True

    def read(self, stream: int, limit: int) -> None:
        """Read, and compare with what was sent."""
        direction = self.other.out[stream]
        data, direction.ended = self.end.read(stream, limit)
        at = len(direction.read)
        assert data == direction.sent[at : at + len(data)]
        direction.read += data
        assert not direction.ended or direction.finished
        assert not direction.ended or direction.read == direction.sent

    def is_over(self) -> bool:
        """End what is still open, read on, and tell whether nothing more is to come."""
        for stream, direction in self.out.items():
            if direction.may_write:
                self.end.finish(stream)
                direction.finished = True
        for stream, direction in self.other.out.items():
            if stream in self.out and direction.may_read:
                self.read(stream, 1 << 30)
        return self.out.keys() == self.other.out.keys() and not any(
            direction.may_read for direction in self.other.out.values()
        )


def left_over(side: Side) -> int:
    """Streams that its engine still knows."""
    engine, number = side.end.host.engine, side.end.number
    if isinstance(engine, AioquicEngine):
        return len(engine._links[number].core.streams)
    connection = engine._connections[number]  # type: ignore[attr-defined]
    return sum(connection.quic.allow_streams(connection._allowed))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("roams", [False, True], ids=["at home", "roaming"])
@pytest.mark.parametrize("seed", range(2))
def test_every_sequence_of_operations_delivers_what_was_sent(
    path: str, roams: bool, seed: int
) -> None:
    choices = random.Random(f"{path} {roams} {seed}")
    network = Network(seed=seed, path=PATHS[path])
    ends = network.connect(network.host(agent()), network.host(relay()))
    near, far = (Side(end, choices) for end in ends)
    near.other, far.other = far, near
    for _ in range(250):
        choices.choice([near, far]).act()
        if roams and choices.random() < 0.02:
            network.move(near.end.host)
            near.end.ping()  # the dialling side's are what tells of the move
        if choices.random() < 0.3:
            network.run_for(choices.choice([0.001, 0.02, 0.2]))
    pinged = network.now

    def is_over() -> bool:
        nonlocal pinged
        if network.now >= pinged + 1.0:  # as the endpoint keeps connections alive
            pinged = network.now
            near.end.ping()
        return near.is_over() & far.is_over()

    network.run(is_over, within=60.0)
    network.run_for(3.0)

    for side in (near, far):
        assert not side.end.events(EventKind.LOST)
        assert left_over(side) == 0
