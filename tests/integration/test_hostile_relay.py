"""A relay that means harm: what it may cost the agents that trust it is bounded."""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter, TaskGroup
from collections import Counter
from pathlib import Path

import psutil
import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.certs import load_credentials, load_trust
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.values import address_text
from tests.integration.attackers import GROWTH, Watch, until_times
from tests.integration.peers import Backend
from tests.integration.world import TENANT, Carriers, write_pki
from tests.support import plain
from tests.support.pki import agent_identity
from tests.support.plain import Frames, PlainLink, PlainRelay, frame
from tests.support.processes import Programs

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICE, MOST, STREAMS, PINGS = "files", 20, 900, 500
CALLER = agent_identity(TENANT).uri


async def test_a_relay_that_floods_a_provider(tmp_path: Path, carriers: Carriers) -> None:
    """With calls, with calls of nothing, and with control frames it cannot read."""
    write_pki(tmp_path)
    credentials = load_credentials(tmp_path / "relay.pem", tmp_path / "relay.key")
    trust, carrier = load_trust(tmp_path / "ca.pem"), carriers.provider
    flag = "--relay-tcp" if carrier == "tcp" else "--relay"
    backend = _Counted()
    async with (
        Backend.start() as server,
        server.serving(backend.serve),
        PlainRelay.at(("127.0.0.1", 0), credentials, trust, carrier=carrier) as relay,
        Programs() as programs,
    ):
        agent = await programs.start(
            "outrelay-agent",
            *(flag, address_text(relay.address), "--max-streams", str(MOST)),
            *("--cert", tmp_path / "agent-b.pem", "--key", tmp_path / "agent-b.key"),
            *("--ca", tmp_path / "ca.pem", "--expose", f"{SERVICE}={address_text(server.address)}"),
        )
        await agent.event("ready")
        files = psutil.Process(agent.pid).num_fds()
        (link,) = relay.links
        watch, mark = Watch(agent, GROWTH), agent.mark()
        async with TaskGroup() as group:
            group.create_task(_say_too_much(relay, link))
            calls = [group.create_task(_call(link, number)) for number in range(STREAMS)]
        answers = Counter(call.result()[1] for call in calls)
        assert set(answers) == {plain.STREAM_ACCEPT, 404, 429}
        assert 0 < answers[plain.STREAM_ACCEPT] == backend.most <= MOST
        assert answers[404] == STREAMS // 2
        await until_times(agent, answers[429], "incoming stream refused", mark, code=429)
        watch.check()
        await agent.event("unknown frames are skipped")
        assert len(agent.seen("unknown frames are skipped")) == 1
        for call in calls:
            call.result()[0].reset(ErrorCode.CANCELLED)
        pongs = PINGS
        while psutil.Process(agent.pid).num_fds() > files:
            pongs += 1
            await link.control.write(frame(plain.PING))
            await relay.until_heard(plain.PONG, pongs)
        stream, answer = await _call(link, 0)
        assert answer == plain.STREAM_ACCEPT
        stream.reset(ErrorCode.CANCELLED)
        await agent.stop()


class _Counted:
    """A backend that knows how many it has served at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def serve(self, reader: StreamReader, _: StreamWriter) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        finally:
            self.now -= 1


async def _call(link: PlainLink, number: int) -> tuple[Stream, int]:
    """Call the service, or with odd numbers one that is not; the stream, and the answer."""
    stream = await link.connection.open_stream()
    service = "nonsense" * 500 if number % 2 else SERVICE
    asked: dict[int, plain.Value] = {1: service, 3: f"{CALLER}{number}", 4: 1 + number}
    await stream.write(frame(plain.INCOMING_STREAM, asked))
    answer = await Frames(stream).next()
    assert answer is not None
    return stream, answer.number(1) if answer.kind == plain.STREAM_REJECT else answer.kind


async def _say_too_much(relay: PlainRelay, link: PlainLink) -> None:
    """Control frames as fast as they are taken."""
    unknown = frame(0x7FE, {1: "x" * 1000}) + frame(plain.STREAM_READY, {1: 99})
    for _ in range(PINGS):
        await link.control.write(unknown * 20 + frame(plain.PING))
    await relay.until_heard(plain.PONG, PINGS)
