"""The agent as a whole: how it starts, what it refuses to start with, how it stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from outrelay.agent import app, streams
from outrelay.agent.options import AgentOptions, Consume
from outrelay.agent.session import uplink
from outrelay.agent.session.proof import Proof
from outrelay.agent.session.session import Session
from outrelay.lib.errors import ConfigError, ErrorCode, IdentityError, Refused, TransportError
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.service import cause_of
from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.memory import EXPIRES
from outrelay.lib.transport.pipe import WINDOW
from outrelay.lib.transport.quic import QuicEndpoint
from tests.agent.place import AGENT, OPTIONS, SERVICE, Place
from tests.agent.tcp import HOST, Backend, connect
from tests.support.pki import TestPki, save, save_trust
from tests.support.ports import unused_port
from tests.support.relay_peer import RelayPeer, read_all, read_exactly, reset_code

pytestmark = pytest.mark.both_loops


def draining(seconds: float) -> AgentOptions:
    return replace(OPTIONS, drain=seconds)


async def test_told_to_stop_an_idle_agent_says_goodbye_and_ends(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (agent, link):
            await place.seen.wait("ready")
            agent.stop.set()
            assert await link.deregistered() == SERVICE
            await agent.ended()
            closed = await link.connection.wait_closed()
            assert (closed.by_peer, closed.code) == (True, ErrorCode.NONE)


async def test_a_plain_relay_gets_no_deregister(place: Place) -> None:
    async with place.provider(unused_port(), features=()) as (agent, link):
        await place.seen.wait("ready")
        agent.stop.set()
        await agent.ended()
        with pytest.raises(Exception, match="closed by peer"):
            await link.frame()


async def test_an_agent_stops_without_a_relay(place: Place) -> None:
    await place.relay.listener.close()
    async with place.agent(consume=[SERVICE]) as agent:
        await place.seen.wait("no relay connected")
        agent.stop.set()
        await agent.ended()


async def test_a_relay_found_while_stopping_gets_no_services(place: Place) -> None:
    async with place.agent(consume=["web"], expose={SERVICE: unused_port()}) as agent:
        link = await place.relay.accept()
        await link.registered()
        await place.seen.wait("ready")
        with await agent.app("web") as running:
            await link.opened()
            agent.stop.set()
            await place.seen.wait("draining")
            link.connection.close(ErrorCode.DRAIN)
            link = await place.relay.accept()
            await (await link.opened()).reject(404, "gone")  # the first frame: no REGISTER came
            assert await running.until_reset() == b""
        await agent.ended()
        assert len(place.seen.of("registered")) == 1


async def test_an_agent_with_nothing_to_do_says_so(place: Place) -> None:
    async with place.agent():
        await place.seen.wait("nothing to do")


async def test_running_streams_finish_and_no_new_ones_begin(place: Place) -> None:
    with Backend() as backend:
        async with place.agent(consume=["web"], expose={SERVICE: backend.port}) as agent:
            link = await place.relay.accept()
            await link.registered()
            with await agent.app("web") as running:
                opened = await link.spliced()
                agent.stop.set()
                await link.deregistered()
                await place.seen.wait("draining")
                with pytest.raises(Refused):
                    await agent.app("web")
                assert (await (await link.incoming(SERVICE)).rejected()).code == 503
                await running.send(b"last words")
                running.end()
                assert await read_all(opened.stream) == b"last words"
                await opened.stream.write(b"goodbye")
                opened.stream.finish()
                assert await running.read_all() == b"goodbye"
            await agent.ended()
            assert place.seen.of("streams cut off") == []
            assert (await link.connection.wait_closed()).code is ErrorCode.NONE


async def test_a_stream_is_finished_when_the_far_end_has_everything(place: Place) -> None:
    data = bytes(WINDOW + WRITE_BUFFER)
    async with place.consumer() as (agent, link):
        with await agent.app() as running:
            opened = await link.spliced()
            opened.stream.finish()
            await running.send(data)
            running.end()
            assert await running.read_all() == b""
            for _ in range(50):
                await asyncio.sleep(0)
            assert place.seen.of("stream ended") == []
            agent.stop.set()
            await place.seen.wait("draining")
            assert await read_all(opened.stream) == data
            await agent.ended()


async def test_streams_that_do_not_finish_are_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_FLUSH", 0.0)
    async with place.consumer(options=draining(0.05)) as (agent, link):
        with await agent.app() as running:
            opened = await link.spliced()
            await running.send(b"half")
            assert await read_exactly(opened.stream, 4) == b"half"
            agent.stop.set()
            assert await reset_code(opened.stream) is ErrorCode.DRAIN
            assert await running.until_reset() == b""
            await agent.ended()
        await place.seen.wait("streams cut off", streams=1)
        await place.seen.wait("stream ended", reason="the agent stops")


async def test_a_second_signal_ends_everything_at_once(place: Place) -> None:
    async with place.consumer(options=draining(3600)) as (agent, link):
        with await agent.app() as running:
            opened = await link.spliced()
            agent.stop.set()
            await place.seen.wait("draining")
            assert agent.task
            agent.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await agent.ended()
            assert await running.until_reset() == b""
            with pytest.raises(TransportError):
                await read_all(opened.stream)


async def test_a_relay_that_reads_nothing_does_not_keep_the_agent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stall(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(uplink, "DEREGISTER_MOST", 0.01)
    monkeypatch.setattr(Session, "deregister", stall)
    async with place.provider(unused_port()) as (agent, _):
        await place.seen.wait("ready")
        agent.stop.set()
        await agent.ended()
        await place.seen.wait("services not deregistered", error="the relay is slow")


async def test_a_listener_that_cannot_be_had_ends_the_others(place: Place) -> None:
    with Backend() as taken:
        free = unused_port()
        options = replace(
            OPTIONS,
            consume=(
                Consume(service="db", bind=(HOST, free)),
                Consume(service="web", bind=(HOST, taken.port)),
            ),
        )
        with pytest.raises(ConfigError, match="Address already in use"):
            await app.serve(options, AGENT, Proof(EXPIRES), place.ways(), asyncio.Event())
        with pytest.raises(Refused):
            await connect(free)


PKI = TestPki()


def options_for(credentials: Credentials, folder: Path, **changes: object) -> AgentOptions:
    files = save(credentials, folder / "agent")
    ca = save_trust(PKI.trust, folder / "ca.pem")
    return replace(OPTIONS, cert=files.cert, key=files.key, ca=ca, **changes)  # type: ignore[arg-type]


def test_check_finds_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    credentials = PKI.agent()
    options = options_for(
        credentials,
        tmp_path,
        uri=credentials.identity.uri,
        consume=(Consume(service="db", bind=(HOST, 0)),),
    )
    assert list(app.check(options)) == []


def test_check_finds_all_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://proxy")
    with Backend() as taken:
        options = options_for(
            PKI.agent(),
            tmp_path,
            uri=AGENT.uri,
            consume=(Consume(service="db", bind=(HOST, taken.port)),),
        )
        options = replace(options, ca=tmp_path / "missing.pem")
        uri, ca, proxy, bind = app.check(options)
    assert uri.startswith(
        "--uri outrelay://acme/agent/4a9c3f52-6d0e-4c0b-9a57-0d1f3b7e2c11: is not"
    )
    assert "missing.pem" in ca
    assert proxy.startswith("https_proxy: a proxy is spoken to in http")
    assert bind.startswith("--consume db@")


@pytest.mark.parametrize("kind", ["relay", "operator", "expired"])
def test_a_certificate_that_is_no_agents_is_refused(tmp_path: Path, kind: str) -> None:
    credentials, fault = {
        "relay": (PKI.relay(), "is the certificate of outrelay://local/relay/r1, not an agent's"),
        "operator": (PKI.operator(), "not an agent's"),
        "expired": (PKI.agent(lifetime=timedelta(seconds=-60)), "expired at"),
    }[kind]
    with pytest.raises(IdentityError, match=fault):
        app.load_identity(options_for(credentials, tmp_path))


async def test_a_real_agent_and_a_real_connection(tmp_path: Path, place: Place) -> None:
    listener = await QuicEndpoint.bind(
        (HOST, 0), credentials=PKI.relay(), trust=PKI.trust, accept_roles={Role.AGENT}
    )
    credentials = PKI.agent()
    options = options_for(credentials, tmp_path, relays=(listener.address,))
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(app.run(options, stop))
            link = await RelayPeer(listener).connected()
            assert (await link.hello()).agent_uri == credentials.identity.uri
            await link.acknowledge()
            await place.seen.wait("ready")
            stop.set()
            assert (await link.connection.wait_closed()).code is ErrorCode.NONE
    finally:
        await listener.close()


async def test_a_relay_of_another_ca_ends_the_agent(tmp_path: Path) -> None:
    other = TestPki()
    listener = await QuicEndpoint.bind((HOST, 0), credentials=other.relay(), trust=PKI.trust)
    options = options_for(PKI.agent(), tmp_path, relays=(listener.address,))
    try:
        with pytest.raises(ExceptionGroup) as errors:
            await app.run(options, asyncio.Event())
    finally:
        await listener.close()
    refused = cause_of(errors.value)
    assert isinstance(refused, Refused)
    assert "check --cert, --key, --ca" in str(refused)


async def test_a_relay_that_does_not_trust_the_agent_ends_it(tmp_path: Path) -> None:
    listener = await QuicEndpoint.bind(
        (HOST, 0), credentials=PKI.relay(), trust=TestPki().trust, accept_roles={Role.AGENT}
    )
    options = options_for(PKI.agent(), tmp_path, relays=(listener.address,))
    try:
        with pytest.raises(ExceptionGroup) as errors:
            await app.run(options, asyncio.Event())
    finally:
        await listener.close()
    assert isinstance(cause_of(errors.value), Refused)
