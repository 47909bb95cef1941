"""The doctor's round: everything in order, and the exit code that fits."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from outrelay.agent.doctor import app, relays
from outrelay.agent.options import AgentOptions, Expose
from outrelay.lib.errors import Closed, ConfigError
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.tcp.listener import TcpListener
from outrelay.lib.transport.tcp.proxy import Proxy
from outrelay.lib.values import address_text
from tests.agent.doctor.test_relays import answer
from tests.agent.tcp import HOST
from tests.support.http_proxy import HttpProxy
from tests.support.pki import TestPki, save, save_trust
from tests.support.ports import unused_port
from tests.support.relay_peer import RelayPeer

PKI = TestPki()


@pytest.fixture
def options(tmp_path: Path) -> AgentOptions:
    """An agent's, with a relay that is not there."""
    files = save(PKI.agent(), tmp_path / "agent")
    ca = save_trust(PKI.trust, tmp_path / "ca.pem")
    return AgentOptions(relays=((HOST, unused_port()),), cert=files.cert, key=files.key, ca=ca)


async def test_what_works_is_told_and_the_exit_code_is_0(
    options: AgentOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = await QuicEndpoint.bind((HOST, 0), credentials=PKI.relay(), trust=PKI.trust)
    playing = asyncio.get_running_loop().create_task(answer(RelayPeer(listener)))
    assert await app.run(replace(options, relays=(listener.address,)), "text") == 0
    await listener.close()
    with suppress(Closed):
        await playing
    certificate, relay = capsys.readouterr().out.splitlines()
    assert certificate.startswith("ok    certificate: outrelay://acme/agent/")
    assert relay.startswith("ok    relay 127.0.0.1:")


async def test_what_does_not_work_is_told_and_the_exit_code_is_1(
    options: AgentOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "ANSWER_LIMIT", 0.1)
    options.key.chmod(0o644)
    exposing = replace(options, expose=(Expose(service="db", target=(HOST, unused_port())),))
    assert await app.run(exposing, "json") == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["result"] for each in found] == ["ok", "warn", "fail", "fail"]
    assert [each["subject"].split()[0] for each in found] == [
        "certificate",
        "key",
        "relay",
        "backend",
    ]


async def test_a_relay_is_looked_for_over_tcp_and_through_a_proxy(
    options: AgentOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = await TcpListener.bind((HOST, 0), credentials=PKI.relay(), trust=PKI.trust)
    playing = asyncio.get_running_loop().create_task(answer(RelayPeer(listener)))
    tcp = replace(options, relays=(), relays_tcp=(listener.address,))
    async with HttpProxy() as proxy:
        through = replace(tcp, http_proxy=Proxy(address=proxy.address))
        assert await app.run(through, "text") == 0
        assert proxy.asked == [address_text(listener.address)]
    await listener.close()
    with suppress(Closed):
        await playing
    _, relay = capsys.readouterr().out.splitlines()
    port = listener.address[1]
    way = f"127.0.0.1:{port} over tcp through the proxy 127.0.0.1:{proxy.address[1]}"
    assert relay.startswith(f"ok    relay {way}")


async def test_a_proxy_that_leads_nowhere_is_to_be_looked_at_itself(
    options: AgentOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    async with HttpProxy(refuses="403 Forbidden") as proxy:
        through = replace(
            options,
            relays=(),
            relays_tcp=(("relay.test", 443),),
            http_proxy=Proxy(address=proxy.address),
        )
        assert await app.run(through, "json") == 1
    _, relay = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "it does not allow connections to relay.test:443" in relay["text"]
    assert "allows CONNECT to relay.test:443" in relay["advice"]
    assert "--http-proxy" in relay["advice"]


async def test_a_file_that_cannot_be_used_is_an_error(options: AgentOptions) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        await app.run(replace(options, ca=Path("nowhere.pem")), "text")
