"""The errors that the sources make for users, each with what it says, as far as can be read.

A call of one of ``KINDS`` makes one. What its text holds between braces, and what is no text there,
may be anything; a name stands for what its function assigned to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "outrelay"
KINDS = {
    "ConfigError": slice(0, None),
    "IdentityError": slice(0, None),
    "_fault": slice(1, None),
    "invalid": slice(0, None),
    "ControlError": slice(1, 2),
    "Missing": slice(0, 1),
    "Refused": slice(0, 2),
    "StoreError": slice(0, 1),
    "UnreadableError": slice(0, 1),
    "UsageError": slice(0, 1),
    "BadParameter": slice(0, 1),
    "ValueError": slice(0, 1),
}
"""What makes errors, and which arguments are the text."""
ON_THE_WIRE = ("lib/orp/", "lib/resume/", "lib/transport/", "lib/control/v1/", "agent/session/")
"""Rooms whose errors are about what peers say."""
_ANYTHING = "…"
_NO_ADVICE = "; …"  # for some causes there is none
_BEFORE = r"(?:--admin-socket: FILE |(FLAG|--?[\w-]+|controller [A-Z]+|NAME|KEY|FILE|FILE:N): )"
"""What is put before the text, further out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """One place where an error is made.

    Args:
        where: Its file.
        said: What it says; ``…`` stands for what is known only when it happens.
    """

    where: str
    said: str

    def may_be(self, row: str) -> bool:
        """Whether this error can be what a row of the page has."""
        words = ".*".join(map(re.escape, self.said.removesuffix(_NO_ADVICE).split(_ANYTHING)))
        return re.fullmatch(f"{_BEFORE}*{words}(; .*)?", row, re.DOTALL) is not None

    def __str__(self) -> str:
        return f"{self.where}: {self.said}"


def raised(folder: Path = SOURCE) -> Iterator[Raised]:
    """Every error that the sources below a folder make, in their order, each text once."""
    for file in sorted(folder.rglob("*.py")):
        where = str(file.relative_to(folder))
        if not where.startswith(ON_THE_WIRE):
            texts = dict.fromkeys(_of(ast.parse(file.read_text())))
            yield from (Raised(where=where, said=text) for text in texts)


def _of(module: ast.Module) -> Iterator[str]:
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            texts = _assigned(function)
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and (which := KINDS.get(_name(node.func))):
                    yield _said(node.args[which], texts, _name(node.func))


def _assigned(function: ast.AST) -> Mapping[str, ast.expr]:
    return {
        target.id: node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _said(arguments: list[ast.expr], texts: Mapping[str, ast.expr], kind: str) -> str:
    parts = [_text(each, texts) for each in arguments]
    if kind == "_fault" or len(parts) < 2:
        return "; ".join(parts)
    return f"{parts[0]}: {'; '.join(parts[1:])}"


def _text(node: ast.expr, texts: Mapping[str, ast.expr]) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(each, texts) for each in values)
        case ast.FormattedValue(value=value):
            return _text(value, texts)
        case ast.Name(id=name) if name in texts:
            return _text(texts[name], {})
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, texts) + _text(right, texts)
        case _:
            return _ANYTHING


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
