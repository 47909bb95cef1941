"""The control stream: registrations, pings, and frames nobody knows."""

from __future__ import annotations

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.lib.control.v1 import policy_pb2 as policy
from outrelay.lib.errors import Closed, ErrorCode
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.policy import Decision
from outrelay.lib.transport.memory import MemoryConnection
from outrelay.relay.edge.session import Offer
from outrelay.relay.limits import Bounds, Limits
from tests.relay.rooms import ALLOW_ALL, Rooms, relay_rooms, rule
from tests.support.peers import AGENT_A, AGENT_B, FEATURES, AgentPeer, rejection
from tests.support.turns import until

DENY_REGISTER = rule("db", rule_id="2", method="REGISTER", decision=Decision.DENY)
LET_B_REGISTER = rule("db", rule_id="3", method="REGISTER", caller=AGENT_B.uri)


async def refusal(peer: AgentPeer) -> orp.StreamReject:
    """The next control frame, which refuses a registration."""
    return await peer.expect(FrameType.REGISTER_NACK, orp.StreamReject)


def offered(relay: Rooms, peer: AgentPeer) -> dict[str, Offer]:
    """What the relay has of an agent's offers."""
    return relay.directory.offers_of(peer.identity.uri)


async def test_a_registration_is_acknowledged_with_the_services_id() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_B)
        ack = await peer.register("echo", local_addr="127.0.0.1:80", weight=3, priority=4)

        assert ack.service_id == "acme/echo"
        assert offered(relay, peer) == {
            "echo": Offer(local_addr="127.0.0.1:80", weight=3, priority=4)
        }
        assert relay.published == [AGENT_B.uri]


@pytest.mark.parametrize(
    ("address", "ip"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
    ],
)
async def test_an_agent_is_told_where_its_packets_come_from(address: str, ip: str) -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A)
        (session,) = relay.roster.of(AGENT_A.uri)
        assert isinstance(session.connection, MemoryConnection)
        session.connection.peer_address = (address, 4000)
        await peer.send(FrameType.OBSERVED_ADDR_QUERY, orp.ObservedAddrQuery(request_id=9))
        answer = await peer.expect(FrameType.OBSERVED_ADDR_RESP, orp.ObservedAddrResp)
        assert answer == orp.ObservedAddrResp(request_id=9, ip=ip, port=4000)


@pytest.mark.parametrize("address", ["two\nlines", "x" * 256])
async def test_an_address_nobody_could_read_is_left_out(address: str) -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_B)
        await peer.register("echo", local_addr=address)

        assert offered(relay, peer) == {"echo": Offer()}


async def test_it_is_acknowledged_before_there_is_any_policy() -> None:
    async with relay_rooms(rules=None) as relay:
        peer = await relay.agent(AGENT_B)

        assert (await peer.register("echo")).service_id == "acme/echo"


async def test_registering_again_changes_nothing_but_what_is_new() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_B)
        await peer.register("echo")
        await peer.register("echo")
        assert relay.published == [AGENT_B.uri]

        await peer.register("echo", weight=2)
        assert relay.published == [AGENT_B.uri] * 2
        assert offered(relay, peer) == {"echo": Offer(weight=2)}
        [event] = relay.events("")
        assert (event.target, event.method, event.decision, event.stream_id) == (
            "echo",
            "REGISTER",
            policy.DECISION_ALLOW,
            "",
        )


async def test_deregistering_ends_the_offer() -> None:
    async with relay_rooms() as relay:
        peer = await relay.provider()
        await peer.deregister("echo")
        await peer.deregister("never offered")

        assert offered(relay, peer) == {}
        assert relay.published == [AGENT_B.uri] * 2
        consumer = await relay.agent(AGENT_A)
        stream = await consumer.open("echo", stream_id=7)
        assert (await rejection(stream))[0] == 404


async def test_the_end_of_the_connection_ends_its_offers() -> None:
    async with relay_rooms() as relay:
        other = await relay.provider(AGENT_B, "other")
        peer = await relay.provider(AGENT_B, "echo")
        peer.connection.close()
        await until(lambda: len(relay.published) == 3)

        assert offered(relay, other) == {"other": Offer()}
        assert relay.published == [AGENT_B.uri] * 3


