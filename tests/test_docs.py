"""What pages say of this tree is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")


@cache
def functions_in(path: str) -> frozenset[str]:
    """The names of a file's functions; none where there is no file."""
    if not (ROOT / path).exists():
        return frozenset()
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in nodes if isinstance(node, functions))


def named_tests() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield from TEST.findall(page.read_text())


def test_tests_that_pages_name_exist() -> None:
    named = set(named_tests())
    assert len(named) > 50
    assert [
        f"{path}::{name}" for path, name in sorted(named) if name not in functions_in(path)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
