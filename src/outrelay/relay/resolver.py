"""Behind which relays a service has providers, when nobody here offers it.

The directory's copy of the registry tells, once it is complete. With a plain controller it
never is, and after a start it takes a moment: then the controller is asked, and what it
says is *believed* for a while, also that it knows of nobody.

Invariants: one question about a service is under way at a time, and few of each tenant; who
cannot be answered soon learns of nobody. No tenant's questions stand in the way of another's, or
show in what that is told. Nothing waits for this but refusals.

Source: control-plane.md, Plain peers; Registry, Resolve.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import ControlError
from outrelay.relay.controller import Controller
from outrelay.relay.directory import Directory

TIMEOUT = 2.0
"""Seconds the controller has: little of what a consumer waits for its stream."""

BELIEVED = 2.0
"""Seconds that an answer is good for, no answer too."""

AT_ONCE = 32
"""Questions of a tenant under way."""

REMEMBERED = 256
"""Answers to a tenant that are held."""

NOBODY: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Tenant:
    """What a tenant has asked, by service: what is believed until when, and what is under way."""

    answers: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict)
    asked: dict[str, Future[frozenset[str]]] = field(default_factory=dict)


class Resolver:
    """Answers for the directory where that cannot.

    Args:
        controller: Whom to ask.
        directory: Asked first.
        region: Where this relay is.
        now: Seconds from anywhere.
    """

    def __init__(
        self,
        controller: Controller,
        directory: Directory,
        region: str,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._controller = controller
        self._directory = directory
        self._region = region
        self._now = now
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)

    async def relays_of(self, tenant: str, name: str) -> set[str]:
        """The relays behind which the registry knows providers of the service."""
        if self._directory.complete:
            return self._directory.relays_of(tenant, name)
        known = self._tenants[tenant]
        until, relays = known.answers.get(name, (0.0, NOBODY))
        if self._now() < until:
            return set(relays)
        if asked := known.asked.get(name):
            return set(await asyncio.shield(asked))
        if len(known.asked) >= AT_ONCE:
            return set()
        return set(await self._ask(known, tenant, name))

    async def _ask(self, known: _Tenant, tenant: str, name: str) -> frozenset[str]:
        asked = known.asked[name] = asyncio.get_running_loop().create_future()
        relays = NOBODY
        try:
            relays = await self._resolve(tenant, name)
            self._remember(known, name, relays)
        finally:  # also when this asker goes away: the others are not left waiting
            del known.asked[name]
            asked.set_result(relays)
        return relays

    async def _resolve(self, tenant: str, name: str) -> frozenset[str]:
        request = registry.ResolveRequest(
            tenant=tenant, service_name=name, caller_region=self._region
        )
        try:
            answer = await self._controller.call(
                lambda services, timeout: services.registry.Resolve(request, timeout=timeout),
                timeout=TIMEOUT,
            )
        except ControlError:
            return NOBODY
        return frozenset(row.relay_id for row in answer.providers)

    def _remember(self, known: _Tenant, name: str, relays: frozenset[str]) -> None:
        known.answers.pop(name, None)  # the oldest come first
        if len(known.answers) >= REMEMBERED:
            del known.answers[next(iter(known.answers))]
        known.answers[name] = (self._now() + BELIEVED, relays)