BAD_NAMES = {
    "empty": "",
    "slash": "a/b",
    "space": "a b",
    "control": "a\tb",
    "not ASCII": "héllo",
    "too long": "x" * 256,
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
async def test_a_name_that_is_none_is_refused(name: str) -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_B, *FEATURES)
        await peer.ask_to_register(name)

        nack = await refusal(peer)
        assert (nack.code, nack.service_name) == (400, name[:255])
        assert offered(relay, peer) == {}


async def test_the_longest_name_is_fine() -> None:
    async with relay_rooms() as relay:
        name = "!" + "~" * 254

        assert (await (await relay.agent(AGENT_B)).register(name)).service_id == f"acme/{name}"


async def test_services_are_bounded() -> None:
    async with relay_rooms(limits=Limits(services=Bounds(agent=2, tenant=9))) as relay:
        peer = await relay.agent(AGENT_B, *FEATURES)
        await peer.register("one")
        await peer.register("two")
        await peer.ask_to_register("three")
        assert (await refusal(peer)).code == 429

        await peer.register("two")
        await peer.deregister("one")
        await peer.register("three")


async def test_a_registration_that_policy_denies_is_refused_and_recorded() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, DENY_REGISTER]) as relay:
        peer = await relay.agent(AGENT_B, *FEATURES)
        await peer.ask_to_register("db")

        nack = await refusal(peer)
        assert (nack.code, nack.service_name) == (403, "db")
        assert "rule 2" in nack.reason
        [event] = relay.events("reject")
        assert (event.event, event.method, event.decision) == (
            "reject",
            "REGISTER",
            policy.DECISION_DENY,
        )
        assert relay.metric("outrelay_policy_decisions_total", decision="deny") == 1


async def test_once_a_rule_is_about_registering_the_others_need_one() -> None:
    async with relay_rooms(rules=[ALLOW_ALL, LET_B_REGISTER]) as relay:
        one, other = await relay.agent(AGENT_A, *FEATURES), await relay.agent(AGENT_B, *FEATURES)
        await one.ask_to_register("db")
        assert (await refusal(one)).code == 403

        assert (await other.register("db")).service_id == "acme/db"


async def test_a_plain_agent_hears_nothing_of_a_refusal() -> None:
    async with relay_rooms(rules=[DENY_REGISTER]) as relay:
        peer = await relay.agent(AGENT_B, "resume/2")
        await peer.ask_to_register("db")

        await peer.ping()  # the very next frame is its answer
        assert offered(relay, peer) == {}


async def test_a_rule_that_comes_later_counts_for_the_next_stream() -> None:
    async with relay_rooms(rules=[ALLOW_ALL]) as relay:
        provider = await relay.provider(AGENT_B, "db")
        consumer = await relay.agent(AGENT_A)
        await consumer.open("db", stream_id=7)
        await provider.incoming()

        relay.judge.add(DENY_REGISTER)
        stream = await consumer.open("db", stream_id=8)
        assert (await rejection(stream))[0] == 404


async def test_a_ping_is_answered_and_a_pong_is_not() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A)
        await peer.send(FrameType.PONG, Empty())

        await peer.ping()


async def test_unknown_frames_are_skipped_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="outrelay")
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A)
        for _ in range(3):
            await peer.control.write(b"\x27\xfe\x00\x00\x00\x00\x00\x03???")
            await peer.send(FrameType.STREAM_CHECKPOINT, orp.StreamCheckpoint(stream_id=1))
        await peer.ping()

        assert caplog.text.count("unknown frames are skipped") == 1
        assert "0x7fe" in caplog.text


async def test_many_frames_at_once_leave_others_their_turn() -> None:
    """Among the others is the outbox: without its turn the answers would exceed its limit."""
    async with relay_rooms(limits=Limits(outbox_bytes=1000)) as relay:
        busy = await relay.agent(AGENT_A)
        await busy.control.write(encode(FrameType.PING, Empty()) * 2000)

        for _ in range(2000):
            await busy.expect(FrameType.PONG, Empty)


async def test_an_agent_that_does_not_read_is_closed_and_delays_nobody() -> None:
    async with relay_rooms(limits=Limits(outbox_bytes=1000)) as relay:
        deaf, other = await relay.agent(AGENT_A), await relay.agent(AGENT_B)
        pings = encode(FrameType.PING, Empty()) * 100
        with pytest.raises(Closed) as caught:
            while True:
                await deaf.control.write(pings)
                await other.ping()

        assert caught.value.code is ErrorCode.LIMIT
        await other.ping()
