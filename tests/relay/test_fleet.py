"""What operators see of the streams, and how they end one: the relay's answers."""

from __future__ import annotations

from outrelay.lib.control.v1 import fleet_pb2 as fleet
from outrelay.relay.fleet import PART, PENDING, FleetWatch
from outrelay.relay.revoke import Revoker
from tests.relay.rooms import Rooms, relay_rooms
from tests.relay.test_revoke import assert_denied, assert_passes, spliced
from tests.support.peers import AGENT_A, AGENT_B


def watched(relay: Rooms) -> FleetWatch:
    return FleetWatch(
        "r1", relay.pairs, Revoker(relay.judge, relay.pairs, relay.trail, now_ms=lambda: 0)
    )


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
