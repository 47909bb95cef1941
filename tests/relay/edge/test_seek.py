"""Several providers of a service: who is asked, who is skipped, who is spared, what is told."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.identity.uri import Identity
from outrelay.lib.policy import Decision, P2PMode, RelayMode
from outrelay.lib.transport.carrier import Stream
from outrelay.relay.limits import Bounds, Limits
from outrelay.relay.revoke import Revoker
from tests.relay.rooms import ALLOW_ALL, Rooms, call, relay_rooms, rule, severed
from tests.support.events import events
from tests.support.peers import (
    AGENT_A,
    AGENT_B,
    AGENT_C,
    FEATURES,
    AgentPeer,
    accept,
    reject,
    rejection,
)
from tests.support.turns import everybody_waits, until
from tests.support.virtual_loop import elapsed

pytestmark = pytest.mark.virtual_time

AGENT_D = Identity.parse("outrelay://acme/agent/0d0d0d0d-0000-4000-8000-000000000001")
AGENT_E = Identity.parse("outrelay://acme/agent/0e0e0e0e-0000-4000-8000-000000000001")
PROVIDERS = (AGENT_B, AGENT_C, AGENT_D, AGENT_E)

ONE, TWO = b"1" * 16, b"2" * 16


class Cast:
    """A consumer, and providers of the service echo."""

    def __init__(self, relay: Rooms, consumer: AgentPeer, providers: list[AgentPeer]) -> None:
        self.relay = relay
        self.consumer = consumer
        self.providers = providers
        self._ids = 0

    @classmethod
    async def of(cls, relay: Rooms, count: int) -> Cast:
        """So many providers, asked in the order they have here."""
        providers = [await relay.provider(each) for each in PROVIDERS[:count]]
        return cls(relay, await relay.agent(AGENT_A, *FEATURES), providers)

    async def open(self) -> Stream:
        """A call of echo."""
        self._ids += 1
        return await self.consumer.open("echo", stream_id=self._ids)

    async def asked(self, number: int) -> Stream:
        """The stream by which a provider is asked to serve the last call."""
        far, incoming = await self.providers[number].incoming()
        assert incoming.stream_id == self._ids
        return far

    async def call(self, *, served_by: int) -> tuple[Stream, Stream]:
        """A call that a provider serves."""
        near = await self.open()
        far = await self.asked(served_by)
        await accept(far)
        ready = await self.consumer.ready()
        assert ready.peer_agent_uri == self.providers[served_by].identity.uri
        await self.providers[served_by].ready()
        return near, far

    async def hang_up(self, near: Stream, far: Stream) -> None:
        """End a call."""
        before = len(self.relay.pairs)
        near.finish()
        far.finish()
        await until(lambda: len(self.relay.pairs) == before - 1)

    async def refuse(self, number: int, code: int = 503, reason: str = "not now") -> None:
        """Have a provider refuse the last call."""
        await reject(await self.asked(number), code, reason)

    def rests(self, number: int) -> bool:
        """Whether a provider rests."""
        (session,) = self.relay.roster.of(self.providers[number].identity.uri)
        return session.standing("echo").rests(asyncio.get_running_loop().time())


async def given_up(stream: Stream) -> None:
    """The relay has given up a try: what the provider still says goes nowhere."""
    with pytest.raises(Reset) as caught:
        await stream.read()
    assert caught.value.code is ErrorCode.CANCELLED
    with pytest.raises(Reset):
        await accept(stream, early=b"too late")


# ---- the order ---------------------------------------------------------------------------------


async def test_who_carries_least_is_asked_first_and_of_equals_each_in_turn() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 3)
        first = [await cast.call(served_by=number) for number in (0, 1, 2)]
        await cast.hang_up(*first[1])
        await cast.call(served_by=1)
        for number in (0, 2, 1, 0, 2):
            await cast.call(served_by=number)


async def test_streams_of_all_services_and_streams_being_opened_count() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        await cast.providers[0].register("other")
        await cast.consumer.open("other", stream_id=100)
        await cast.providers[0].incoming()  # and says nothing

        await cast.call(served_by=1)
        await cast.call(served_by=0)
        await cast.call(served_by=1)


async def test_a_heavier_provider_carries_more() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        await cast.providers[0].register("echo", weight=3)
        for number in (0, 1, 0, 0, 1, 0, 0, 0, 1):
            await cast.call(served_by=number)


async def test_the_lower_priority_number_has_all_calls_while_it_serves() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        await cast.providers[0].register("echo", priority=1)
        for _ in range(3):
            await cast.call(served_by=1)

        await cast.open()
        await cast.refuse(1)
        await accept(await cast.asked(0))


async def test_the_newest_process_of_an_agent_has_all_calls_while_it_serves() -> None:
    async with relay_rooms() as relay:
        replicas = [await relay.agent(AGENT_B, *FEATURES, instance=each) for each in (ONE, TWO)]
        for each in replicas:
            await each.register("echo")
        cast = Cast(relay, await relay.agent(AGENT_A, *FEATURES), replicas[::-1])
        for _ in range(3):
            await cast.call(served_by=0)
        await cast.open()
        await cast.refuse(0)
        await accept(await cast.asked(1))


# ---- a try that fails --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "rests"),
    [(404, True), (502, True), (503, True), (504, True), (418, True), (403, False), (429, False)],
)
async def test_who_refuses_for_its_own_reasons_is_skipped(code: int, *, rests: bool) -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        await cast.open()
        await cast.refuse(0, code)
        await accept(await cast.asked(1))
        assert (await cast.consumer.ready()).peer_agent_uri == AGENT_C.uri

        assert elapsed() == 0
        assert cast.rests(0) is rests
        assert relay.events("reject") == []
        [opened] = relay.events("open")
        assert (opened.provider, opened.decision) == (AGENT_C.uri, policy.DECISION_ALLOW)
        heard = 503 if code == 418 else code
        assert relay.metric("outrelay_provider_refusals_total", code=str(heard)) == 1
        assert relay.metric("outrelay_streams_ended_total", result=str(heard)) == 0


@pytest.mark.parametrize("code", [400, 409])
async def test_a_refusal_of_the_call_itself_is_the_answer(code: int) -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        near = await cast.open()
        await cast.refuse(0, code)
        assert await rejection(near) == (code, "not now")
        assert not cast.rests(0)


async def test_who_is_silent_is_skipped_after_two_seconds() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        await cast.open()
        silent = await cast.asked(0)
        near = await cast.asked(1)
        assert elapsed() == 2.0
        await accept(near)
        assert (await cast.consumer.ready()).peer_agent_uri == AGENT_C.uri
        await given_up(silent)
        assert cast.rests(0)
        await cast.providers[0].ping()  # heard nothing of a stream
        assert len(relay.pairs) == 1


async def test_what_a_skipped_provider_says_late_is_lost() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        near = await cast.open()
        silent = await cast.asked(0)
        far = await cast.asked(1)
        with pytest.raises(Reset):
            await accept(silent, early=b"I am late")
        await accept(far, early=b"I am not")
        await cast.consumer.ready()
        assert await near.read() == b"I am not"


@pytest.mark.parametrize(
    ("providers", "asked_at"),
    [(1, [0]), (2, [0, 2]), (3, [0, 2, 4]), (4, [0, 2, 4])],
)
async def test_the_last_one_has_what_is_left_of_ten_seconds(
    providers: int, asked_at: list[float]
) -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, providers)
        near = await cast.open()
        for number, moment in enumerate(asked_at):
            await cast.asked(number)
            assert elapsed() == moment
        code, reason = await rejection(near)
        assert (elapsed(), code) == (10.0, 504)
        tried = "" if providers == 1 else f" (none of the {len(asked_at)} providers tried took it)"
        left = 10 - asked_at[-1]
        assert reason == f"the provider did not answer within {left:g} s{tried}"


async def test_a_provider_that_gives_no_stream_in_time_is_skipped_and_rests() -> None:
    async with relay_rooms(max_streams=2) as relay:
        cast = await Cast.of(relay, 1)
        line = await call(relay, stream_id=100, provider=cast.providers[0])
        other = await relay.agent(AGENT_C, *FEATURES)
        await call(relay, stream_id=101, consumer=other, provider=line.provider)
        cast.providers.append(await relay.agent(AGENT_D, *FEATURES))
        await cast.providers[1].register("echo", priority=1)
        await cast.open()
        await accept(await cast.asked(1))
        await cast.consumer.ready()

        assert elapsed() == 2.0
        assert cast.rests(0)
        assert relay.metric("outrelay_provider_refusals_total", code="504") == 1


async def test_a_provider_that_goes_while_it_is_asked_is_skipped_at_once() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        await cast.open()
        await cast.asked(0)
        severed(cast.providers[0])
        await accept(await cast.asked(1))
        await cast.consumer.ready()
        assert elapsed() == 0


async def test_an_agent_that_connects_anew_while_it_is_asked_is_asked_again() -> None:
    async with relay_rooms() as relay:
        first = await relay.agent(AGENT_B, *FEATURES, instance=ONE)
        await first.register("echo")
        cast = Cast(relay, await relay.agent(AGENT_A, *FEATURES), [first])
        await cast.open()
        await cast.asked(0)
        cast.providers = [await relay.agent(AGENT_B, *FEATURES, instance=ONE)]
        await accept(await cast.asked(0))
        await cast.consumer.ready()


async def test_who_withdraws_while_another_one_is_asked_is_not_asked() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 3)
        await cast.open()
        far = await cast.asked(0)
        await cast.providers[1].deregister("echo")
        await reject(far, 503, "no")
        await accept(await cast.asked(2))
        await cast.consumer.ready()


# ---- when all fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "heard"),
    [
        ([(503, "one"), (503, "two"), (503, "three")], (503, "three")),
        ([(429, "full"), (404, "lost it"), (403, "not you")], (429, "full")),
        ([(404, "lost it"), (404, "so have I")], (404, "so have I")),
        ([(502, "backend"), (503, "busy"), (404, "lost it")], (503, "busy")),
    ],
)
async def test_the_consumer_hears_what_tells_most_and_how_many_were_tried(
    answers: list[tuple[int, str]], heard: tuple[int, str]
) -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, len(answers))
        near = await cast.open()
        for number, answer in enumerate(answers):
            await cast.refuse(number, *answer)
        code, reason = heard
        told = f"{reason} (none of the {len(answers)} providers tried took it)"
        assert await rejection(near) == (code, told)
        [event] = relay.events("reject")
        assert event.reason == f"{code} {told}"
        assert len(relay.pairs) == 0
        assert [session.serving for session in relay.roster] == [0] * (len(answers) + 1)


async def test_only_three_are_tried() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 4)
        near = await cast.open()
        for number in range(3):
            await cast.refuse(number)
        assert "none of the 3 providers" in (await rejection(near))[1]
        await cast.call(served_by=3)


async def test_the_id_is_in_use_and_the_stream_counts_over_all_tries() -> None:
    async with relay_rooms(limits=Limits(streams=Bounds(agent=1, tenant=9))) as relay:
        cast = await Cast.of(relay, 2)
        await cast.open()
        await cast.asked(0)
        await cast.asked(1)
        other = await relay.agent(AGENT_C, *FEATURES)
        assert (await rejection(await other.open("echo", stream_id=1)))[0] == 409
        assert (await rejection(await cast.consumer.open("echo", stream_id=9)))[0] == 429


# ---- rests -------------------------------------------------------------------------------------


async def test_a_failed_provider_is_spared_for_five_seconds() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        await cast.open()
        with events() as seen:
            await cast.refuse(0, 502, "backend is down")
            await accept(await cast.asked(1))
            await cast.consumer.ready()
            await cast.providers[1].ready()
        (line,) = seen.of("provider rests")
        assert (line["provider"], line["seconds"]) == (AGENT_B.uri, 5.0)
        assert line["reason"] == "502 backend is down"
        await asyncio.sleep(4.9)
        await cast.call(served_by=1)  # although it carries one already
        await asyncio.sleep(0.1)
        await cast.call(served_by=0)
        await cast.call(served_by=0)


async def test_rests_grow_with_each_failure_and_begin_anew_after_a_success() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 1)
        for rest in (5, 10, 20, 40, 60, 60):
            near = await cast.open()
            await cast.refuse(0)
            await rejection(near)
            await asyncio.sleep(rest - 0.1)
            assert cast.rests(0)
            await asyncio.sleep(0.1)
            assert not cast.rests(0)
        near = await cast.open()
        await cast.refuse(0)
        await rejection(near)
        await cast.call(served_by=0)
        assert not cast.rests(0)


async def test_who_rests_is_asked_when_nobody_else_is_left() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        near = await cast.open()
        await cast.refuse(0)
        await cast.refuse(1)
        await rejection(near)
        assert cast.rests(0)
        assert cast.rests(1)
        await cast.open()
        await cast.refuse(0)
        await accept(await cast.asked(1))
        await cast.consumer.ready()
        assert elapsed() == 0


async def test_one_backend_that_is_down_does_not_spare_the_agents_other_services() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        for each in cast.providers:
            await each.register("other")
        near = await cast.open()
        await cast.refuse(0)
        await cast.refuse(1)
        await rejection(near)
        (session,) = relay.roster.of(AGENT_B.uri)
        assert session.standing("echo").rest == 5.0
        assert session.standing("other").rest == 0.0


async def test_calls_that_fail_together_are_one_failure() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 1)
        near = [await cast.consumer.open("echo", stream_id=number) for number in range(1, 21)]
        far = [(await cast.providers[0].incoming())[0] for _ in near]
        for each in far:
            await reject(each, 503, "no")
        for each in near:
            await rejection(each)
        (session,) = relay.roster.of(AGENT_B.uri)
        assert session.standing("echo").rest == 5.0


# ---- what takes effect on the next call --------------------------------------------------------


@pytest.mark.parametrize("how", ["deregister", "close", "sever", "replace"])
async def test_who_is_gone_is_not_asked_any_more(how: str) -> None:
    async with relay_rooms() as relay:
        leaver = await relay.agent(AGENT_B, *FEATURES, instance=ONE)
        await leaver.register("echo")
        stayer = await relay.provider(AGENT_C)
        cast = Cast(relay, await relay.agent(AGENT_A, *FEATURES), [leaver, stayer])
        await cast.hang_up(*await cast.call(served_by=0))
        await cast.hang_up(*await cast.call(served_by=1))
        match how:
            case "deregister":
                await leaver.deregister("echo")
            case "close":
                leaver.connection.close()
            case "sever":
                severed(leaver)
            case "replace":
                again = await relay.agent(AGENT_B, *FEATURES, instance=ONE)
                await again.deregister("echo")
        await everybody_waits()
        for _ in range(3):
            await cast.call(served_by=1)
        assert elapsed() == 0


# ---- policy ------------------------------------------------------------------------------------


async def test_a_providers_own_rules_count_for_it_alone() -> None:
    rules = [ALLOW_ALL, rule(AGENT_D.uri, rule_id="2", caller=AGENT_B.uri)]  # B serves only D
    async with relay_rooms(rules=rules) as relay:
        cast = await Cast.of(relay, 2)
        near = await cast.open()
        await cast.refuse(1)
        assert await rejection(near) == (503, "not now")


@pytest.mark.parametrize(
    "mode", [{"p2p_mode": P2PMode.REQUIRED}, {"relay_mode": RelayMode.FORWARD}]
)
async def test_a_provider_whose_rules_ask_for_another_path_is_passed_over(
    mode: dict[str, P2PMode | RelayMode],
) -> None:
    demanding = rule("outrelay://*", rule_id="2", caller=AGENT_B.uri, **mode)  # type: ignore[arg-type]
    async with relay_rooms(rules=[ALLOW_ALL, demanding]) as relay:
        cast = await Cast.of(relay, 2)
        await cast.call(served_by=1)
        await cast.call(served_by=1)


async def test_who_may_no_longer_offer_the_service_is_not_asked() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        relay.judge.add(rule("echo", rule_id="2", method="REGISTER", caller=AGENT_C.uri))
        await cast.call(served_by=1)
        await cast.call(served_by=1)


async def test_a_call_that_is_revoked_meanwhile_asks_nobody_else() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 2)
        near = await cast.open()
        far = await cast.asked(0)
        relay.judge.add(rule("echo", rule_id="no", decision=Decision.DENY))
        await Revoker(relay.judge, relay.pairs, relay.trail).judge_all()
        await reject(far, 503, "no")
        assert await rejection(near) == (403, "denied by policy rule no")
        assert len(relay.pairs) == 0


async def test_a_consumer_that_goes_while_the_second_is_asked_leaves_nothing() -> None:
    async with relay_rooms() as relay:
        cast = await Cast.of(relay, 3)
        await cast.open()
        tries = [await cast.asked(0), await cast.asked(1)]
        severed(cast.consumer)
        await until(lambda: len(list(relay.roster)) == 3)
        assert len(relay.pairs) == 0
        for each in tries:
            await given_up(each)
        assert elapsed() == 2.0
        assert [session.serving for session in relay.roster] == [0, 0, 0]
