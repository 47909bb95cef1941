"""The order in which an engine's events may come, as its port promises.

A connection is connected, lives and is lost, or is refused, and is drained last; streams of
the peer's are opened before anything else is said of them; each of their ends comes once.
"""

from __future__ import annotations

from outrelay.lib.transport.quic.engine import Event, EventKind

_OF_A_STREAM = {
    EventKind.STREAM_OPENED,
    EventKind.READABLE,
    EventKind.WRITABLE,
    EventKind.STOPPED,
    EventKind.RESET,
    EventKind.FINISHED,
}
_ENDS = {EventKind.LOST, EventKind.REFUSED}
_TWICE = {EventKind.READABLE, EventKind.WRITABLE, EventKind.STREAMS_AVAILABLE}
_NOT_AFTER = {
    EventKind.READABLE: {EventKind.RESET},
    EventKind.WRITABLE: {EventKind.FINISHED},
    EventKind.STOPPED: {EventKind.FINISHED},
}


class EventOrder:
    """Checks one host's events as they come."""

    def __init__(self) -> None:
        self._connections: dict[int, set[EventKind]] = {}
        self._streams: dict[tuple[int, int], set[EventKind]] = {}

    def check(self, event: Event) -> None:
        """Fail unless ``event`` may come now."""
        seen = self._connections.setdefault(event.connection, set())
        if event.kind is EventKind.DRAINED:
            assert seen & _ENDS, f"not ended before: {event}"
            self._forget(event.connection)
            return
        assert not seen & _ENDS, f"after the end: {event}"
        if event.kind not in (EventKind.CONNECTED, EventKind.REFUSED):
            assert EventKind.CONNECTED in seen, f"before CONNECTED: {event}"
        if event.kind in _OF_A_STREAM:
            self._check_stream(event)
        elif event.kind not in _TWICE:
            assert event.kind not in seen, f"twice: {event}"
        seen.add(event.kind)

    def _forget(self, connection: int) -> None:
        """Its number may be used again."""
        del self._connections[connection]
        for key in [key for key in self._streams if key[0] == connection]:
            del self._streams[key]

    def _check_stream(self, event: Event) -> None:
        seen = self._streams.setdefault((event.connection, event.stream), set())
        if event.kind is EventKind.STREAM_OPENED:
            assert not seen, f"after other events of the stream: {event}"
        if event.kind not in _TWICE:
            assert event.kind not in seen, f"twice: {event}"
        before = seen & _NOT_AFTER.get(event.kind, set())
        assert not before, f"after {before}: {event}"
        seen.add(event.kind)
