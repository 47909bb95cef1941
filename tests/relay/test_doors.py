"""A relay with two doors: opened both or none, told to others, and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import Closed, ConfigError, ErrorCode, Reset
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic import QuicEndpoint, engines
from outrelay.lib.transport.quic.engines import EngineChoice
from outrelay.lib.transport.tcp.dialer import TcpDialer
from outrelay.lib.transport.tcp.listener import TcpListener
from outrelay.lib.transport.ways import Carrier
from outrelay.lib.values import address_text, parse_address
from outrelay.relay import app
from outrelay.relay.app import run
from outrelay.relay.doors import door_faults, open_doors
from outrelay.relay.options import RelayOptions
from tests.relay.fake_controller import fake_controller
from tests.support.events import Events, events
from tests.support.peers import FEATURES, AgentPeer, accept, read_all
from tests.support.pki import TestPki, save, save_trust

PKI = TestPki()
ANY_PORT = ("127.0.0.1", 0)
NOBODY = "127.0.0.1:1"


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RelayOptions:
    """Those of a relay that listens on any ports."""
    monkeypatch.setattr(app, "SETTLE", 0.01)  # nobody is there to be told anything
    files = save(PKI.relay(), tmp_path / "relay")
    return RelayOptions(
        listen=ANY_PORT,
        listen_tcp=ANY_PORT,
        controllers=(NOBODY,),
        controller_plaintext=True,
        cert=files.cert,
        key=files.key,
        ca=save_trust(PKI.trust, tmp_path / "ca.pem"),
        allow_all=True,
    )


class Agents:
    """Agents that come by either carrier."""

    def __init__(self, stack: AsyncExitStack, seen: Events) -> None:
        self._stack = stack
        self._seen = seen

    async def door(self, carrier: str) -> Address:
        """Where the relay listens."""
        line = await self._seen.wait("listening", carrier=carrier)
        return parse_address(str(line["address"]))

    async def come(self, carrier: str) -> AgentPeer:
        """A new agent, which has said nothing yet."""
        credentials = PKI.agent()
        dialer: QuicEndpoint | TcpDialer
        if carrier == "tcp":
            dialer = TcpDialer(credentials=credentials, trust=PKI.trust)
        else:
            dialer = await QuicEndpoint.bind(
                ANY_PORT, credentials=credentials, trust=PKI.trust, accept_roles=frozenset()
            )
        self._stack.push_async_callback(dialer.close)
        return await AgentPeer.dial(dialer, await self.door(carrier), credentials.identity)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A relay that runs, and the agents around it."""

    agents: Agents
    stop: asyncio.Event


@asynccontextmanager
async def deployed(options: RelayOptions) -> AsyncIterator[Deployment]:
    stop = asyncio.Event()
    with events() as seen:
        async with (
            beside(run(options, stop), name="relay under test") as task,
            AsyncExitStack() as stack,
        ):
            yield Deployment(Agents(stack, seen), stop)
            stop.set()
            await task


async def test_doors_are_announced_as_they_are_reached(options: RelayOptions) -> None:
    async with open_doors(options, PKI.relay(), PKI.trust, lambda _: None) as doors:
        quic, tcp = doors.listeners[Carrier.QUIC], doors.listeners[Carrier.TCP]
        assert (doors.endpoint, doors.tcp_endpoint) == (
            f"127.0.0.1:{quic.address[1]}",
            f"127.0.0.1:{tcp.address[1]}",
        )
    advertised = replace(
        options, advertise=("relay.test", 7443), advertise_tcp=("2001:db8::1", 443)
    )
    async with open_doors(advertised, PKI.relay(), PKI.trust, lambda _: None) as doors:
        assert (doors.endpoint, doors.tcp_endpoint) == ("relay.test:7443", "[2001:db8::1]:443")


async def test_the_quic_door_names_its_packet_engine(options: RelayOptions) -> None:
    aioquic = replace(options, quic_engine=EngineChoice.AIOQUIC)
    with capture_logs() as logged:
        async with open_doors(aioquic, PKI.relay(), PKI.trust, lambda _: None) as doors:
            doors.announce()

    assert [each["engine"] for each in logged if "engine" in each] == ["aioquic"]


def test_an_engine_that_is_not_there_is_a_fault(
    options: RelayOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "native_fault", lambda: "no such module")
    native = replace(options, quic_engine=EngineChoice.NATIVE)

    [fault] = door_faults(native)
    assert "outrelay[native]" in fault


async def test_without_the_flag_there_is_no_tcp(options: RelayOptions) -> None:
    quic_alone = replace(options, listen_tcp=None, advertise_tcp=("relay.test", 443))
    async with open_doors(quic_alone, PKI.relay(), PKI.trust, lambda _: None) as doors:
        assert list(doors.listeners) == [Carrier.QUIC]
        assert doors.tcp_endpoint == ""


