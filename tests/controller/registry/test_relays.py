"""Relays: who holds an id, who lives, who died - in virtual time."""

from __future__ import annotations

import pytest

from outrelay.controller.registry.relays import BEAT, DEAD_AFTER, Relays, Turns
from outrelay.controller.store import RelayStatus
from outrelay.lib.errors import ControlError
from outrelay.lib.identity.uri import Identity, Role


def relay(name: str, region: str = "local") -> Identity:
    return Identity(realm=region, role=Role.RELAY, name=name)


class World:
    """Relays, and a clock that a test moves; sweeps happen as often as they should."""

    def __init__(self, *known: RelayStatus) -> None:
        self.now = 1000.0
        self.relays = Relays(known, lambda: self.now)

    def beat(self, name: str, identity: Identity | None = None) -> bool:
        self.relays.claim(name, identity)
        return self.relays.beat(name)

    def wait(self, seconds: float) -> Turns:
        """Who died and who returned meanwhile."""
        died, returned = [], []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1)
            turns = self.relays.sweep()
            died += turns.died
            returned += turns.returned
        return Turns(died=died, returned=returned)


NOTHING = Turns(died=[], returned=[])


def beating(world: World, name: str = "r1", identity: Identity | None = None) -> World:
    world.beat(name, identity)
    world.wait(BEAT)
    assert world.beat(name, identity)
    return world


class TestLife:
    def test_a_relay_that_goes_on_beating_lives(self) -> None:
        world = beating(World())
        for _ in range(10):
            assert world.wait(BEAT) == NOTHING
            world.beat("r1")

    def test_three_missed_beats_are_death_and_the_next_is_the_return(self) -> None:
        world = beating(World())
        assert world.wait(DEAD_AFTER) == NOTHING
        assert world.wait(1) == Turns(died=["r1"], returned=[])
        assert world.wait(100) == NOTHING
        assert world.relays.sign("r1")
        assert not world.relays.sign("r1")
        assert world.wait(1) == NOTHING

    def test_a_relay_that_beat_only_once_never_dies(self) -> None:
        world = World()
        assert not world.beat("plain")
        assert world.wait(1000) == NOTHING

    def test_nor_does_one_that_beats_once_in_a_while(self) -> None:
        """A plain relay that is restarted calls again, but has no rhythm."""
        world = World()
        world.beat("plain")
        world.wait(DEAD_AFTER + 1)
        assert not world.beat("plain")
        assert world.wait(1000) == NOTHING

    def test_any_sign_counts(self) -> None:
        world = beating(World())
        world.wait(DEAD_AFTER - 1)
        world.relays.sign("r1")
        assert world.wait(DEAD_AFTER) == NOTHING
        assert world.wait(1).died == ["r1"]

    def test_a_call_that_lasts_is_a_sign_as_long_as_it_lasts(self) -> None:
        me = relay("r1")
        world = beating(World(), identity=me)
        with world.relays.present(me.uri):
            with world.relays.present(me.uri):
                assert world.wait(DEAD_AFTER * 5) == NOTHING
            assert world.wait(DEAD_AFTER * 5) == NOTHING
        assert world.wait(DEAD_AFTER) == NOTHING
        assert world.wait(1).died == ["r1"]

    def test_a_call_brings_a_dead_relay_back(self) -> None:
        me = relay("r1")
        world = beating(World(), identity=me)
        assert world.wait(DEAD_AFTER + 1).died == ["r1"]
        with world.relays.present(me.uri):
            pass
        assert world.wait(1) == Turns(died=[], returned=["r1"])

    def test_callers_without_certificate_are_nobodys_sign(self) -> None:
        world = beating(World())
        with world.relays.present(""):
            assert world.wait(DEAD_AFTER + 1).died == ["r1"]

    def test_a_controller_that_was_held_up_blames_nobody(self) -> None:
        world = beating(World())
        world.now += 10 * DEAD_AFTER
        assert world.wait(DEAD_AFTER) == NOTHING
        assert world.wait(2).died == ["r1"]

    def test_a_restarted_controller_gives_three_periods(self) -> None:
        world = World(
            RelayStatus(id="lived", holder="", beating=True, alive=True),
            RelayStatus(id="dead", holder="", beating=True, alive=False),
            RelayStatus(id="plain", holder="", beating=False, alive=True),
        )
        assert world.wait(DEAD_AFTER) == NOTHING
        assert world.wait(1) == Turns(died=["lived"], returned=[])
        world.now += 100
        assert world.wait(5) == NOTHING


class TestHolder:
    def test_the_first_certificate_holds_the_id(self) -> None:
        world = World()
        assert world.relays.claim("shared", relay("r2")) == relay("r2").uri
        assert world.relays.claim("shared", relay("r2")) == relay("r2").uri
        with pytest.raises(ControlError, match=r"relay_id: shared is held by .*/r2; give this"):
            world.relays.claim("shared", relay("r3"))

    def test_nobody_without_a_certificate_takes_it(self) -> None:
        world = World()
        world.relays.claim("r1", relay("r1"))
        with pytest.raises(ControlError) as raised:
            world.relays.claim("r1", None)
        assert raised.value.status == "PERMISSION_DENIED"

    def test_a_certificate_takes_what_no_certificate_holds(self) -> None:
        world = World()
        assert world.relays.claim("r9", None) == ""
        assert world.relays.claim("r9", relay("r2")) == relay("r2").uri

    def test_the_certificate_of_that_name_takes_it_back(self) -> None:
        world = World()
        world.relays.claim("r1", relay("squatter"))
        assert world.relays.claim("r1", relay("r1")) == relay("r1").uri
        for other in (relay("squatter"), relay("r1", region="elsewhere")):
            with pytest.raises(ControlError):
                world.relays.claim("r1", other)

    def test_the_id_of_a_dead_relay_is_free(self) -> None:
        world = beating(World(), "shared", relay("r2"))
        world.wait(DEAD_AFTER + 1)
        assert world.relays.claim("shared", relay("r3")) == relay("r3").uri
