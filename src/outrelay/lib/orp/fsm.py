"""The states of a stream, as one literal table; the diagram in the docs is drawn from it.

    state = StreamState.INIT
    state = next_state(state, StreamInput.OPEN)

Source: protocol.md section 5, "Stream states".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from outrelay.lib.errors import LocalProtocolError


class StreamState(Enum):
    """Where a stream is in its life."""

    INIT = "Init"
    OPENING = "Opening"
    ACCEPTED = "Accepted"
    SPLICED = "Spliced"
    CLOSING = "Closing"
    CLOSED = "Closed"


class StreamInput(Enum):
    """What happens to a stream."""

    OPEN = "Open"
    ACCEPT = "Accept"
    SPLICE = "Splice"
    FIN = "Fin"
    RESET = "Reset"


_S = StreamState
_I = StreamInput

TABLE: Final[Mapping[StreamState, Mapping[StreamInput, StreamState]]] = MappingProxyType(
    {
        _S.INIT: {
            _I.OPEN: _S.OPENING,
            _I.RESET: _S.CLOSED,
        },
        _S.OPENING: {
            _I.ACCEPT: _S.ACCEPTED,
            _I.FIN: _S.CLOSING,
            _I.RESET: _S.CLOSED,
        },
        _S.ACCEPTED: {
            _I.SPLICE: _S.SPLICED,
            _I.FIN: _S.CLOSING,
            _I.RESET: _S.CLOSED,
        },
        _S.SPLICED: {
            _I.FIN: _S.CLOSING,
            _I.RESET: _S.CLOSED,
        },
        _S.CLOSING: {
            _I.FIN: _S.CLOSED,
            _I.RESET: _S.CLOSED,
        },
        _S.CLOSED: {
            _I.RESET: _S.CLOSED,
        },
    }
)
"""For each state, what may happen in it and where that leads."""


def next_state(state: StreamState, event: StreamInput) -> StreamState:
    """Where ``event`` takes a stream from ``state``.

    Raises:
        LocalProtocolError: It may not happen there; the stream stays in ``state``.
    """
    try:
        return TABLE[state][event]
    except KeyError:
        raise LocalProtocolError(
            f"a stream that is {state.value} does not take {event.value}"
        ) from None


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {_S.INIT.value}"]
    for state, inputs in TABLE.items():
        for event, target in inputs.items():
            lines.append(f"    {state.value} --> {target.value}: {event.value}")
    lines.append(f"    {_S.CLOSED.value} --> [*]")
    return "\n".join(lines) + "\n"
