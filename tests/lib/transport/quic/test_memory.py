"""Connections come and go, and leave nothing: neither objects nor memory.

``make soak-connections`` is the same over 100 000, and prints what the process holds on the way.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import psutil
import pytest

from outrelay.lib.transport.quic.engine import EventKind
from outrelay.lib.transport.quic.engines import EngineChoice
from tests.lib.transport.quic.engines import agent, relay
from tests.support.virtual_quic import End, Host, Network, Sink

pytestmark = pytest.mark.timeout(0)

MIB = 1 << 20
GROWTH = 2 * MIB
"""What allocators may keep more of at the end than after the warm-up."""
SLOWER = 5
"""So many fewer connections are made on aioquic, whose handshakes take that much longer."""
REPORTS = 20
"""Lines that are printed on the way."""


class Coming:
    """One end that dials and one that is dialled, over and over."""

    def __init__(self) -> None:
        self.network = Network()
        options = {"source_burst": 1 << 30, "source_rate": 1e9}
        self.near, self.far = self.network.host(agent()), self.network.host(relay(**options))

    def come_and_go(self) -> None:
        """A connection with one stream of a few bytes, and its end."""
        near, far = self.network.connect(self.near, self.far)
        stream = near.must_open()
        sink = Sink(far, stream)
        near.write(stream, b"a few bytes")
        self.network.run(lambda: bool(sink.data))
        far.write(stream, b"an answer")
        near.finish(stream)
        self.network.run(lambda: sink.finished)
        near.close()
        self._until_drained(near, far)
        self._forget()

    def _until_drained(self, *ends: End) -> None:
        self.network.run(lambda: all(end.events(EventKind.DRAINED) for end in ends))

    def _forget(self) -> None:
        """What the hosts remember for tests."""
        for host in (self.near, self.far):
            host.log.clear()
            host.sent_sizes.clear()
            host.listeners.clear()

    def held(self) -> tuple[int, int]:
        """Bytes of the process, and objects that Python knows of."""
        gc.collect()
        return psutil.Process().memory_info().rss, len(gc.get_objects())

    def hosts(self) -> Iterator[Host]:
        """Both."""
        yield from (self.near, self.far)


def test_connections_leave_nothing_behind(
    each_engine: EngineChoice, request: pytest.FixtureRequest
) -> None:
    number = request.config.getoption("--connections")
    number //= 1 if each_engine is EngineChoice.NATIVE else SLOWER
    coming, warm = Coming(), min(200, number // 5)
    for done in range(1, number + 1):
        coming.come_and_go()
        if done == warm:
            bytes_then, objects_then = coming.held()
        if done % (number // REPORTS) == 0:
            rss, objects = coming.held()
            print(f"{each_engine}: {done} connections, RSS {rss / MIB:.2f} MiB, {objects} objects")
    bytes_now, objects_now = coming.held()

    assert objects_now - objects_then < 50
    assert bytes_now - bytes_then < GROWTH
    assert [host.engine.next_deadline() for host in coming.hosts()] == [None, None]
    assert [len(host.engine._links) for host in coming.hosts()] == [0, 0]  # type: ignore[attr-defined]


def test_an_engine_that_nobody_needs_is_gone(each_engine: EngineChoice) -> None:
    coming = Coming()
    coming.come_and_go()
    links = coming.near.engine._links  # type: ignore[attr-defined]
    del coming
    gc.collect()

    assert sys.getrefcount(links) == 2, each_engine
