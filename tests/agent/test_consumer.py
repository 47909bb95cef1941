"""Applications' connections: opened, refused, retried."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from outrelay.agent import consumer, stream
from outrelay.agent.options import Consume, Limits
from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from tests.agent.place import OPTIONS, SERVICE, Place
from tests.agent.tcp import HOST
from tests.support.relay_peer import FEATURES, PROVIDER, read_all, read_exactly, reset_code
from tests.support.turns import everybody_waits, until

pytestmark = pytest.mark.both_loops


async def test_bytes_pass_both_ways_until_both_ends(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            assert opened.service == SERVICE
            await app.send(b"request")
            app.end()
            assert await read_all(opened.stream) == b"request"
            await opened.stream.write(b"response")
            opened.stream.finish()
            assert await app.read_all() == b"response"
        name = f"{opened.stream_id:016x}"
        line = await place.seen.wait("stream opened")
        assert (line["stream_id"], line["peer"]) == (name, PROVIDER)
        line = await place.seen.wait("stream ended", stream_id=name, reason="finished")
        assert (line["bytes_up"], line["bytes_down"]) == (7, 8)


async def test_a_mapping_calls_by_its_method(place: Place) -> None:
    writes = Consume(service=SERVICE, method="a/b", bind=(HOST, 0))
    async with place.agent(consume=[SERVICE, writes]) as agent:
        link = await place.relay.accept()
        for method in ("", "a/b"):
            with await agent.app(SERVICE, method) as app:
                opened = await link.spliced()
                assert (opened.service, opened.method) == (SERVICE, method)
                await app.send(b"request")
                assert await read_exactly(opened.stream, 7) == b"request"
        line = await place.seen.wait("stream opened", count=2)
        assert line["method"] == "a/b"
        with await agent.app(SERVICE, "a/b") as app:
            await (await link.opened()).reject(403, "no")
            await app.until_reset()
        line = await place.seen.wait("open refused", service=SERVICE, method="a/b")
        assert "--method a/b --decision allow" in str(line["hint"])


async def test_bytes_that_overtake_ready_are_delivered_after_it(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            await opened.stream.write(b"early")
            await app.send(b"request")
            await everybody_waits()
            assert place.seen.of("stream opened") == []
            await link.ready(opened.stream_id)
            assert await app.read(5) == b"early"
            assert await read_exactly(opened.stream, 7) == b"request"
            await opened.stream.write(b" and late")
            assert await app.read(9) == b" and late"


async def test_no_application_byte_leaves_before_ready(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            await app.send(b"secret")
            opened = await link.opened()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await opened.stream.read()


async def test_much_that_overtakes_ready_waits_and_arrives_whole(place: Place) -> None:
    async with place.consumer() as (agent, link):
        data = bytes(range(256)) * 4096
        with await agent.app() as app:
            opened = await link.opened()
            async with asyncio.TaskGroup() as group:
                group.create_task(opened.stream.write(data))
                await everybody_waits()
                await link.ready(opened.stream_id)
                assert await app.read(len(data)) == data


async def test_an_end_that_overtakes_ready_waits_for_it(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            await opened.stream.write(b"whole answer")
            opened.stream.finish()
            await everybody_waits()
            await link.ready(opened.stream_id)
            assert await app.read_all() == b"whole answer"
            app.end()
            assert await read_all(opened.stream) == b""
        await place.seen.wait("stream ended", reason="finished")


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (400, "compare their versions"),
        (403, "outrelay-cli policy add --tenant acme --caller outrelay://acme/agent/4a9c3f52"),
        (404, "check the service's name"),
        (429, "--max-streams"),
        (502, "the provider's backend runs"),
        (503, "try again later"),
        (504, "look at its agent's log"),
        (599, ""),
    ],
)
async def test_a_refusal_closes_the_application_and_is_explained(
    place: Place, code: int, hint: str
) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            await opened.reject(code, "the reason")
            assert await app.until_reset() == b""
        line = await place.seen.wait("open refused", code=code, service=SERVICE)
        assert line["reason"] == "the reason"
        assert hint in str(line["hint"])
        assert place.seen.of("stream opened") == []


REJECT = encode(FrameType.STREAM_REJECT, orp.StreamReject(code=403, reason="no"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        REJECT[:-1],
        REJECT + b"x",
        encode(FrameType.STREAM_ACCEPT, orp.StreamAccept()),
    ],
    ids=["empty", "text", "cut", "more", "another frame"],
)
async def test_an_end_before_ready_that_is_no_reject_is_unreachable(
    place: Place, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LATE_READY", 0.01)
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            if data:
                await opened.stream.write(data)
            opened.stream.finish()
            assert await app.until_reset() == b""
        await place.seen.wait("open refused", code=502)


@pytest.mark.parametrize(
    ("code", "reject"),
    [(ErrorCode.DENIED, 403), (ErrorCode.LIMIT, 429), (ErrorCode.INTERNAL, 502)],
)
async def test_a_reset_before_ready_is_a_refusal(
    place: Place, code: ErrorCode, reject: int
) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            opened.stream.reset(code)
            assert await app.until_reset() == b""
        line = await place.seen.wait("open refused", code=reject)
        assert code.name in str(line["reason"])


async def test_a_used_id_is_drawn_anew(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            first = await link.opened()
            await first.reject(409, "in use")
            second = await link.spliced()
            assert second.stream_id not in {0, first.stream_id}
            await second.stream.write(b"hello")
            assert await app.read(5) == b"hello"
        assert place.seen.of("open refused") == []


async def test_used_ids_are_not_drawn_for_ever(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            for _ in range(consumer.TRIES):
                await (await link.opened()).reject(409, "in use")
            assert await app.until_reset() == b""
        await place.seen.wait("open refused", code=409)


async def test_what_comes_before_ready_is_held_up_to_64_kib_and_then_not_read(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            async with asyncio.TaskGroup() as group:
                early = group.create_task(opened.stream.write(bytes(2 * 2**20)))
                await everybody_waits()
                assert not early.done()
                await link.ready(opened.stream_id)
                for _ in range(32):
                    assert await app.read(65536) == bytes(65536)


async def test_without_ready_from_a_plain_relay_a_stream_goes_on(place: Place) -> None:
    options = replace(OPTIONS, limits=Limits(ready=0.05))
    async with place.consumer(features=(), options=options) as (agent, link):
        with await agent.app() as app:
            await app.send(b"request")
            opened = await link.opened()
            await opened.stream.write(b"held")
            assert await app.read(4) == b"held"
            assert await read_exactly(opened.stream, 7) == b"request"


async def test_without_ready_from_our_relay_a_stream_is_reset(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "ANSWER_SLACK", 0.01)
    options = replace(OPTIONS, limits=Limits(ready=0.05))
    async with place.consumer(options=options) as (agent, link):
        with await agent.app() as app:
            opened = await link.opened()
            assert await reset_code(opened.stream) is ErrorCode.CANCELLED
            assert await app.until_reset() == b""
        await place.seen.wait("open refused", code=504)


PLAIN_GRANT = orp.AllocGranted(my_allocation=1, peer_allocation=2, forward_endpoint="127.0.0.1:1")


@pytest.mark.parametrize("features", [(), FEATURES], ids=["plain relay", "our relay"])
async def test_what_must_be_forwarded_is_never_spliced(
    place: Place, features: tuple[str, ...]
) -> None:
    options = replace(OPTIONS, limits=Limits(ready=0.05))
    async with place.consumer(features=features, options=options) as (agent, link):
        with await agent.app() as app:
            await app.send(b"secret")
            opened = await link.opened()
            PLAIN_GRANT.stream_id = opened.stream_id
            await link.send(FrameType.ALLOC_GRANTED, PLAIN_GRANT)
            assert await reset_code(opened.stream) is ErrorCode.CANCELLED
            assert await app.until_reset() == b""
        line = await place.seen.wait("open refused", code=502)
        assert "forward mode" in str(line["reason"])


async def test_what_must_take_the_direct_path_is_never_spliced(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            await app.send(b"secret")
            opened = await link.opened()
            ready = orp.StreamReady(stream_id=opened.stream_id, p2p_mode=orp.P2PMode.REQUIRED)
            await link.send(FrameType.STREAM_READY, ready)
            assert await reset_code(opened.stream) is ErrorCode.CANCELLED
            assert await app.until_reset() == b""
        line = await place.seen.wait("open refused", code=403)
        assert "direct path" in str(line["reason"])


async def test_an_application_that_leaves_while_its_stream_opens_ends_it(place: Place) -> None:
    async with place.consumer() as (agent, link):
        app = await agent.app()
        opened = await link.opened()
        app.reset()
        assert await reset_code(opened.stream) is ErrorCode.CANCELLED
        await place.seen.wait("open given up")


async def test_an_application_that_leaves_as_its_stream_is_lost_gets_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.consumer() as (agent, _link):
        tries = 0

        async def lost(*_args: object, **_named: object) -> None:
            nonlocal tries
            tries += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise Reset(ErrorCode.LEG_LOST) from None

        monkeypatch.setattr(consumer, "open_stream", lost)
        app = await agent.app()
        await until(lambda: tries == 1)
        app.reset()
        await place.seen.wait("open given up")
        assert tries == 1


async def test_a_stream_lost_before_it_began_is_opened_again(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            await link.opened()
            link.connection.close(ErrorCode.DRAIN)
            link = await place.relay.accept()
            opened = await link.spliced()
            await opened.stream.write(b"hello")
            assert await app.read(5) == b"hello"


async def test_an_application_waits_for_a_relay_but_not_for_ever(place: Place) -> None:
    options = replace(OPTIONS, limits=Limits(session=0.05))
    async with place.agent(consume=[SERVICE], options=options) as agent:
        with await agent.app() as app:
            assert await app.until_reset() == b""
        line = await place.seen.wait("open refused", code=502)
        assert "no relay is connected" in str(line["reason"])


async def test_an_application_that_came_before_the_relay_is_served(place: Place) -> None:
    async with place.agent(consume=[SERVICE]) as agent:
        with await agent.app() as app:
            await app.send(b"request")
            link = await place.relay.accept()
            opened = await link.spliced()
            assert await read_exactly(opened.stream, 7) == b"request"


async def test_more_streams_than_allowed_are_refused(place: Place) -> None:
    async with place.consumer(options=replace(OPTIONS, max_streams=1)) as (agent, link):
        with await agent.app() as app:
            await link.spliced()
            with await agent.app() as second:
                assert await second.until_reset() == b""
            await place.seen.wait("open refused", code=429)
            app.end()


async def test_a_hundred_streams_at_once(place: Place) -> None:
    async def use(number: int) -> bytes:
        with await agent.app() as app:
            await app.send(b"%d" % number)
            app.end()
            return await app.read_all()

    async def echo() -> None:
        opened = await link.spliced()
        await opened.stream.write(await read_all(opened.stream))
        opened.stream.finish()

    async with place.consumer() as (agent, link):
        async with asyncio.TaskGroup() as group:
            apps = [group.create_task(use(number)) for number in range(100)]
            for _ in range(100):
                group.create_task(echo())
        assert [each.result() for each in apps] == [b"%d" % number for number in range(100)]
        await place.seen.wait("stream ended", count=100, reason="finished")


async def test_refused_opens_are_all_told_of_in_a_line_a_second(place: Place) -> None:
    async with place.consumer() as (agent, link):
        for _ in range(50):
            with await agent.app() as app:
                await (await link.opened()).reject(403, "no")
                assert await app.until_reset() == b""
        told = lines = 0
        while told < 50:
            lines += 1
            line = await place.seen.wait("open refused", code=403, count=lines)
            told += int(str(line.get("times", 1)))
    assert told == 50
    assert lines < 10
