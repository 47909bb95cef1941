"""Log lines about what may come in floods: at once, then one a second with a count.

Words: lines with the same event and the same *cause* are *alike*.

Invariants: the first of a kind is written when it happens, the rest of its second as one
line with ``times`` and the fields of the last; nothing is left out of the counts. A line that
was held has ``times`` even when it is 1: its time is not when that happened. At most
``MOST`` kinds are told apart at a time, all others count as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

QUIET = 1.0
"""Seconds from one line to the next one like it."""

MOST = 1024

Write = Callable[..., object]
"""A method of a logger: ``log.warning``."""

CallLater = Callable[[float, Callable[[], None]], object]

_Kind = tuple[str, Hashable]


@dataclass(slots=True)
class _Held:
    """What has not been written yet of one kind."""

    write: Write
    times: int = 0
    fields: Mapping[str, object] = field(default_factory=dict)


class Throttle:
    """Writes lines, but not all.

    Args:
        call_later: Calls something after so many seconds; the event loop's by default.
    """

    def __init__(self, call_later: CallLater | None = None) -> None:
        self._call_later = call_later
        self._kinds: dict[_Kind, _Held] = {}

    def write(
        self, write: Write, event: str, *, cause: Hashable = "", times: int = 1, **fields: object
    ) -> None:
        """Write a line, or count it into a later one.

        Args:
            write: The logger's method.
            event: The line's event.
            cause: What makes lines with this event alike; not written.
            times: How often it happened.
            fields: The line's other fields.
        """
        kind = (event, cause)
        if kind not in self._kinds and len(self._kinds) >= MOST:
            kind = (event, None)
        held = self._kinds.get(kind)
        if held is not None:
            held.times += times
            held.fields = fields
            return
        self._begin(kind, write)
        write(event, **fields, **({"times": times} if times > 1 else {}))

    def _begin(self, kind: _Kind, write: Write) -> None:
        self._kinds[kind] = _Held(write)
        later = self._call_later or asyncio.get_running_loop().call_later
        later(QUIET, lambda: self._end(kind))

    def _end(self, kind: _Kind) -> None:
        """A second is over: write what it held, if anything."""
        held = self._kinds.pop(kind)
        if held.times:
            self._begin(kind, held.write)
            held.write(kind[0], **held.fields, times=held.times)