async def test_a_door_that_cannot_be_opened_closes_the_other(options: RelayOptions) -> None:
    taken = await TcpListener.bind(ANY_PORT, credentials=PKI.relay(), trust=PKI.trust)
    async with open_doors(options, PKI.relay(), PKI.trust, lambda _: None) as doors:
        quic = doors.listeners[Carrier.QUIC].address
    blocked = replace(options, listen=quic, listen_tcp=taken.address)
    for _ in range(2):  # its UDP port is free again
        with pytest.raises(ConfigError, match=r"\(TCP\): cannot be bound"):
            async with open_doors(blocked, PKI.relay(), PKI.trust, lambda _: None):
                raise AssertionError
    [fault] = door_faults(blocked)
    assert fault.startswith("--listen-tcp: cannot listen on")
    await taken.close()
    assert door_faults(blocked) == []


@pytest.mark.parametrize("flag", ["listen", "listen_tcp"])
async def test_a_host_without_an_address_is_a_config_error(
    options: RelayOptions, flag: str
) -> None:
    nowhere = replace(options, **{flag: ("no-such-host.invalid", 0)})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')}: 'no-such-host"):
        await run(nowhere, asyncio.Event())


async def test_the_registry_and_agents_are_told_of_both(
    options: RelayOptions, tmp_path: Path
) -> None:
    async with fake_controller(tmp_path) as fake:
        calling = replace(options, controllers=(fake.target,), advertise_tcp=("relay.test", 443))
        async with deployed(calling) as relay:
            await fake.calls.number("UpsertRelay", 1)
            [beat, *_] = fake.calls.of("UpsertRelay", registry.UpsertRelayRequest)
            quic = address_text(await relay.agents.door("quic"))
            assert (beat.endpoint, beat.tcp_endpoint) == (quic, "relay.test:443")
            ack = await (await relay.agents.come("quic")).hello(*FEATURES)
            assert list(ack.relay_endpoints) == [quic]
            assert list(ack.tcp_endpoints) == ["relay.test:443"]
            plain = await (await relay.agents.come("tcp")).hello()
            assert (list(plain.relay_endpoints), list(plain.tcp_endpoints)) == ([], [])


@pytest.mark.parametrize(("one", "other"), [("quic", "tcp"), ("tcp", "quic"), ("tcp", "tcp")])
async def test_a_stream_changes_carriers_at_the_relay(
    options: RelayOptions, one: str, other: str
) -> None:
    async with deployed(options) as relay:
        consumer, provider = await relay.agents.come(one), await relay.agents.come(other)
        await consumer.hello(*FEATURES)
        await provider.hello(*FEATURES)
        await provider.register("db")
        near = await consumer.open("db", stream_id=7)
        far, _ = await provider.incoming()
        await accept(far)
        await consumer.ready()
        await provider.ready()
        for source, target in ((near, far), (far, near)):
            await source.write(b"over both")
            source.finish()
            assert await read_all(target) == b"over both"


@pytest.mark.parametrize(("one", "other"), [("quic", "tcp"), ("tcp", "quic")])
async def test_a_reset_keeps_its_code_from_carrier_to_carrier(
    options: RelayOptions, one: str, other: str
) -> None:
    async with deployed(options) as relay:
        consumer, provider = await relay.agents.come(one), await relay.agents.come(other)
        await consumer.hello(*FEATURES)
        await provider.hello(*FEATURES)
        await provider.register("db")
        near = await consumer.open("db", stream_id=7)
        far, _ = await provider.incoming()
        await accept(far)
        await consumer.ready()
        near.reset(ErrorCode.CANCELLED)
        with pytest.raises(Reset) as reset:
            await read_all(far)
        assert reset.value.code is ErrorCode.CANCELLED
        far.stop(ErrorCode.DENIED)
        far.reset(ErrorCode.DENIED)
        with pytest.raises(Reset) as reset:
            await read_all(near)
        assert reset.value.code is ErrorCode.DENIED


async def test_closed_doors_close_what_came_in(options: RelayOptions) -> None:
    async with deployed(options) as relay:
        agents = [await relay.agents.come(each) for each in ("quic", "tcp")]
        relay.stop.set()
        for each in agents:
            closed = await each.connection.wait_closed()
            assert (closed.code, closed.by_peer) == (ErrorCode.DRAIN, True)


async def test_a_door_accepts_no_more_once_closed(options: RelayOptions) -> None:
    async with open_doors(options, PKI.relay(), PKI.trust, lambda _: None) as doors:
        await doors.close()
        for listener in doors.listeners.values():
            with pytest.raises(Closed):
                await listener.accept()
