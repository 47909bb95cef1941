"""Look-ups: agents attached here, and the copy of the registry."""

from __future__ import annotations

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.relay.directory import Directory
from outrelay.relay.directory_watch import DirectoryWatch
from outrelay.relay.edge.session import Offer, Roster
from tests.relay.rooms import relay_rooms
from tests.support.peers import AGENT_A, AGENT_B, AGENT_C, STRANGER
from tests.support.turns import until


def row(
    name: str = "echo", agent: str = AGENT_B.uri, relay: str = "r2", tenant: str = "acme"
) -> registry.Provider:
    return registry.Provider(service_id=f"{tenant}/{name}", agent_uri=agent, relay_id=relay)


def event(kind: registry.EventKind.ValueType, provider: registry.Provider) -> registry.WatchEvent:
    return registry.WatchEvent(kind=kind, provider=provider)


def registered(provider: registry.Provider) -> registry.WatchEvent:
    return event(registry.EVENT_KIND_REGISTER, provider)


def deregistered(provider: registry.Provider) -> registry.WatchEvent:
    return event(registry.EVENT_KIND_DEREGISTER, provider)


async def test_what_was_here_before_a_restart_is_expected() -> None:
    async with relay_rooms() as relay:
        await relay.provider()
        for name in ("echo", "vault"):
            relay.directory.expect(row(name, relay="r1"))
        assert relay.directory.expects("acme", "vault")
        assert not relay.directory.expects("globex", "vault")
        assert not relay.directory.expects("acme", "echo")  # it is here


SNAPSHOT_END = registry.WatchEvent(kind=registry.EVENT_KIND_SNAPSHOT_END)


async def test_providers_are_found_within_their_tenant() -> None:
    async with relay_rooms() as relay:
        for agent in (AGENT_A, AGENT_B, AGENT_C):
            await relay.provider(agent)
        await relay.provider(STRANGER)

        def uris(tenant: str = "acme", name: str = "echo") -> list[str]:
            return [session.uri for _, session in relay.directory.providers(tenant, name)]

        assert uris() == [AGENT_A.uri, AGENT_B.uri, AGENT_C.uri]
        assert uris("globex") == [STRANGER.uri]
        assert uris("initech") == uris("acme", "other") == []


async def test_each_process_of_an_agent_is_a_provider_the_newest_first() -> None:
    async with relay_rooms() as relay:
        made = [
            await relay.agent(AGENT_B, instance=instance)
            for instance in (b"1" * 16, b"", b"2" * 16, b"too short", b"3" * 16)
        ]
        for peer in made[:4]:
            await peer.register("echo")

        sessions = relay.roster.of(AGENT_B.uri)
        found = relay.directory.providers("acme", "echo")
        assert found == [(0, sessions[3]), (1, sessions[2]), (2, sessions[0])]
        await made[3].deregister("echo")
        found = relay.directory.providers("acme", "echo")
        assert found == [(0, sessions[2]), (1, sessions[1]), (2, sessions[0])]


async def test_a_service_offered_anew_has_no_past() -> None:
    async with relay_rooms() as relay:
        peer = await relay.provider()
        (session,) = relay.roster
        session.standing("echo").failed(0.0, 1.0)
        await peer.deregister("echo")
        assert session.standings == {}
        await peer.register("echo")
        assert not session.standing("echo").rests(1.0)


async def test_an_agent_offers_what_any_of_its_sessions_does() -> None:
    async with relay_rooms() as relay:
        older = await relay.provider(AGENT_B, "echo")
        await older.register("db", weight=1)
        newer = await relay.agent(AGENT_B)
        await newer.register("db", weight=2)
        assert relay.directory.offers_of(AGENT_B.uri) == {"echo": Offer(), "db": Offer(weight=2)}

        await newer.deregister("db")
        assert relay.directory.offers_of(AGENT_B.uri) == {"echo": Offer(), "db": Offer(weight=1)}
        older.connection.close()
        await until(lambda: relay.directory.offers_of(AGENT_B.uri) == {})
        assert list(relay.directory.providers("acme", "db")) == []


class Observer:
    """Notes what it is told of the registry's rows."""

    def __init__(self) -> None:
        self.observations: list[list[str]] = []
        self.removals: list[tuple[str, str]] = []

    def observed(self, rows: list[registry.Provider]) -> None:
        self.observations.append([each.service_id for each in rows])

    def removed(self, uri: str, name: str) -> None:
        self.removals.append((uri, name))


def watch() -> tuple[Directory, Observer, DirectoryWatch]:
    """A directory, and a watch whose call has just begun."""
    directory, observer = Directory(Roster(1)), Observer()
    made = DirectoryWatch(directory, observer, "")
    made.begin()
    return directory, observer, made


def test_a_snapshot_replaces_the_copy_once_it_is_complete() -> None:
    directory, observer, follower = watch()
    directory.add(row(relay="stale"))
    follower.take(registered(row(relay="r2")))
    follower.take(registered(row(relay="r3", agent=AGENT_C.uri)))
    assert directory.relays_of("acme", "echo") == {"stale"}
    assert observer.observations == []

    follower.take(SNAPSHOT_END)
    assert directory.relays_of("acme", "echo") == {"r2", "r3"}
    assert directory.relays_of("globex", "echo") == set()
    assert observer.observations == [["acme/echo", "acme/echo"]]


def test_a_snapshot_that_breaks_off_leaves_the_copy_as_it_was() -> None:
    directory, observer, follower = watch()
    directory.add(row(relay="r9"))
    follower.take(registered(row(relay="r2")))
    follower.lost()
    follower.take(SNAPSHOT_END)

    assert directory.relays_of("acme", "echo") == {"r9"}
    assert observer.observations == []


def test_changes_after_the_snapshot_count_at_once() -> None:
    directory, observer, follower = watch()
    follower.take(SNAPSHOT_END)
    follower.take(registered(row(relay="r2")))
    assert directory.relays_of("acme", "echo") == {"r2"}

    follower.take(registered(row(relay="r3")))  # the agent has moved
    assert directory.relays_of("acme", "echo") == {"r3"}
    follower.take(deregistered(row(relay="r2")))  # and the relay it left says so late
    assert directory.relays_of("acme", "echo") == {"r3"}
    assert observer.removals == []

    follower.take(registered(row(relay="r2", agent=AGENT_C.uri)))
    follower.take(deregistered(row(relay="r3")))
    assert directory.relays_of("acme", "echo") == {"r2"}
    follower.take(deregistered(row(relay="r2", agent=AGENT_C.uri)))
    follower.take(deregistered(row(name="never known")))
    assert directory.relays_of("acme", "echo") == set()
    assert observer.removals == [(AGENT_B.uri, "echo"), (AGENT_C.uri, "echo")]
    follower.take(registry.WatchEvent())  # a kind nobody knows
