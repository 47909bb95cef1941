"""The table of halves that wait for their other half.

Words: a *party* is a half with its leg and its session. The one that *waits* is in the table;
the one that *joins* it finds it there. The task of the waiting one decides for both, and
carries the stream; the joining one's task ends when it knows what was decided.

Invariants: one half waits for each stream of a tenant. Whoever joins is told what was decided,
also when the waiting one's connection goes at that moment.

Source: protocol.md section 6.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from outrelay.lib.errors import ErrorCode, RejectCode, StreamRejected
from outrelay.relay.edge.claim import Claim
from outrelay.relay.edge.session import Session
from outrelay.relay.matching import Half, Match, MayCall, match
from outrelay.relay.splice import Leg

Refusal: TypeAlias = StreamRejected | ErrorCode
"""Why a half is not joined with another: what its agent is told."""


def _future() -> Future[Refusal | None]:
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Party:
    """A half of a stream, and who has it.

    Args:
        claim: What the agent says.
        session: The agent's.
        leg: Its data stream, STREAM_RESUME taken.
        decided: Why it may not go on; None: it goes on.
    """

    claim: Claim
    session: Session
    leg: Leg
    decided: Future[Refusal | None] = field(default_factory=_future)

    @property
    def half(self) -> Half:
        """By which it is found."""
        return self.claim.half

    def decide(self, refusal: Refusal | None) -> None:
        """Tell its task; only the first word counts."""
        if not self.decided.done():
            self.decided.set_result(refusal)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Who has joined, and what the two are to each other."""

    joined: Party
    match: Match

    def sides(self, waiting: Party) -> tuple[Party, Party]:
        """The consumer and the provider of the two, ``waiting`` being the other one."""
        if self.match.consumer is waiting.half:
            return waiting, self.joined
        return self.joined, waiting


class Waiting:
    """A place in the table; made by ``Halves.wait``."""

    def __init__(self, table: dict[tuple[str, int], Waiting], party: Party) -> None:
        self._table = table
        self.party = party
        self.met: Future[Meeting | ErrorCode] = asyncio.get_running_loop().create_future()
        """Who has joined, or with which code it waits no longer."""

    def __enter__(self) -> Self:
        self._table[self.party.half.key] = self
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave; who has joined and was told nothing is told that the leg is lost."""
        self._leave()
        if self.met.done() and not self.met.cancelled():
            met = self.met.result()
            if isinstance(met, Meeting):
                met.joined.decide(ErrorCode.LEG_LOST)

    def tell(self, met: Meeting | ErrorCode) -> None:
        """End the waiting."""
        self._leave()
        if not self.met.done():
            self.met.set_result(met)

    def _leave(self) -> None:
        if self._table.get(self.party.half.key) is self:
            del self._table[self.party.half.key]


class Halves:
    """The table.

    Args:
        may_call: See ``match``.
    """

    def __init__(self, may_call: MayCall) -> None:
        self._may_call = may_call
        self._waiting: dict[tuple[str, int], Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, party: Party) -> bool:
        """Join ``party`` to the half that waits for it; False: it has to wait itself.

        Raises:
            StreamRejected: One waits that belongs to two others.
        """
        waiting = self._waiting.get(party.half.key)
        if waiting is None:
            return False
        if found := match(waiting.party.half, party.half, self._may_call):
            waiting.tell(Meeting(party, found))
            return True
        if waiting.party.half.agent != party.half.agent:
            raise StreamRejected(RejectCode.ID_IN_USE, "the stream is of other agents")
        waiting.tell(ErrorCode.LEG_LOST)  # its agent offers it anew
        return False

    def wait(self, party: Party) -> Waiting:
        """A place for ``party``, which has nobody to join; in the table while it is entered."""
        return Waiting(self._waiting, party)

    def end(self, code: ErrorCode) -> None:
        """Have nobody wait any longer."""
        for waiting in list(self._waiting.values()):
            waiting.tell(code)
