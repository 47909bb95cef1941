"""Which relays there are, whose their ids are, and which of them live.

Words: a *beat* is an UpsertRelay; a relay that beats again within three periods of 10 s is
*beating*. A *sign* of life is a beat, any other call, or an open Watch. A beating relay
that gives no sign for three periods is dead until its next sign; one that has called only
once (relays of other implementations) never dies so. The *holder* of a relay id is the
certificate that uses it.

Invariant: what is kept here of a relay is what the store has of it, or is being told.

Source: control-plane.md, Registry; "Who may do what".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

from outrelay.controller.store import RelayStatus
from outrelay.lib.errors import ControlError
from outrelay.lib.identity.uri import Identity

BEAT = 10.0
"""Seconds between the beats of a relay."""

DEAD_AFTER = 3 * BEAT


@dataclass(slots=True, kw_only=True)
class _Relay:
    """What is known of one relay; times are monotonic seconds."""

    holder: str
    beating: bool
    alive: bool
    last_beat: float | None
    last_sign: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Relays that have died or come back since the last sweep."""

    died: list[str]
    returned: list[str]


class Relays:
    """The relays of this controller.

    Args:
        known: Those that are in the store; they have three periods to give a sign.
        monotonic: The time, in seconds from anywhere.
    """

    def __init__(self, known: Iterable[RelayStatus], monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._last_sweep = monotonic()
        self._present: Counter[str] = Counter()
        self._relays = {
            status.id: _Relay(
                holder=status.holder,
                beating=status.beating,
                alive=status.alive,
                last_beat=None,
                last_sign=self._last_sweep if status.alive else -inf,
            )
            for status in known
        }

    def claim(self, relay_id: str, identity: Identity | None) -> str:
        """Make sure that a caller may speak for a relay id; from now on it holds the id.

        An id is free while no other certificate's relay lives by it, and always for the
        certificate of that name.

        Args:
            relay_id: The id.
            identity: The caller's; None when it has no certificate.

        Returns:
            The URI of the holder; empty for a caller without certificate.

        Raises:
            ControlError: PERMISSION_DENIED.
        """
        uri = identity.uri if identity else ""
        relay = self._relays.get(relay_id)
        if relay is None:
            self._relays[relay_id] = _Relay(
                holder=uri,
                beating=False,
                alive=True,
                last_beat=None,
                last_sign=self._monotonic(),
            )
        elif relay.holder != uri:
            natural = _is_named(uri, relay_id) and not _is_named(relay.holder, relay_id)
            if relay.holder and relay.alive and not natural:
                text = f"relay_id: {relay_id} is held by {relay.holder}"
                raise ControlError("PERMISSION_DENIED", f"{text}; give this relay its own id")
            relay.holder = uri
        return uri

    def beat(self, relay_id: str) -> bool:
        """A claimed relay beats; whether it is beating now."""
        relay = self._relays[relay_id]
        now = self._monotonic()
        if relay.last_beat is not None and now - relay.last_beat <= DEAD_AFTER:
            relay.beating = True
        relay.last_beat = now
        self.sign(relay_id)
        return relay.beating

    def sign(self, relay_id: str) -> bool:
        """A claimed relay gives a sign of life; whether that brings it back from the dead."""
        relay = self._relays[relay_id]
        relay.last_sign = self._monotonic()
        returned = not relay.alive
        relay.alive = True
        return returned

    @contextmanager
    def present(self, uri: str) -> Iterator[None]:
        """A certificate's holder makes a call; its relays live as long as it lasts."""
        self._present[uri] += 1
        try:
            yield
        finally:
            self._present[uri] -= 1
            if not self._present[uri]:
                del self._present[uri]
            for relay in self._relays.values():
                if uri and relay.holder == uri:
                    relay.last_sign = self._monotonic()

    def sweep(self) -> Turns:
        """Note who died and who came back; to be called more often than relays beat."""
        now = self._monotonic()
        if now - self._last_sweep > BEAT:
            self._forgive(now)
        self._last_sweep = now
        died, returned = [], []
        for relay_id, relay in self._relays.items():
            silent = self._is_silent(relay, now)
            if relay.alive and relay.beating and silent:
                died.append(relay_id)
            elif not relay.alive and not silent:
                returned.append(relay_id)
        self.note(died, alive=False)
        self.note(returned, alive=True)
        return Turns(died=died, returned=returned)

    def note(self, relay_ids: Iterable[str], *, alive: bool) -> None:
        """Note that these relays live, or do not."""
        for relay_id in relay_ids:
            self._relays[relay_id].alive = alive

    def _forgive(self, now: float) -> None:
        """This process itself was held up: what it did not hear may well have been said."""
        for relay in self._relays.values():
            if relay.alive:
                relay.last_sign = now

    def _is_silent(self, relay: _Relay, now: float) -> bool:
        here = relay.holder != "" and self._present[relay.holder] > 0
        return not here and now - relay.last_sign > DEAD_AFTER


def _is_named(uri: str, relay_id: str) -> bool:
    return uri.rpartition("/")[2] == relay_id
