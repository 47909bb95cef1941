"""What a process shows of itself while it runs: the debug listener asks, its service answers.

Invariants: nothing here waits, and nothing is a secret: no key, token, password or payload.
"""

from __future__ import annotations

import asyncio
import os
import time
from asyncio import Task
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Protocol, TypeAlias

from prometheus_client import CollectorRegistry

from outrelay import __version__
from outrelay.lib.observe import logs

Json: TypeAlias = Mapping[str, object]
"""What ``json.dumps`` makes an object of."""

_OURS = "outrelay."

MOST_TASKS = 1000
"""Kinds of tasks that are told apart; the rest is only counted."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class StreamTable(Protocol):
    """The streams that a service carries, each with a name of its own."""

    def names(self) -> Iterable[str]:
        """All of them, in any order."""

    def describe(self, name: str) -> Json:
        """What there is to see of one of them."""


class NoStreams:
    """The table of a service that carries none."""

    def names(self) -> Iterable[str]:
        """See ``StreamTable``."""
        return ()

    def describe(self, name: str) -> Json:
        """See ``StreamTable``."""
        raise KeyError(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What one service shows.

    Args:
        component: What it is: relay, agent, controller.
        registry: Its numbers.
        identity: Who it is; empty: nobody in particular.
        expires: When its certificate ends now, seconds since the epoch; None: it has none.
        unready: Why nobody should be sent to it, for people; nothing when it is ready.
        status: What it is connected with, and what it does.
        streams: What it carries.
        started_ms: When it began, milliseconds since the epoch.
    """

    component: str
    registry: CollectorRegistry
    identity: str = ""
    expires: Callable[[], float | None] = lambda: None
    unready: Callable[[], Sequence[str]] = tuple
    status: Callable[[], Json] = dict
    streams: StreamTable = field(default_factory=NoStreams)
    started_ms: int = field(default_factory=_now_ms)


def carried_bytes(registry: CollectorRegistry) -> dict[str, int]:
    """The payload bytes that streams have carried since the start, for a status."""
    carried = {"up": 0, "down": 0}
    for family in registry.collect():
        if family.name == "outrelay_stream_bytes":
            for sample in family.samples:
                carried[sample.labels["direction"]] += int(sample.value)
    return {f"bytes_{direction}": number for direction, number in carried.items()}


def status_of(views: Views) -> Json:
    """What this process is, and what its service says of itself."""
    unready, expires = views.unready(), views.expires()
    return {
        "component": views.component,
        "version": __version__,
        "pid": os.getpid(),
        "identity": views.identity or None,
        "certificate_not_after_unix_ms": None if expires is None else int(expires * 1000),
        "started_unix_ms": views.started_ms,
        "ts_unix_ms": _now_ms(),
        "log_level": logs.level(),
        "ready": not unready,
        "unready": list(unready),
        **views.status(),
    }


def page_of(streams: StreamTable, *, limit: int, after: str) -> Json:
    """Some of the streams, by name.

    Args:
        streams: All of them.
        limit: How many at most.
        after: The name that the page before ended with; empty: the first page.

    Returns:
        ``streams``, and ``next``: what to give as ``after`` for the next page, None at the end.
    """
    names = nsmallest(limit + 1, (name for name in streams.names() if name > after))
    shown = names[:limit]
    return {
        "streams": [streams.describe(name) for name in shown],
        "next": shown[-1] if len(names) > limit else None,
    }


def tasks_of_loop() -> Json:
    """The tasks of the running loop: how many have which name and wait where."""
    tasks = asyncio.all_tasks()
    kinds = Counter((task.get_name(), _where(task)) for task in tasks)
    return {
        "total": len(tasks),
        "kinds": len(kinds),
        "tasks": [
            {"name": name, "where": where, "count": count}
            for (name, where), count in sorted(kinds.items())[:MOST_TASKS]
        ],
    }


def _where(task: Task[object]) -> str:
    """The innermost line of our own that the task is in; of others' tasks the outermost."""
    awaited: object = task.get_coro()
    where = ""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if not where or module.startswith(_OURS):
                where = f"{module}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return where
