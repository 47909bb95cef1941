"""What cannot be held here is left out, and said."""

from __future__ import annotations

from pathlib import Path

from outrelay.tools.bench import runner
from outrelay.tools.bench.capacity import QUICK, Place, Reading, Trial
from outrelay.tools.deployment import Deployment

READING = Reading(name="one", unit="s", values=[1], goal=1)


def test_a_trial_that_lacks_something_is_left_out(tmp_path: Path) -> None:
    nowhere = ("127.0.0.1", 9)
    place = Place(deployment=Deployment(tmp_path), directory=tmp_path, at=nowhere, backend=nowhere)
    some = Trial(name="some", hold=lambda *_: iter([READING]))
    other = Trial(name="other", hold=lambda *_: iter([READING]), missing=lambda: "no such thing")
    told: list[str] = []
    assert runner._hold([some, other], place, QUICK, told.append) == [READING]
    assert told == ["trial: some", "without other: no such thing"]
