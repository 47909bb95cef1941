"""The stream state table against the sentence it comes from."""

from __future__ import annotations

import re

import pytest

from outrelay.lib.errors import LocalProtocolError
from outrelay.lib.orp.fsm import TABLE, StreamInput, StreamState, diagram, next_state

# protocol.md section 5, word for word.
SENTENCE = "Init -Open-> Opening -Accept-> Accepted -Splice-> Spliced -Fin-> Closing -Fin-> Closed"
FIN_TO_CLOSING = ("Opening", "Accepted", "Spliced")


def allowed() -> dict[tuple[StreamState, StreamInput], StreamState]:
    words = re.findall(r"\w+", SENTENCE)
    steps = zip(words[0::2], words[1::2], words[2::2], strict=False)
    named = [
        *steps,
        *((state, "Fin", "Closing") for state in FIN_TO_CLOSING),
        *((state.value, "Reset", "Closed") for state in StreamState),
    ]
    return {(StreamState(a), StreamInput(by)): StreamState(b) for a, by, b in named}


@pytest.mark.parametrize("state", StreamState)
@pytest.mark.parametrize("event", StreamInput)
def test_every_state_takes_what_the_contract_says(state: StreamState, event: StreamInput) -> None:
    target = allowed().get((state, event))

    if target is None:
        with pytest.raises(LocalProtocolError, match=f"{state.value} does not take {event.value}"):
            next_state(state, event)
    else:
        assert next_state(state, event) is target


def test_a_life_of_a_stream() -> None:
    state = StreamState.INIT
    for event in ("Open", "Accept", "Splice", "Fin", "Fin"):
        state = next_state(state, StreamInput(event))

    assert state is StreamState.CLOSED


def test_the_diagram_shows_every_transition_once() -> None:
    lines = [line.strip() for line in diagram().splitlines()]

    transitions = [
        f"{state.value} --> {target.value}: {event.value}"
        for (state, event), target in allowed().items()
    ]
    assert lines[0] == "stateDiagram-v2"
    assert sorted(lines[1:]) == sorted(["[*] --> Init", *transitions, "Closed --> [*]"])
    assert sum(len(inputs) for inputs in TABLE.values()) == len(transitions)
