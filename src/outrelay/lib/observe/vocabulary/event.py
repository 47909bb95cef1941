"""What is known of an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PROGRAMS: Final = ("agent", "relay", "controller")
LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the vocabulary.

    Args:
        phrase: The constant phrase.
        who: The programs that say it, with spaces between them.
        levels: At which levels, likewise.
        names: The fields it may have, likewise.
        meaning: What happened, for an operator, in one sentence.
    """

    phrase: str
    who: str
    levels: str
    names: str
    meaning: str

    @property
    def programs(self) -> frozenset[str]:
        """Who says it."""
        return frozenset(self.who.split())

    @property
    def fields(self) -> frozenset[str]:
        """The fields it may have beside the common ones."""
        return frozenset(self.names.split())


ALL: Final = " ".join(PROGRAMS)
