"""The code blocks of a page, and what is done with each of them.

A block marked ``sh`` is run, in the order of the page, by one shell. A comment before it changes
that::

    <!-- not run: why -->     its commands of ours are only parsed: their flags exist
    <!-- fails -->            each of its commands must fail
    <!-- file: PATH -->       no commands: what the file holds
    <!-- test: COMMAND -->    what readers do by hand, or would see, done here without being shown

``...`` at the end of a command stands for the flags that ``credentials`` (in ``scripts``) puts into
the environment. A block that is indented instead of marked holds no commands, but for ``make``.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "flags.md"),
]

_MARKED = re.compile(
    r"<!-- test: (?P<hidden>.+?) -->"
    r"|<!-- file: (?P<path>.+?) -->\n+```\w+\n(?P<content>.*?)```"
    r"|(?:<!-- (?P<note>not run: .+?|fails) -->\n+ *)?```sh\n(?P<text>.*?)```",
    re.DOTALL,
)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:    .*\n|\n(?=    ))+")


class Way(Enum):
    """What is done with a block."""

    RUN = "run"
    FAIL = "fail"
    PARSE = "parse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Commands, and what is done with them."""

    text: str
    way: Way

    @property
    def commands(self) -> list[str]:
        """Its command lines, each as a whole; without comments."""
        joined = self.text.replace("\\\n", " ")
        lines = (line.strip() for line in joined.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that hold commands, in its order."""
    text = page.read_text()
    for found in _MARKED.finditer(text):
        if found["hidden"]:
            yield Block(text=found["hidden"], way=Way.RUN)
            continue
        if found["path"]:
            yield Block(text=f"cat > {found['path']} <<'END'\n{found['content']}END", way=Way.RUN)
            continue
        way = Way.FAIL if found["note"] == "fails" else Way.PARSE if found["note"] else Way.RUN
        yield Block(text=textwrap.dedent(found["text"].rstrip(" ")), way=way)


def indented(page: Path) -> Iterator[Block]:
    """What is indented: drawings, paths, and whatever else is no command."""
    for found in _INDENTED.finditer(_MARKED.sub("", page.read_text())):
        yield Block(text=found[0], way=Way.PARSE)


def words(command: str) -> list[str]:
    """A command line as words; none where only a shell could tell."""
    try:
        return shlex.split(command, comments=True)
    except ValueError:
        return []
