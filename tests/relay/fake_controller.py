"""A controller that does what a test tells it to, on a unix socket.

async with fake_controller(tmp_path) as fake, fake.line() as controller:
    fake.failures["UpsertRelay"] = grpc.StatusCode.UNAVAILABLE
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from outrelay.lib.control.v1 import audit_pb2, policy_pb2, registry_pb2
from outrelay.relay.controller import Controller

Context = grpc.aio.ServicerContext[Message, Message]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MessageT = TypeVar("MessageT", bound=Message)
AnswerT = TypeVar("AnswerT", bound=Message)


ASKED = {("outrelay-snapshot", "1"), ("outrelay-all-tenants", "1")}
"""What our controllers give a Watch that asks for it, and say so."""


class Calls:
    """Calls that were made, to be waited for."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Message]] = []
        self._changed = asyncio.Event()

    def note(self, name: str, request: Message) -> None:
        """A call was made."""
        self.made.append((name, request))
        self.look_again()

    def look_again(self) -> None:
        """Have everybody who waits look again."""
        self._changed.set()

    def of(self, name: str, kind: type[MessageT]) -> list[MessageT]:
        """The requests of one rpc."""
        return [each for made, each in self.made if made == name and isinstance(each, kind)]

    async def until(self, enough: Callable[[], bool]) -> None:
        """Return once ``enough`` holds after some call."""
        while not enough():
            self._changed.clear()
            await self._changed.wait()

    async def number(self, name: str, count: int) -> None:
        """Return once an rpc was called ``count`` times."""
        await self.until(lambda: sum(made == name for made, _ in self.made) >= count)


