"""Streams that ended a moment ago: how long, and how many, are remembered."""

from __future__ import annotations

from typing import cast

import pytest

from outrelay.relay import ended
from outrelay.relay.edge.session import Session
from outrelay.relay.ended import Ended, Ends

ENDS = Ends(cast(Session, "consumer"), cast(Session, "provider"))
KEY = ("acme", 7)


def test_a_stream_is_remembered_for_a_moment() -> None:
    known = Ended()
    known.add(KEY, ENDS, 100.0)
    assert known.find(KEY, 102.0) is ENDS
    assert known.find(("globex", 7), 102.0) is None
    assert known.find(KEY, 102.1) is None
    assert len(known) == 0


def test_the_oldest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended, "MOST", 2)
    known = Ended()
    for at, stream_id in enumerate((1, 2, 1, 3)):
        known.add(("acme", stream_id), ENDS, at / 10)
    found = [stream_id for stream_id in (1, 2, 3) if known.find(("acme", stream_id), 0.5)]
    assert found == [1, 3]
