"""The streams this relay carries: being opened or spliced, by tenant and stream id.

Two tenants may draw the same id and never learn of it. Of a stream that has ended well, whose it
was is known for a moment more.

Source: protocol.md section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from outrelay.lib.errors import RejectCode, StreamRejected
from outrelay.relay.call import Call
from outrelay.relay.edge.session import RESUME, Session
from outrelay.relay.ended import Ended, Ends
from outrelay.relay.quotas import Quota
from outrelay.relay.splice import FINISHED, Splice


@dataclass(slots=True, kw_only=True, eq=False)
class Pair:
    """Two legs, as far as there are.

    Args:
        call: What the consumer asked for.
        consumer: Who asked.
        provider: Who serves it, or is asked to.
        splice: Set once the provider has accepted.
        opened_ms: When that was, milliseconds since the epoch.
        revoked: Why it must end, once it must.
        over: Set once it is carried no longer.
    """

    call: Call
    consumer: Session
    provider: Session
    splice: Splice | None = None
    opened_ms: int = 0
    revoked: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def can_resume(self) -> bool:
        """Whether both agents can go on with it when a connection of theirs is lost."""
        return not self.obstacle

    @property
    def obstacle(self) -> str:
        """Why they cannot; empty where they can."""
        if self.consumer.uri == self.provider.uri:
            return "an agent resumes no streams with itself"
        sides = (("consumer", self.consumer), ("provider", self.provider))
        lacking = [side for side, session in sides if RESUME not in session.features]
        return f"no {RESUME} at the {' and the '.join(lacking)}" if lacking else ""

    @property
    def ends(self) -> Ends:
        """Whose it is."""
        return Ends(self.consumer, self.provider)


class Pairs:
    """All pairs of one relay.

    Args:
        quota: How many a consumer and its tenant may have.
    """

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._pairs: dict[tuple[str, int], Pair] = {}
        self._sought: set[tuple[str, int]] = set()
        self._ended = Ended()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(list(self._pairs.values()))

    def find(self, tenant: str, stream_id: int) -> Pair | None:
        """The pair of that id, if a tenant has one here."""
        return self._pairs.get((tenant, stream_id))

    def ends_of(self, tenant: str, stream_id: int) -> Ends | None:
        """Whose stream that is, once it is spliced and until a moment after its end."""
        pair = self.find(tenant, stream_id)
        if pair is None:
            return self._ended.find((tenant, stream_id), _now())
        return pair.ends if pair.splice else None

    def check(self, call: Call) -> None:
        """Raise StreamRejected (429, 409) when there is no place for ``call``."""
        self._quota.check(call.caller, call.tenant)
        if (call.tenant, call.stream_id) in self._pairs:
            raise _in_use()

    @contextmanager
    def seeking(self, call: Call) -> Iterator[None]:
        """Let nobody else have the id of ``call`` while its provider is looked for.

        Raises:
            StreamRejected: Another call has it.
        """
        key = (call.tenant, call.stream_id)
        if key in self._sought:
            raise _in_use()
        self._sought.add(key)
        try:
            yield
        finally:
            self._sought.remove(key)

    @contextmanager
    def holding(self, pair: Pair) -> Iterator[None]:
        """Carry ``pair``, which passed ``check`` just now, for the time of the body."""
        key = (pair.call.tenant, pair.call.stream_id)
        assert key not in self._pairs
        self._pairs[key] = pair
        self._quota.take(pair.call.caller, pair.call.tenant)
        pair.provider.serving += 1
        self._idle.clear()
        try:
            yield
        finally:
            del self._pairs[key]
            if pair.splice and pair.splice.ending is FINISHED and pair.can_resume:
                self._ended.add(key, pair.ends, _now())
            pair.over.set()
            pair.provider.serving -= 1
            self._quota.give(pair.call.caller, pair.call.tenant)
            if not self._pairs:
                self._idle.set()

    def assign(self, pair: Pair, provider: Session) -> None:
        """Another provider is asked to serve ``pair``, which is carried."""
        pair.provider.serving -= 1
        pair.provider = provider
        provider.serving += 1

    async def wait_idle(self) -> None:
        """Return when there is no pair."""
        await self._idle.wait()


def _in_use() -> StreamRejected:
    return StreamRejected(RejectCode.ID_IN_USE, "stream id already in use")


def _now() -> float:
    return asyncio.get_running_loop().time()
