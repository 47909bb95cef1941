"""Every message that the page on troubleshooting explains is one that the programs have."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from outrelay.lib.observe.vocabulary import VOCABULARY

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
SAYS = re.compile(r"^## The \w+ says\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (`.+?) \|", re.MULTILINE)


def messages() -> list[str]:
    """What stands in the first column of the tables about programs."""
    rows = [row for section in SAYS.findall(PAGE.read_text()) for row in ROW.findall(section)]
    return [message for row in rows for message in re.findall(r"`(.+?)`", row)]


@cache
def source() -> str:
    """Everything the programs can say, as it is written."""
    files = (ROOT / "src" / "outrelay").rglob("*.py")
    return "".join(file.read_text() for file in files if "_pb2" not in file.name)


def test_there_are_messages() -> None:
    assert len(messages()) > 30


@pytest.mark.parametrize("message", sorted(set(messages())))
def test_a_message_is_one_of_ours(message: str) -> None:
    known = (message in phrase for phrase in VOCABULARY)
    assert any(known) or message in source(), message
