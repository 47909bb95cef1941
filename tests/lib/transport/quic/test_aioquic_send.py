"""Windows that grow with the path, and what is on the way at most, in the aioquic engine."""

from __future__ import annotations

from typing import cast

import pytest

from outrelay.lib.transport.quic import aioquic_core, aioquic_send
from outrelay.lib.transport.quic.engine import STREAM_WINDOW
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine
from tests.lib.transport.quic.engines import aioquic_agent, aioquic_relay
from tests.lib.transport.quic.windows import ENDLESS, window_after
from tests.support.virtual_quic import End, Network, Source


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def ends(network: Network) -> tuple[End, End]:
    return network.connect(network.host(aioquic_agent()), network.host(aioquic_relay()))


def test_the_window_grows_for_a_reader_that_is_quick(
    network: Network, ends: tuple[End, End]
) -> None:
    assert window_after(network, ends, pause=0.021) > STREAM_WINDOW


def test_the_windows_of_many_streams_grow_so_much_together(
    network: Network, ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aioquic_send, "GROWTH_MAX", 2 * STREAM_WINDOW)
    windows = [window_after(network, ends, pause=0.021) for _ in range(4)]

    assert windows[0] > STREAM_WINDOW
    assert sum(windows) <= (4 + 2) * STREAM_WINDOW
    assert windows[3] == STREAM_WINDOW


def test_a_peer_that_asks_for_everything_and_acknowledges_nothing_gets_so_much(
    network: Network, ends: tuple[End, End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aioquic_core, "FLIGHT_MAX", STREAM_WINDOW)
    near, _ = ends
    core = cast("AioquicEngine", near.host.engine)._links[near.number].core
    core._loss._cc.congestion_window = 1 << 40  # it acknowledged everything up to now
    for _ in range(4):
        Source(near, near.must_open(), ENDLESS)
    network.passes = lambda datagram: datagram.source == near.host.address
    before = sum(near.host.sent_sizes)
    network.run_for(0.5)

    assert STREAM_WINDOW // 2 < sum(near.host.sent_sizes) - before < STREAM_WINDOW + 8 * 1500
