"""The check of event orders accepts what the port promises and nothing else."""

from __future__ import annotations

import pytest

from outrelay.lib.transport.quic.engine import Event, EventKind
from tests.support.virtual_events import EventOrder

GOOD = [
    "REFUSED DRAINED",
    "CONNECTED LOST DRAINED",
    "CONNECTED STREAM_OPENED READABLE READABLE FINISHED READABLE LOST DRAINED",
    "CONNECTED STREAM_OPENED RESET STOPPED FINISHED",
    "CONNECTED READABLE WRITABLE WRITABLE STOPPED RESET",
    "CONNECTED STREAMS_AVAILABLE STREAMS_AVAILABLE LOST DRAINED CONNECTED READABLE",
]
BAD = [
    "DRAINED",
    "LOST",
    "READABLE",
    "STREAM_OPENED CONNECTED",
    "CONNECTED CONNECTED",
    "CONNECTED REFUSED LOST",
    "CONNECTED LOST LOST",
    "CONNECTED LOST READABLE",
    "CONNECTED LOST DRAINED DRAINED",
    "CONNECTED STREAM_OPENED STREAM_OPENED",
    "CONNECTED READABLE STREAM_OPENED",
    "CONNECTED RESET READABLE",
    "CONNECTED RESET RESET",
    "CONNECTED FINISHED STOPPED",
    "CONNECTED FINISHED WRITABLE",
    "CONNECTED FINISHED FINISHED",
    "CONNECTED STOPPED STOPPED",
]


def check(kinds: str) -> None:
    order = EventOrder()
    for kind in kinds.split():
        order.check(Event(EventKind[kind], 1, 4))


@pytest.mark.parametrize("kinds", GOOD)
def test_what_the_port_promises_is_accepted(kinds: str) -> None:
    check(kinds)


@pytest.mark.parametrize("kinds", BAD)
def test_anything_else_fails(kinds: str) -> None:
    with pytest.raises(AssertionError, match=kinds.rsplit(maxsplit=1)[-1]):
        check(kinds)


def test_connections_and_streams_are_told_apart() -> None:
    order = EventOrder()
    for connection in (1, 2):
        order.check(Event(EventKind.CONNECTED, connection))
        for stream in (0, 4):
            order.check(Event(EventKind.RESET, connection, stream))
