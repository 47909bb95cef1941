"""Reaching one of several peers: names resolved, addresses raced, and how long to wait between.

Words: an *attempt* tries to connect to one address, or to one endpoint with all of its
addresses. A *tier* is a set of attempts that start together; the next tier joins after a
head start, or at once when everything before it has failed.

Invariant: of all the connections that attempts make, one is returned and the others are
closed, also when the race is cancelled.

Source: protocol.md sections 1 and 6; RFC 8305.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import random
import socket
from asyncio import Task, TaskGroup
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from itertools import zip_longest
from typing import Protocol, TypeVar

from outrelay.lib.errors import Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.tasks import spawn
from outrelay.lib.transport import nat64
from outrelay.lib.transport.carrier import Address, Connection, Dialer
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.values import address_text

HEAD_START = 1.0
"""Seconds a tier has to itself before the next one joins."""

STAGGER = 0.25
"""Seconds one address of a host has before the next one is tried, where that costs the peer."""

FINAL_PATIENCE = 1.0
"""Seconds an endpoint's other addresses have once one of them refused us for good."""


class Closable(Protocol):
    """What attempts make: a connection, or something that holds one."""

    def close(self) -> object:
        """Give it up."""


Made = TypeVar("Made", bound=Closable)

Attempt = Callable[[], Awaitable[Made]]
"""Connects, or raises Refused."""


async def dial(
    dialer: Dialer,
    endpoint: Address,
    *,
    roles: Collection[Role],
    server_name: str,
    limit: float,
    stagger: float = 0.0,
) -> Connection:
    """A connection to ``endpoint``, whichever of its addresses answers first.

    Args:
        dialer: What connects to one address.
        endpoint: A name or a numeric host, and a port.
        roles: Roles the peer's certificate may have.
        server_name: DNS name its certificate must hold; empty: any.
        limit: Seconds one address has to answer.
        stagger: Seconds an address has to itself before the next one, of the other family
            where there is one, is tried beside it; 0: all are tried at once.

    Raises:
        Refused: No address answered in time, or one refused us for good.
    """

    async def attempt(address: Address) -> Connection:
        try:
            async with asyncio.timeout(limit):
                return await dialer.dial(address, roles=roles, server_name=server_name)
        except TimeoutError:
            reason = f"no answer within {limit:g} s"
            raise Refused(address_text(address), reason, cause=Cause.TIMEOUT) from None

    attempts = [partial(attempt, each) for each in in_turn(await resolve(endpoint))]
    tiers = [[each] for each in attempts] if stagger else [attempts]
    return await race(tiers, head_start=stagger, one_peer=True)


async def resolve(endpoint: Address) -> list[Address]:
    """The numeric addresses of ``endpoint``, at least one, in the system's order of preference.

    An IPv4 address that no route leads to gets the addresses that a NAT64 has for it.

    Raises:
        Refused: Its name has none, or none that can be found out now.
    """
    host, port = endpoint
    if _is_numeric(host):
        return [endpoint] if ":" in host or _has_route(endpoint) else await _translated(endpoint)
    try:
        found = await _look_up(host)
    except (OSError, UnicodeError) as error:
        reason = f"the name has no address: {getattr(error, 'strerror', None) or error}"
        raise Refused(address_text(endpoint), reason, cause=Cause.NAME) from error
    return [(each, port) for each in found]


async def _look_up(host: str, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _has_route(address: Address) -> bool:
    """Whether packets to an IPv4 address have a way out; none is sent."""
    if address[0].startswith("127."):
        return True
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            fault = probe.connect_ex(address)
    except OSError as error:
        fault = error.errno or 0
    return fault not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT)


async def _translated(address: Address) -> list[Address]:
    """What leads to an IPv4 address on a network without IPv4, and the address itself."""
    host, port = address
    try:
        found = await _look_up(nat64.PROBE, socket.AF_INET6)
    except OSError:
        return [address]
    return [*((each.of(host), port) for each in nat64.prefixes(found)), address]


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """The addresses with their families in turn, each family in its own order.

    Source: RFC 8305 section 4.
    """
    families: dict[bool, list[Address]] = {}
    for each in addresses:
        families.setdefault(":" in each[0], []).append(each)
    rounds = zip_longest(*families.values())
    return [each for turn in rounds for each in turn if each is not None]


