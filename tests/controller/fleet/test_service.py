"""The Fleet rpcs against a live controller and scripted relays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from outrelay.controller.fleet import attachments
from outrelay.lib.control.v1 import fleet_pb2 as pb
from tests.controller.fleet.scripted import AttachCall, ScriptedRelay, attach, attached, stream
from tests.controller.live import TIMEOUT, LiveController, Stubs, refused


@pytest.fixture
async def operator(controller: LiveController) -> AsyncIterator[Stubs]:
    """An operator of acme."""
    async with controller.as_operator("acme") as stubs:
        yield stubs


@pytest.fixture
async def r1(controller: LiveController) -> AsyncIterator[ScriptedRelay]:
    async with controller.as_relay("r1") as stubs, attached(stubs, "r1") as relay:
        yield relay


@pytest.fixture
async def r2(controller: LiveController) -> AsyncIterator[ScriptedRelay]:
    async with controller.as_relay("r2") as stubs, attached(stubs, "r2") as relay:
        yield relay


async def list_streams(
    stubs: Stubs, tenant: str = "acme", limit: int = 0
) -> pb.ListStreamsResponse:
    request = pb.ListStreamsRequest(tenant=tenant, limit=limit)
    return await stubs.fleet.ListStreams(request, timeout=TIMEOUT)


async def kill(stubs: Stubs, number: int, **more: str) -> pb.KillStreamResponse:
    fields = {"tenant": "acme", "stream_id": f"{number:016x}", **more}
    return await stubs.fleet.KillStream(pb.KillStreamRequest(**fields), timeout=TIMEOUT)


def ids(response: pb.ListStreamsResponse) -> list[int]:
    return [int(each.stream_id, 16) for each in response.streams]


async def ended(call: AttachCall) -> grpc.StatusCode:
    """How a call ends; what is sent on it before does not matter."""
    async with asyncio.timeout(TIMEOUT):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await call.code()


class TestList:
    async def test_has_the_streams_of_all_relays_newest_first(
        self, operator: Stubs, r1: ScriptedRelay, r2: ScriptedRelay
    ) -> None:
        r1.streams = [stream(1), stream(3)]
        r2.streams = [stream(2, bytes_up=7, relay_id="a lie")]
        answer = await list_streams(operator)
        assert ids(answer) == [3, 2, 1]
        assert answer.streams[1] == stream(2, bytes_up=7, relay_id="r2")
        assert (list(answer.silent_relays), answer.truncated) == ([], False)

    async def test_without_relays_is_empty(self, operator: Stubs) -> None:
        assert await list_streams(operator) == pb.ListStreamsResponse()

    @pytest.mark.parametrize(("limit", "truncated"), [(2, True), (3, False), (0, False)])
    async def test_ends_at_the_limit_and_says_so(
        self, operator: Stubs, r1: ScriptedRelay, limit: int, truncated: bool
    ) -> None:
        r1.streams = [stream(number) for number in (1, 2, 3)]
        answer = await list_streams(operator, limit=limit)
        assert len(answer.streams) == (limit or 3)
        assert answer.truncated is truncated

    async def test_a_relay_is_asked_for_one_more_and_more_than_that_is_dropped(
        self, operator: Stubs, r1: ScriptedRelay
    ) -> None:
        r1.streams = [stream(number) for number in range(20)]
        answer = await list_streams(operator, limit=5)
        (command,) = r1.asked
        assert command.list == pb.ListStreamsRequest(tenant="acme", limit=6)
        assert ids(answer) == [5, 4, 3, 2, 1]  # of the first six that it sent

    async def test_an_operator_sees_its_tenant_whatever_the_relay_says(
        self, controller: LiveController, operator: Stubs, r1: ScriptedRelay
    ) -> None:
        r1.streams = [stream(1), stream(2, tenant="other")]
        assert ids(await list_streams(operator)) == [1]
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "not of other"):
            await list_streams(operator, "other")
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "not all tenants"):
            await list_streams(operator, "")
        async with controller.as_operator("system") as system:
            assert ids(await list_streams(system, "")) == [2, 1]
            assert ids(await list_streams(system, "other")) == [2]

    async def test_a_silent_relay_is_named_and_holds_up_nobody(
        self,
        operator: Stubs,
        r1: ScriptedRelay,
        r2: ScriptedRelay,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(attachments, "ANSWER_TIMEOUT", 0.2)
        r1.streams, r2.answers = [stream(1)], False
        answer = await list_streams(operator)
        assert (ids(answer), list(answer.silent_relays)) == ([1], ["r2"])
        # What comes too late is dropped; the next question is answered.
        r2.streams, r2.answers = [stream(2)], True
        await r2.answer(r2.asked[0])
        answer = await list_streams(operator)
        assert (ids(answer), list(answer.silent_relays)) == ([2, 1], [])

    async def test_a_relay_that_goes_while_it_is_asked_is_silent_at_once(
        self, operator: Stubs, r1: ScriptedRelay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attachments, "ANSWER_TIMEOUT", 60.0)

        async def leave(_command: pb.RelayCommand) -> None:
            await r1.call.done_writing()

        monkeypatch.setattr(r1, "answer", leave)
        answer = await list_streams(operator)
        assert list(answer.silent_relays) == ["r1"]

    async def test_a_limit_has_a_limit(self, operator: Stubs) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "limit: must be at most 10000"):
            await list_streams(operator, limit=10_001)


class TestKill:
    async def test_ends_the_stream_wherever_it_is(
        self, operator: Stubs, r1: ScriptedRelay, r2: ScriptedRelay
    ) -> None:
        r2.streams = [stream(1), stream(2)]
        assert (await kill(operator, 1, reason="noisy")).killed == 1
        assert [each.stream_id for each in r2.streams] == [f"{2:016x}"]
        for relay in (r1, r2):
            (command,) = relay.asked
            assert command.kill.reason == "killed by outrelay://acme/operator/admin: noisy"
        assert (await kill(operator, 1)).killed == 0

    async def test_an_operator_ends_only_its_tenants(
        self, operator: Stubs, r1: ScriptedRelay
    ) -> None:
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "not of other"):
            await kill(operator, 1, tenant="other")
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "tenant: must be given"):
            await kill(operator, 1, tenant="")
        assert r1.asked == []

    @pytest.mark.parametrize("stream_id", ["", "xyz", "0" * 17, "A" * 16, "0" * 16 + "\n"])
    async def test_an_id_is_16_hex_digits(self, operator: Stubs, stream_id: str) -> None:
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "stream_id: must be 16 hex"):
            await kill(operator, 1, stream_id=stream_id)


class TestAttach:
    async def test_a_newer_one_takes_the_place_of_the_older(
        self, controller: LiveController, operator: Stubs
    ) -> None:
        async with controller.as_relay("r1") as stubs:
            older = await attach(stubs, "r1")
            async with attached(stubs, "r1") as newer:
                newer.streams = [stream(1)]
                assert await ended(older) is grpc.StatusCode.ABORTED
                assert ids(await list_streams(operator)) == [1]

    async def test_one_that_has_ended_is_asked_no_more(
        self, controller: LiveController, operator: Stubs
    ) -> None:
        async with controller.as_relay("r1") as stubs:
            call = await attach(stubs, "r1")
            await call.done_writing()
            assert await ended(call) is grpc.StatusCode.CANCELLED
            assert list((await list_streams(operator)).silent_relays) == []

    async def test_an_id_is_its_holders(
        self, controller: LiveController, r1: ScriptedRelay
    ) -> None:
        async with controller.as_relay("r2") as stubs:
            call = stubs.fleet.Attach(iter([pb.RelayReport(relay_id="r1")]))
            async with refused(grpc.StatusCode.PERMISSION_DENIED, "r1 is held by"):
                await call.read()

    @pytest.mark.parametrize("reports", [[], [pb.RelayReport()]])
    async def test_begins_with_the_relays_id(
        self, controller: LiveController, reports: list[pb.RelayReport]
    ) -> None:
        async with controller.as_relay() as stubs:
            call = stubs.fleet.Attach(iter(reports))
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, "relay_id: must be given"):
                await call.read()

    async def test_there_is_an_end_to_relays(
        self, controller: LiveController, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attachments, "MOST_RELAYS", 1)
        async with controller.plaintext() as stubs, attached(stubs, "r1"):
            call = stubs.fleet.Attach(iter([pb.RelayReport(relay_id="r2")]))
            async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "1 relays are attached"):
                await call.read()
            again = await attach(stubs, "r1")  # the one there is may come again
            again.cancel()
