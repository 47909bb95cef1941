"""What operators see of the streams, and how they end one: the relay's answers."""

from __future__ import annotations

from outrelay.lib.control.v1 import fleet_pb2 as fleet
from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.relay.fleet import PART, PENDING, RELAYED, FleetWatch, Leave
from outrelay.relay.inventory import Inventory
from outrelay.relay.revoke import Revoker
from tests.relay.rooms import Rooms, relay_rooms
from tests.relay.test_revoke import assert_denied, assert_passes, spliced
from tests.support.peers import AGENT_A, AGENT_B


def no_leave(_reason: str) -> registry.DrainRelayResponse:
    raise AssertionError("nobody was to leave")


def watched(relay: Rooms, leave: Leave = no_leave) -> FleetWatch:
    revoker = Revoker(relay.judge, relay.pairs, relay.trail, now_ms=lambda: 0)
    inventory = Inventory(relay.roster, relay.pairs)
    return FleetWatch("r1", relay.pairs, revoker, inventory, leave)


async def answer(watch: FleetWatch, command: fleet.RelayCommand) -> list[fleet.RelayReport]:
    """The reports that answer ``command``, as they would leave."""
    watch.take(command)
    reports = watch._answers.get_nowait()
    assert reports is not None
    return list(reports)


async def test_streams_are_listed_with_what_they_moved() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        await assert_passes(*await spliced(consumer, provider, "echo", 7))
        await consumer.open("echo", stream_id=8)  # not accepted yet: nothing to see
        await provider.incoming()
        watch = watched(relay)
        command = fleet.RelayCommand(request_id=3, list=fleet.ListStreamsRequest(tenant="acme"))
        part, end = await answer(watch, command)

        (info,) = part.streams
        assert (info.stream_id, info.tenant, info.service) == (f"{7:016x}", "acme", "echo")
        assert (info.caller, info.provider) == (AGENT_A.uri, AGENT_B.uri)
        assert (info.bytes_up, info.bytes_down, info.relay_id) == (10, 0, "r1")
        assert info.opened_unix_ms > 0
        assert info.path == RELAYED
        assert (part.request_id, part.last) == (3, False)
        assert (end.request_id, end.last) == (3, True)

        other = fleet.RelayCommand(request_id=4, list=fleet.ListStreamsRequest(tenant="globex"))
        assert [list(each.streams) for each in await answer(watch, other)] == [[]]


async def test_a_long_list_goes_out_in_parts_and_is_cut_at_the_limit() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        for stream_id in range(1, PART + 3):
            await spliced(consumer, provider, "echo", stream_id)
        watch = watched(relay)
        everything = await answer(watch, fleet.RelayCommand(list=fleet.ListStreamsRequest()))
        assert [len(each.streams) for each in everything] == [PART, 2, 0]
        few = await answer(watch, fleet.RelayCommand(list=fleet.ListStreamsRequest(limit=5)))
        assert [len(each.streams) for each in few] == [5, 0]


async def test_one_stream_is_ended_and_recorded() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        near, far = await spliced(consumer, provider, "echo", 7)
        kept = await spliced(consumer, provider, "echo", 8)
        watch = watched(relay)
        kill = fleet.KillStreamRequest(
            tenant="acme", stream_id=f"{7:016x}", reason="asked by an operator"
        )
        (done,) = await answer(watch, fleet.RelayCommand(request_id=1, kill=kill))
        assert (done.killed, done.last) == (1, True)
        await assert_denied(near)
        await assert_denied(far)
        await assert_passes(*kept)
        (again,) = await answer(watch, fleet.RelayCommand(request_id=2, kill=kill))
        assert again.killed == 0
        (event,) = relay.events("revoke")
        assert event.reason == "asked by an operator"


async def test_a_stream_of_another_tenant_is_not_found() -> None:
    async with relay_rooms() as relay:
        provider, consumer = await relay.provider(), await relay.agent(AGENT_A)
        both = await spliced(consumer, provider, "echo", 7)
        kill = fleet.KillStreamRequest(tenant="globex", stream_id=f"{7:016x}")
        (done,) = await answer(watched(relay), fleet.RelayCommand(kill=kill))
        assert done.killed == 0
        await assert_passes(*both)


async def test_commands_nobody_takes_the_answers_of_are_dropped() -> None:
    async with relay_rooms() as relay:
        watch = watched(relay)
        for _ in range(PENDING + 5):
            watch.take(fleet.RelayCommand(list=fleet.ListStreamsRequest()))
        watch.take(fleet.RelayCommand(request_id=1))  # none we know
        assert watch._answers.qsize() == PENDING


async def test_agents_are_listed_in_parts_with_the_tenant_as_the_bound() -> None:
    async with relay_rooms() as relay:
        await relay.provider()
        await relay.agent(AGENT_A, "resume/2")
        watch = watched(relay)
        asked = registry.ListAgentsRequest(tenant="acme")
        part, end = await answer(watch, fleet.RelayCommand(request_id=5, agents=asked))
        assert {each.agent_uri for each in part.agents} == {AGENT_A.uri, AGENT_B.uri}
        assert (part.request_id, end.request_id, end.last) == (5, 5, True)

        one = registry.ListAgentsRequest(limit=1)
        part, _ = await answer(watch, fleet.RelayCommand(agents=one))
        assert len(part.agents) == 1
        other = registry.ListAgentsRequest(tenant="globex")
        (end,) = await answer(watch, fleet.RelayCommand(agents=other))
        assert (list(end.agents), end.last) == ([], True)


async def test_the_relay_tells_of_itself() -> None:
    async with relay_rooms() as relay:
        await relay.provider()
        status = fleet.StatusRequest()
        (told,) = await answer(watched(relay), fleet.RelayCommand(request_id=6, status=status))
        assert (told.request_id, told.last, told.status.agents) == (6, True, 1)


async def test_it_drains_when_it_is_told_to_and_says_what_that_means() -> None:
    reasons = []

    def leave(reason: str) -> registry.DrainRelayResponse:
        reasons.append(reason)
        return registry.DrainRelayResponse(streams=3, drain_ms=500)

    async with relay_rooms() as relay:
        asked = registry.DrainRelayRequest(relay_id="r1", reason="alice: new kernel")
        command = fleet.RelayCommand(request_id=7, drain=asked)
        (told,) = await answer(watched(relay, leave), command)
        assert (told.request_id, told.last) == (7, True)
        assert (told.draining.streams, told.draining.drain_ms) == (3, 500)
    assert reasons == ["alice: new kernel"]
