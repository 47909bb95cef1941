"""The pages about codes, frames and messages."""

from __future__ import annotations

from enum import Enum

from outrelay.lib.errors import ErrorCode, RejectCode, Why
from outrelay.lib.orp.types import FrameType
from outrelay.tools.wire import meanings, pages


class Documented(Enum):
    """Some."""

    A = 1
    """First."""
    B = 2
    C = 3
    """Last."""


def test_the_text_below_a_name_is_its_meaning() -> None:
    assert meanings(Documented) == {"A": "First.", "C": "Last."}


def test_every_code_has_a_row_and_a_meaning() -> None:
    page = pages()["codes.md"]
    for code in (*RejectCode, *ErrorCode):
        assert f"| {code} | {code.name} | {meanings(type(code))[code.name]} |" in page
    for why in Why:
        assert f"| `{why}` | {meanings(Why)[why.name]} |" in page


def test_every_frame_has_a_row() -> None:
    page = pages()["protocol.md"]
    for kind in FrameType:
        assert f"| 0x{kind:03x} | {kind.name} | " in page


def test_a_message_has_a_row_for_each_field() -> None:
    assert """\
### CandidateOffer

| number | field | type |
|---|---|---|
| 1 | `stream_id` | uint64 |
| 2 | `candidates` | list of [Candidate](#candidate) |
""" in pages()["protocol.md"]
