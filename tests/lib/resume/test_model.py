"""Two agents and what lies between them, in virtual time: whatever is lost, every byte arrives.

Between them are *legs*, which carry bytes in order until they are cut, and checkpoints, which
may be lost, repeated and overtaken at will. After each sequence of misfortunes the way is
clear again: then both applications have exactly what was written, and no writer waits.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from outrelay.lib.resume.ring import Budget, Ring
from outrelay.lib.resume.state import Checkpoint, StreamState

RING = 1000
SIDES = (0, 1)


def text(start: int, count: int) -> bytes:
    """Bytes that tell their position."""
    return bytes((start + i) * 7 % 251 for i in range(count))


class Agent:
    """One side: its application writes numbered bytes and checks those it reads."""

    def __init__(self, now: float) -> None:
        self.state = StreamState(Ring(RING, Budget(2 * RING)), now)
        self.leg = bytearray()
        """What is on its way to the other side."""
        self.wanted = 0
        """Bytes the application would like to have written by now."""

    def write(self) -> None:
        count = min(self.wanted - self.state.sent, self.state.room)
        data = text(self.state.sent, count)
        self.state.send(data)
        self.leg += data

    def read(self, leg: bytearray, count: int, now: float) -> None:
        data = bytes(leg[:count])
        del leg[:count]
        assert data == text(self.state.taken, len(data))
        if data:
            self.state.take(len(data), now)


class Misfortunes(RuleBasedStateMachine):
    """Everything that may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.agents = (Agent(self.now), Agent(self.now))
        self.told: tuple[list[Checkpoint], list[Checkpoint]] = ([], [])
        """Checkpoints on their way to each side."""

    @rule(side=st.sampled_from(SIDES), count=st.integers(1, 3 * RING))
    def application_writes(self, side: int, count: int) -> None:
        self.agents[side].wanted += count
        self.agents[side].write()

    @rule(side=st.sampled_from(SIDES), count=st.integers(1, 3 * RING))
    def application_reads(self, side: int, count: int) -> None:
        self.agents[side].read(self.agents[1 - side].leg, count, self.now)

    @rule(seconds=st.floats(0.001, 3.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for side in SIDES:
            self.say(side)

    @rule(side=st.sampled_from(SIDES), which=st.integers(0, 10))
    def a_checkpoint_arrives(self, side: int, which: int) -> None:
        if told := self.told[side]:
            self.agents[side].state.receive(told.pop(which % len(told)))
            self.agents[side].write()

    @rule(side=st.sampled_from(SIDES))
    def checkpoints_are_lost(self, side: int) -> None:
        self.told[side].clear()

    @rule(side=st.sampled_from(SIDES))
    def everything_is_read_and_its_checkpoint_lost(self, side: int) -> None:
        self.application_reads(side, RING)
        self.time_passes(0.5)
        self.told[1 - side].clear()

    @rule(side=st.sampled_from(SIDES), which=st.integers(0, 10))
    def a_checkpoint_is_repeated(self, side: int, which: int) -> None:
        if told := self.told[side]:
            told.append(told[which % len(told)])

    @rule(with_the_connection=st.booleans())
    def the_leg_is_cut(self, with_the_connection: bool) -> None:
        positions = [
            Checkpoint(my_position=each.state.sent, peer_ack_position=each.state.taken)
            for each in self.agents
        ]
        for side in SIDES:
            if with_the_connection:  # by which they came
                self.told[side].clear()
            again = self.agents[side].state.resume(positions[1 - side])
            self.agents[side].leg = bytearray(b"".join(again))
            self.agents[side].write()

    def say(self, side: int) -> None:
        state = self.agents[side].state
        due = state.due_at()
        if due is not None and due <= self.now:
            self.told[1 - side].append(state.checkpoint(self.now))

    @invariant()
    def nothing_is_held_beyond_the_bound(self) -> None:
        for each in self.agents:
            assert 0 <= each.state.room <= RING

    def teardown(self) -> None:
        for _ in range(200):
            self.now += 0.5
            for side in SIDES:
                self.application_reads(side, RING)
                self.say(side)
                while self.told[side]:
                    self.a_checkpoint_arrives(side, 0)
        for side in SIDES:
            agent, other = self.agents[side], self.agents[1 - side]
            assert agent.state.sent == agent.wanted == other.state.taken
            assert agent.state.all_acknowledged


TestMisfortunes = Misfortunes.TestCase
TestMisfortunes.settings = settings(max_examples=300, stateful_step_count=8, deadline=None)


@given(st.integers(1, 20))
def test_two_who_repeat_themselves_fall_silent(repeats: int) -> None:
    """A checkpoint that the way repeats is answered, the answer perhaps too, and not for ever."""
    now = 1.0
    agents = [Agent(now).state for _ in SIDES]
    first = [each.checkpoint(now) for each in agents]
    for side in SIDES:
        for _ in range(repeats + 1):
            agents[side].receive(first[1 - side])
    said = 0
    while now < 600:
        due = [each.due_at() for each in agents]
        now = min((each for each in due if each is not None), default=600.0)
        for side in SIDES:
            if due[side] is not None and due[side] == now < 600:
                said += 1
                agents[1 - side].receive(agents[side].checkpoint(now))
    assert said < 60