class FakeController:
    """Every rpc the relay calls: each is noted, then fails as told or succeeds.

    Args:
        target: Where it serves.
    """

    failures: dict[str, grpc.StatusCode]
    """What the rpcs of a name end with."""

    silent: bool
    """Whether it answers nothing."""

    refuses: Callable[[audit_pb2.AuditEvent], bool]
    """Which events it takes for malformed."""

    rows: list[registry_pb2.Provider]
    """What Resolve answers, whatever is asked for."""

    plain: bool
    """Whether it gives a Watch nothing of what its metadata asks for."""

    loses_answers: bool
    """Whether the next batch is stored without saying so."""

    time_ms: int
    """What time it is, as it says to who beats; 0: it does not say."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.calls = Calls()
        self.failures = {}
        self.silent = False
        self.metadata: dict[str, dict[str, str]] = {}
        self.stored: dict[str, audit_pb2.AuditEvent] = {}
        self.refuses = lambda _event: False
        self.rows = []
        self.plain = False
        self.loses_answers = False
        self.time_ms = 0
        self._watchers: defaultdict[str, set[asyncio.Queue[Message | None]]] = defaultdict(set)

    @asynccontextmanager
    async def line(self, *more: str) -> AsyncIterator[Controller]:
        """The relay's line to this controller, and then to others."""
        async with Controller((self.target, *more), credentials=None, trust=None) as controller:
            yield controller

    # ---- what tests do -------------------------------------------------------------------

    async def tell(self, watch: str, *events: Message) -> None:
        """Send events to whoever follows a watch, once somebody does."""
        await self.followed(watch)
        for queue in self._watchers[watch]:
            for event in events:
                queue.put_nowait(event)

    async def followed(self, watch: str) -> None:
        """Return once somebody follows a watch: was not only called for it, but told so."""
        await self.calls.until(lambda: bool(self._watchers[watch]))

    def hang_up(self) -> None:
        """End all watches."""
        for watchers in self._watchers.values():
            for queue in watchers:
                queue.put_nowait(None)

    # ---- the services --------------------------------------------------------------------

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What the server serves."""
        services: dict[str, dict[str, Handler]] = {
            "Registry": {
                "RegisterService": self._unary(
                    registry_pb2.RegisterServiceRequest, registry_pb2.RegisterServiceResponse
                ),
                "DeregisterAgent": self._unary(
                    registry_pb2.DeregisterAgentRequest, registry_pb2.DeregisterAgentResponse
                ),
                "DeregisterService": self._unary(
                    registry_pb2.DeregisterServiceRequest, registry_pb2.DeregisterServiceResponse
                ),
                "UpsertRelay": self._unary(
                    registry_pb2.UpsertRelayRequest, registry_pb2.UpsertRelayResponse
                ),
                "Resolve": self._unary(registry_pb2.ResolveRequest, registry_pb2.ResolveResponse),
                "Watch": self._watch("directory", registry_pb2.WatchRequest),
            },
            "Policy": {"Watch": self._watch("policy", policy_pb2.WatchPoliciesRequest)},
            "Audit": {
                "Record": self._unary(audit_pb2.RecordAuditRequest, audit_pb2.RecordAuditResponse),
                "RecordBatch": grpc.stream_unary_rpc_method_handler(
                    self._record_batch,
                    audit_pb2.RecordBatchRequest.FromString,
                    audit_pb2.RecordBatchResponse.SerializeToString,
                ),
            },
        }
        return [
            grpc.method_handlers_generic_handler(f"outrelay.control.v1.{name}", handlers)
            for name, handlers in services.items()
        ]

    def _unary(
        self, request: type[MessageT], response: type[AnswerT]
    ) -> grpc.RpcMethodHandler[MessageT, AnswerT]:
        async def answer(message: MessageT, context: Context) -> AnswerT:
            await self._admit(type(message).__name__.removesuffix("Request"), message, context)
            if isinstance(message, audit_pb2.RecordAuditRequest):
                self.stored[message.event.event_id] = message.event
            answered = response()
            if isinstance(answered, registry_pb2.ResolveResponse):
                answered.providers.extend(self.rows)
            if isinstance(answered, registry_pb2.UpsertRelayResponse):
                answered.server_time_unix_ms = self.time_ms
            return answered

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request.FromString,
            response.SerializeToString,
        )

    def _watch(
        self, name: str, request: type[MessageT]
    ) -> grpc.RpcMethodHandler[MessageT, Message]:
        async def follow(message: MessageT, context: Context) -> AsyncIterator[Message]:
            sent = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
            tenant = getattr(message, "tenant", "")
            watched = f"{name} of {tenant}" if tenant else name
            self.metadata[watched] = sent
            queue = asyncio.Queue[Message | None]()
            await self._admit(f"Watch {watched}", message, context)
            given = [] if self.plain else [each for each in sent.items() if each in ASKED]
            await context.send_initial_metadata(given)
            self._watchers[watched].add(queue)
            self.calls.look_again()
            try:
                while event := await queue.get():
                    yield event
            finally:
                self._watchers[watched].discard(queue)
                self.calls.note(f"Watch {watched} over", message)

        return grpc.unary_stream_rpc_method_handler(
            follow,
            request.FromString,
            lambda event: event.SerializeToString(),
        )

    async def _record_batch(
        self, requests: AsyncIterator[audit_pb2.RecordBatchRequest], context: Context
    ) -> audit_pb2.RecordBatchResponse:
        async for request in requests:
            await self._admit("RecordBatch", request, context)
            if any(map(self.refuses, request.events)):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "event")
            self.stored.update({event.event_id: event for event in request.events})
            if self.loses_answers:
                self.loses_answers = False
                await context.abort(grpc.StatusCode.UNAVAILABLE, "answer lost")
        return audit_pb2.RecordBatchResponse()

    async def _admit(self, name: str, request: Message, context: Context) -> None:
        self.calls.note(name, request)
        if self.silent:
            await asyncio.Event().wait()
        if code := self.failures.get(name):
            await context.abort(code, f"{name} fails")


@asynccontextmanager
async def fake_controller(directory: Path, name: str = "c") -> AsyncIterator[FakeController]:
    """A controller that serves on a socket in ``directory``."""
    target = f"unix:{directory}/{name}.sock"
    fake = FakeController(target)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(tuple(fake.handlers()))
    server.add_insecure_port(target)
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)
