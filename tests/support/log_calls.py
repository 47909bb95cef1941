"""Every log call of the source: which event it has, at which level, with which fields.

A log call is a call of a logger's method (``log.info("phrase", ...)``), or one that hands such a
method on (``throttle.write(log.info, "phrase", ...)``). The phrase is a literal, one of two, or the
parameter ``event`` of the function around it: then it is what the calls of that function pass.
Which object is a logger is known by its name: ``log``, ``_log``; ``line`` has fields bound.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "outrelay"

_LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
}
_LOGGERS = ("log", "_log", "line")
_NOT_WRITTEN = {"cause", "exc_info"}
_SPLATS = {"names": {"service", "method"}, "named": {"stream_id", "service", "method"}}
"""What ``**consume.names`` and the like stand for."""
_SPLATS["_names"] = {"stream_id", "service"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class LogCall:
    """One log call.

    Args:
        place: ``path:line``.
        room: The first folder of the package: ``relay``, ``lib``.
        phrase: Its event.
        levels: Its levels; none: they are handed in.
        fields: Its fields.
    """

    place: str
    room: str
    phrase: str
    levels: frozenset[str]
    fields: frozenset[str]


def log_calls() -> Iterator[LogCall]:
    """Every log call of the package."""
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE)
        if not path.stem.endswith(("_pb2", "_pb2_grpc")) and inside.parts[-1] != "throttle.py":
            yield from _Module(inside, ast.parse(path.read_text())).calls()


class _Module:
    def __init__(self, path: Path, tree: ast.Module) -> None:
        self._path = path
        self._tree = tree
        self._functions = [node for node in ast.walk(tree) if isinstance(node, Function)]

    def calls(self) -> Iterator[LogCall]:
        for function in self._functions:
            for call in _calls_in(function):
                arguments, levels = _logged(call)
                if not arguments:
                    continue
                fields = _fields(call) | (_bound(function, call) if _is_bound(call) else set())
                for phrase, handed in self._phrases(arguments[0], function, call):
                    yield LogCall(
                        place=f"{self._path}:{call.lineno}",
                        room=self._path.parts[0],
                        phrase=phrase,
                        levels=frozenset(levels or handed),
                        fields=frozenset(fields),
                    )

    def _phrases(
        self, node: ast.expr, function: Function, call: ast.Call
    ) -> Iterator[tuple[str, set[str]]]:
        """The phrases that ``node`` may be, and levels that are handed in with them."""
        if isinstance(node, ast.Constant):
            yield str(node.value), set()
        elif isinstance(node, ast.IfExp):
            yield from self._phrases(node.body, function, call)
            yield from self._phrases(node.orelse, function, call)
        elif isinstance(node, ast.Name) and node.id == "event":
            yield from self._passed(function)
        else:
            raise AssertionError(f"{self._path}:{call.lineno}: the event is no literal")

    def _passed(self, function: Function) -> Iterator[tuple[str, set[str]]]:
        names = [argument.arg for argument in function.args.args if argument.arg != "self"]
        at = names.index("event")
        for call in (node for node in ast.walk(self._tree) if isinstance(node, ast.Call)):
            if _name(call.func) == function.name:
                phrase = call.args[at]
                assert isinstance(phrase, ast.Constant), f"{self._path}:{call.lineno}"
                yield str(phrase.value), _levels_of(call)


def _calls_in(function: Function) -> Iterator[ast.Call]:
    """The calls of a function, without those of functions inside."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting += ast.iter_child_nodes(node)


def _logged(call: ast.Call) -> tuple[list[ast.expr], set[str]]:
    """The arguments from the phrase on, and the levels; none: it logs nothing."""
    function = call.func
    if _is_method(function):
        assert isinstance(function, ast.Attribute)
        return call.args, {_LEVELS[function.attr]}
    is_write = isinstance(function, ast.Attribute) and function.attr == "write"
    if is_write and call.args and "throttle" in ast.unparse(function):
        return call.args[1:], _levels_of(call)
    return [], set()


def _levels_of(call: ast.Call) -> set[str]:
    return {
        _LEVELS[each.attr]
        for each in call.args
        if isinstance(each, ast.Attribute) and _is_method(each)
    }


def _is_method(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in _LEVELS
        and isinstance(node.value, ast.Name)
        and node.value.id in _LOGGERS
    )


def _is_bound(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "line"
    )


def _bound(function: Function, before: ast.Call) -> set[str]:
    """The fields that a function has bound to ``line`` before a call."""
    binds = (call for call in _calls_in(function) if _name(call.func) == "bind")
    earlier = (call for call in binds if call.lineno < before.lineno)
    return {keyword.arg for call in earlier for keyword in call.keywords if keyword.arg}


def _fields(call: ast.Call) -> set[str]:
    fields: set[str] = set()
    for keyword in call.keywords:
        if keyword.arg is not None:
            fields.add(keyword.arg)
            continue
        value = keyword.value
        splat = _name(value.func if isinstance(value, ast.Call) else value)
        assert splat in _SPLATS, f"line {call.lineno}: what is in **{ast.unparse(value)}?"
        fields |= _SPLATS[splat]
    return fields - _NOT_WRITTEN


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
