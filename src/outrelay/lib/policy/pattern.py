"""Patterns in which ``*`` matches any run of characters, also none, and the rest is literal.

A pattern without ``*`` is *exact*; the others are *globs*. Matching is linear in the text
for every pattern: there is nothing to backtrack over, whoever wrote the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

Specificity = tuple[bool, int]
"""Exact or not, then the number of literal characters: the greater is the more specific."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One compiled pattern; ``parts`` are the literals around its stars."""

    text: str
    parts: tuple[str, ...]

    @classmethod
    def compile(cls, text: str) -> Pattern:
        """The pattern that ``text`` spells."""
        return cls(text, tuple(text.split("*")))

    @property
    def exact(self) -> bool:
        """True when it matches only itself."""
        return len(self.parts) == 1

    @property
    def prefix(self) -> str:
        """What every text it matches begins with."""
        return self.parts[0]

    @property
    def suffix(self) -> str:
        """What every text it matches ends with."""
        return self.parts[-1]

    @property
    def specificity(self) -> Specificity:
        """How narrowly it speaks, to be compared with other patterns."""
        return self.exact, sum(map(len, self.parts))

    def matches(self, text: str) -> bool:
        """True when the whole of ``text`` fits."""
        if self.exact:
            return text == self.text
        if len(text) < len(self.prefix) + len(self.suffix):
            return False
        if not (text.startswith(self.prefix) and text.endswith(self.suffix)):
            return False
        position, end = len(self.prefix), len(text) - len(self.suffix)
        for part in self.parts[1:-1]:
            found = text.find(part, position, end)
            if found < 0:
                return False
            position = found + len(part)
        return True
