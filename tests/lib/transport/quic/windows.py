"""How large the window of a stream becomes."""

from __future__ import annotations

from outrelay.lib.transport.quic.engine import STREAM_WINDOW
from tests.support.virtual_quic import End, Network, Sink, Source

ENDLESS = bytes(64 << 20)


def window_after(network: Network, ends: tuple[End, End], *, pause: float) -> int:
    """The window of a stream whose reader takes half a MiB each ``pause`` seconds."""
    near, far = ends
    stream = near.must_open()
    source = Source(near, stream, ENDLESS)
    sink = Sink(far, stream, reading=False)
    network.run_for(5.0)
    for _ in range(12):
        sink.resume(STREAM_WINDOW // 2)
        network.run_for(pause)
    network.run_for(5.0)
    return source.written - near.unsent(stream) - len(sink.data)
