"""What the doctor finds when it opens services, at a relay that the test plays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from outrelay.agent.doctor import opens
from outrelay.agent.doctor.findings import Finding, Mark
from outrelay.agent.options import AgentOptions, Consume, Limits
from outrelay.agent.session.proof import Proof
from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.tasks import beside
from outrelay.lib.transport.memory import EXPIRES
from outrelay.lib.transport.ways import Carrier, Ways
from tests.agent.place import AGENT, OPTIONS, Place
from tests.agent.tcp import HOST
from tests.support.relay_peer import Link

DB = Consume(service="db", method="read", bind=(HOST, 0))
OPTIONS_OPEN: AgentOptions = replace(OPTIONS, opens=True, consume=(DB,))


async def found(
    place: Place,
    relay: Callable[[Link], Awaitable[None]],
    options: AgentOptions = OPTIONS_OPEN,
) -> list[Finding]:
    """What is found while ``relay`` is played."""

    async def play() -> None:
        with suppress(Closed, Reset):
            await relay(await place.relay.accept())

    ways = Ways({Carrier.QUIC: place.network.dialer(AGENT)})
    async with beside(play(), name="relay"):
        return await opens.check(options, AGENT, Proof(EXPIRES), ways)


async def test_a_service_that_is_allowed_and_there(place: Place) -> None:
    ended = []

    async def relay(link: Link) -> None:
        opened = await link.spliced()
        try:
            await opened.stream.read()
        except Reset as reset:
            ended.append(reset.code)

    (finding,) = await found(place, relay)
    assert (finding.subject, finding.mark) == ("open db/read", Mark.OK)
    assert "takes the stream after" in finding.text
    assert ended in ([ErrorCode.CANCELLED], [])  # the connection may be closed before


async def test_one_that_is_refused_with_what_to_do(place: Place) -> None:
    async def relay(link: Link) -> None:
        await (await link.opened()).reject(403, "no rule allows it")

    (finding,) = await found(place, relay)
    assert (finding.mark, finding.text) == (Mark.FAIL, "403 no rule allows it")
    assert "policy add" in finding.advice
    assert "--method read" in finding.advice


async def test_a_relay_that_breaks_off(place: Place) -> None:
    async def relay(link: Link) -> None:
        await link.opened()
        link.connection.close(ErrorCode.DRAIN, "shutting down")

    (finding,) = await found(place, relay)
    assert finding.mark is Mark.FAIL
    assert finding.text.startswith("broke off: closed by peer (DRAIN)")


async def test_where_no_relay_answers_nothing_is_found(place: Place) -> None:
    async def relay(link: Link) -> None:
        raise AssertionError("nobody comes")

    nowhere = replace(OPTIONS_OPEN, relays=((HOST, 1),), limits=Limits(hello=0.1))
    assert await found(place, relay, nowhere) == []


async def test_without_services_it_says_so(place: Place) -> None:
    async def relay(link: Link) -> None:
        raise AssertionError("nobody comes")

    (finding,) = await found(place, relay, replace(OPTIONS_OPEN, consume=()))
    assert (finding.mark, finding.advice) == (Mark.WARN, opens.NOTHING)
