"""The relay's line to its controller.

Words: the relay calls one controller at a time. When the line is dead it is *renewed*: a
fresh connection, to the next controller of the list, and every call that hung on the old
one fails at once.

Invariant: whatever fails in a call is a ControlError; nothing else of gRPC comes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc.aio

from outrelay.lib.control.channel import control_errors, open_channel
from outrelay.lib.control.v1.audit_pb2_grpc import AuditStub
from outrelay.lib.control.v1.fleet_pb2_grpc import FleetStub
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.control.v1.registry_pb2_grpc import RegistryStub
from outrelay.lib.errors import ControlError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.dial import Backoff

if TYPE_CHECKING:  # types that only the stubs' type information has
    from outrelay.lib.control.v1.audit_pb2_grpc import AuditAsyncStub
    from outrelay.lib.control.v1.fleet_pb2_grpc import FleetAsyncStub
    from outrelay.lib.control.v1.policy_pb2_grpc import PolicyAsyncStub
    from outrelay.lib.control.v1.registry_pb2_grpc import RegistryAsyncStub

log = get_logger(__name__)

CALL_TIMEOUT = 5.0
"""Seconds a call may take."""

LONGEST_BACKOFF = 3.0
"""Bound of the seconds between tries."""

ASK_AGAIN = 60.0
"""Seconds until a controller is asked again for what it does not offer."""

AWAY = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
"""Statuses that say nothing about the call, only that nobody answered it."""

SNAPSHOT = ("outrelay-snapshot", "1")
ALL_TENANTS = ("outrelay-all-tenants", "1")
"""What a Watch asks for by metadata."""

T = TypeVar("T")
EventT = TypeVar("EventT")


@dataclass(frozen=True, slots=True)
class Services:
    """The controller's services, as the relay calls them."""

    registry: RegistryAsyncStub
    policy: PolicyAsyncStub
    audit: AuditAsyncStub
    fleet: FleetAsyncStub

    @classmethod
    def on(cls, channel: grpc.aio.Channel) -> Services:
        """The services behind a channel."""
        return cls(
            RegistryStub(channel), PolicyStub(channel), AuditStub(channel), FleetStub(channel)
        )


class Controller:
    """Calls the controller; use it as an async context manager.

    Args:
        targets: ``host:port`` or ``unix:PATH`` of the controllers, tried in turn.
        credentials: Who we are; None for plaintext.
        trust: Whom the controller's certificate must come from; None for plaintext.

    Raises:
        ConfigError: A target is of neither form.
    """

    suspected: asyncio.Event
    """Set to have the heartbeat try the line at once."""

    def __init__(
        self, targets: Sequence[str], *, credentials: Credentials | None, trust: Trust | None
    ) -> None:
        assert targets
        self._targets = targets
        self._credentials = credentials
        self._trust = trust
        self._turn = 0
        self.suspected = asyncio.Event()
        self._connect()

    async def __aenter__(self) -> Controller:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._channel.close()

    @property
    def target(self) -> str:
        """The controller that is called now."""
        return self._targets[self._turn % len(self._targets)]

    async def renew_after(self, error: ControlError) -> None:
        """Renew the line when ``error`` says that it should be.

        A line that only was refused is made again by gRPC; one that is silent is not.
        """
        silent = error.status == "DEADLINE_EXCEEDED"
        others = error.status == "UNAVAILABLE" and len(self._targets) > 1
        if not (silent or others):
            return
        old = self._channel
        self._turn += 1
        self._connect()
        await old.close()

    async def call(
        self, call: Callable[[Services, float], Awaitable[T]], *, timeout: float = CALL_TIMEOUT
    ) -> T:
        """Make a call.

        Args:
            call: Given the services and a deadline in seconds.
            timeout: That deadline.

        Raises:
            ControlError: It failed.
        """
        with self._errors():
            return await call(self._services, timeout)

    async def watch(
        self, call: Callable[[Services], AsyncIterator[EventT]]
    ) -> AsyncGenerator[EventT, None]:
        """The events of a call that has no end.

        Raises:
            ControlError: It failed, or ended.
        """
        target = self.target
        with self._errors():
            async for event in call(self._services):
                yield event
        raise ControlError("UNAVAILABLE", "ended the stream of events", controller=target)

    def _connect(self) -> None:
        self._channel = open_channel(self.target, credentials=self._credentials, trust=self._trust)
        self._services = Services.on(self._channel)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        target = self.target
        try:
            with control_errors(target, credentials=self._credentials, trust=self._trust):
                yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not us: gRPC cancels what hangs on a channel that is closed.
            reason = "the connection to it was given up"
            raise ControlError("UNAVAILABLE", reason, controller=target) from None


class Watch(Protocol[EventT]):
    """Something that follows a Watch of the controller."""

    @property
    def name(self) -> str:
        """What is followed, for logs."""

    def open(self, services: Services) -> AsyncIterator[EventT]:
        """Begin the call, and forget what an earlier one left half done."""

    def take(self, event: EventT) -> None:
        """The next event."""

    def lost(self) -> None:
        """The call has ended; another will begin."""


async def follow(controller: Controller, watch: Watch[EventT]) -> None:
    """Follow ``watch`` for ever, beginning again whenever it breaks off."""
    backoff = Backoff()
    down = False
    while True:
        try:
            async with aclosing(controller.watch(watch.open)) as events:
                async for event in events:
                    if down:
                        log.info("controller is back", follows=watch.name)
                        down = False
                    backoff.reset()
                    watch.take(event)
        except ControlError as error:
            if error.status == "UNIMPLEMENTED":  # a plain controller; one day another may be there
                log.info("the controller does not offer this", follows=watch.name)
                await asyncio.sleep(ASK_AGAIN)
                continue
            if not down:
                log.warning("controller is away", follows=watch.name, reason=str(error))
                down = True
        controller.suspected.set()
        watch.lost()
        await asyncio.sleep(backoff.delay(LONGEST_BACKOFF))