async def race(
    tiers: Sequence[Sequence[Attempt[Made]]],
    *,
    head_start: float = HEAD_START,
    one_peer: bool = False,
) -> Made:
    """What the first attempt to connect has made.

    Args:
        tiers: What to try, in the order of preference; at least one attempt.
        head_start: Seconds a tier has to itself.
        one_peer: The attempts lead to one peer: what one of them refuses for good, all do.

    Raises:
        Refused: Every attempt was refused. It is ``final`` when every refusal was, with
            ``one_peer`` when any was.
    """
    if sum(map(len, tiers)) == 1:  # an address by number, mostly: there is nothing to race
        return await tiers[0][0]()
    tries: list[Task[Made | Refused]] = []
    winner: Made | None = None
    try:
        async with TaskGroup() as group:
            for number, tier in enumerate(tiers, start=1):
                tries += [spawn(group, _try(attempt), name="dial") for attempt in tier]
                patience = head_start if number < len(tiers) else None
                winner = await _first(tries, patience, one_peer=one_peer)
                if winner is not None:
                    break
            for each in tries:
                each.cancel()
    except BaseException:
        winner = None  # nobody waits for it any more
        raise
    finally:
        for made in _outcomes(tries):
            if not isinstance(made, Refused) and made is not winner:
                made.close()
    if winner is None:
        refusals = [each for each in _outcomes(tries) if isinstance(each, Refused)]
        raise _joined(refusals, one_peer=one_peer)
    return winner


async def _try(attempt: Attempt[Made]) -> Made | Refused:
    try:
        return await attempt()
    except Refused as refusal:
        return refusal


async def _first(
    tries: Collection[Task[Made | Refused]], patience: float | None, *, one_peer: bool
) -> Made | None:
    """The first connection made; None when all failed, or when patience has run out."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(patience) as timeout:
            for next_outcome in asyncio.as_completed(tries):
                outcome = await next_outcome
                if not isinstance(outcome, Refused):
                    return outcome
                if one_peer and outcome.final:
                    timeout.reschedule(loop.time() + FINAL_PATIENCE)
    except TimeoutError:
        pass
    return None


def _outcomes(tries: Collection[Task[Made | Refused]]) -> list[Made | Refused]:
    return [each.result() for each in tries if each.done() and not each.cancelled()]


def _joined(refusals: Sequence[Refused], *, one_peer: bool) -> Refused:
    """What all of ``refusals`` say in one."""
    finals = [each for each in refusals if each.final]
    if one_peer and finals:
        refusals = finals
    if len(refusals) == 1:
        return refusals[0]
    return Refused(
        ", ".join(dict.fromkeys(each.peer for each in refusals)),
        "; ".join(dict.fromkeys(each.reason for each in refusals)),
        final=len(finals) == len(refusals),
        cause=refusals[0].cause,
    )


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_uniform = random.SystemRandom().uniform


class Backoff:
    """Delays between tries: random under a bound that doubles (full jitter).

    Args:
        first: The first bound, seconds.
        immediate: Whether the first retry waits not at all.
        uniform: Draws from between two numbers.
    """

    def __init__(
        self,
        *,
        first: float = 0.1,
        immediate: bool = False,
        uniform: Callable[[float, float], float] = _uniform,
    ) -> None:
        self._first = first
        self._immediate = immediate
        self._uniform = uniform
        self.reset()

    def reset(self) -> None:
        """Begin again: what was tried has worked."""
        self._bound = self._first
        self._at_once = self._immediate

    def delay(self, most: float) -> float:
        """Seconds to wait before the next try.

        Args:
            most: What the bound may grow to, seconds.
        """
        if self._at_once:
            self._at_once = False
            return 0.0
        bound = min(self._bound, most)
        self._bound = bound * 2
        return self._uniform(0.0, bound)
