"""The relay's line to its controller.

Words: the relay calls one controller at a time. When the line is dead it is *renewed*: a
fresh connection, to the next controller of the list, and every call that hung on the old
one fails at once. A controller is *plain* when it has only the fixed contract that it shares
with other implementations, *extended* when it has our additions; each answer to a Watch
shows which it is, so that it may change while the relay runs
(``docs/decisions/0005-plain-controllers.md``).

Invariant: whatever fails in a call is a ControlError; nothing else of gRPC comes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never, Protocol, TypeVar

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
from outrelay.relay.lag import Lag

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

NOT_OFFERED = frozenset({"UNIMPLEMENTED", "INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN"})
"""What controllers say to a Watch they do not know, or know otherwise."""

SNAPSHOT = ("outrelay-snapshot", "1")
ALL_TENANTS = ("outrelay-all-tenants", "1")
"""What a Watch asks for by metadata."""

T = TypeVar("T")
EventT = TypeVar("EventT")
EventT_co = TypeVar("EventT_co", covariant=True)


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


class Kind:
    """Whether the controller is plain or extended, as it has shown last."""

    def __init__(self) -> None:
        self.plain = asyncio.Event()
        self.extended = asyncio.Event()

    def show(self, *, extended: bool) -> None:
        """The controller has shown what it is."""
        now, before = (self.extended, self.plain) if extended else (self.plain, self.extended)
        now.set()
        before.clear()


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

    kind: Kind
    """What it has shown itself to be."""

    lag: Lag
    """For how long it has told nothing."""

    def __init__(
        self, targets: Sequence[str], *, credentials: Credentials | None, trust: Trust | None
    ) -> None:
        assert targets
        self._targets = targets
        self._credentials = credentials
        self._trust = trust
        self._turn = 0
        self.suspected = asyncio.Event()
        self.kind = Kind()
        self.lag = Lag()
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
        self._turn += 1
        await self._renew()

    async def show(self, credentials: Credentials) -> None:
        """Make the line anew with other credentials; one in plaintext stays as it is."""
        if self._credentials:
            self._credentials = credentials
            await self._renew()

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

    async def watch(self, watch: Watch[EventT]) -> AsyncGenerator[EventT, None]:
        """The events of a call that has no end.

        Raises:
            ControlError: It failed, or ended.
        """
        target = self.target
        with self._errors():
            call = watch.open(self._services)
            try:
                given = [(str(key), value) for key, value in await call.initial_metadata()]
                if given or not call.done():
                    watch.begun(extended=SNAPSHOT in given)
                    self.lag.caught_up(watch.kind, watch)
                async for event in call:
                    yield event
            finally:
                call.cancel()
        raise ControlError("UNAVAILABLE", "ended the stream of events", controller=target)

    async def _renew(self) -> None:
        old = self._channel
        self._connect()
        await old.close()

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


class Answers(Protocol[EventT_co]):
    """A call under way that is answered with events."""

    def initial_metadata(self) -> Awaitable[Iterable[tuple[str, object]]]:
        """What comes before them; empty when the call has failed."""

    def done(self) -> bool:
        """Whether the call has ended."""

    def cancel(self) -> bool:
        """End the call."""

    def __aiter__(self) -> AsyncIterator[EventT_co]: ...


class Watch(Protocol[EventT]):
    """Something that follows a Watch of the controller."""

    @property
    def name(self) -> str:
        """What is followed, for logs."""

    @property
    def kind(self) -> str:
        """The same as one of ``lag.KINDS``."""

    def open(self, services: Services) -> Answers[EventT]:
        """Begin the call, and forget what an earlier one left half done."""

    def begun(self, *, extended: bool) -> None:
        """The controller lets us in; ``extended``: it gives what the metadata asks for.

        Raises:
            ControlError: UNIMPLEMENTED: that is not enough.
        """

    def refused(self) -> None:
        """The controller does not offer this; it will be asked again much later."""

    def take(self, event: EventT) -> None:
        """The next event."""

    def lost(self) -> None:
        """The call has ended; another will begin."""


async def follow(controller: Controller, watch: Watch[EventT]) -> None:
    """Follow ``watch`` for ever, beginning again whenever it breaks off."""
    try:
        await _follow(controller, watch)
    finally:
        controller.lag.caught_up(watch.kind, watch)


async def _follow(controller: Controller, watch: Watch[EventT]) -> Never:
    backoff = Backoff()
    down = False
    while True:
        controller.lag.behind(watch.kind, watch)
        try:
            async with aclosing(controller.watch(watch)) as events:
                async for event in events:
                    if down:
                        log.info("controller is back", follows=watch.name)
                        down = False
                    backoff.reset()
                    watch.take(event)
        except ControlError as error:
            if error.status in NOT_OFFERED:  # one day another may be there
                log.info(
                    "the controller does not offer this", follows=watch.name, reason=error.reason
                )
                watch.refused()
                controller.lag.caught_up(watch.kind, watch)
                await asyncio.sleep(ASK_AGAIN)
                continue
            if not down:
                log.warning("controller is away", follows=watch.name, reason=str(error))
                down = True
        controller.lag.behind(watch.kind, watch)
        controller.suspected.set()
        watch.lost()
        await asyncio.sleep(backoff.delay(LONGEST_BACKOFF))
