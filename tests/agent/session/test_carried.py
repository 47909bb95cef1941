"""What a stream's holder is told, whenever it comes."""

from __future__ import annotations

from outrelay.agent.session.carried import Carried
from outrelay.lib.orp.v1 import orp_pb2 as orp


class Told:
    """A holder that remembers."""

    def __init__(self) -> None:
        self.checkpoints: list[int] = []
        self.moves = 0

    def checkpoint(self, told: orp.StreamCheckpoint) -> None:
        self.checkpoints.append(told.my_position)

    def move(self) -> None:
        self.moves += 1


async def test_a_holder_is_told_of_what_it_has_missed() -> None:
    carried, told = Carried(lambda _: None), Told()
    for position in (1, 2):
        carried.checkpoint(orp.StreamCheckpoint(my_position=position))
    carried.move()
    carried.attach(told)
    assert (told.checkpoints, told.moves) == ([2], 1)
    carried.checkpoint(orp.StreamCheckpoint(my_position=3))
    carried.move()
    assert (told.checkpoints, told.moves) == ([2, 3], 2)


async def test_whoever_waits_to_be_carried_is_told_to_move() -> None:
    carried, moved = Carried(lambda _: None), []
    carried.on_move = lambda: moved.append(True)
    carried.move()
    assert moved == [True]


async def test_who_has_let_go_is_told_nothing() -> None:
    released: list[Carried] = []
    carried, told = Carried(released.append), Told()
    carried.attach(told)
    carried.release()
    carried.release()
    carried.move()
    assert (released, told.moves) == ([carried], 0)
