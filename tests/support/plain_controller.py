"""A controller of another implementation: the fixed contract, and nothing that we added.

    plain = PlainController()
    async with plain.serving() as target:
        ...

What it does not know it does not do: unknown fields are dropped, unknown rpcs are
UNIMPLEMENTED, metadata is not looked at, a Registry.Watch begins with nothing, and a client
that pings more often than every five minutes is cut off. It keeps its state from one
``serving`` to the next, unless told to ``forget``.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from tests.support.plain_contract import (
    CLASSES,
    EVENT_KIND_DEREGISTER,
    EVENT_KIND_REGISTER,
    PACKAGE,
    POLICY_KIND_ADDED,
    POLICY_KIND_REMOVED,
    POLICY_KIND_SNAPSHOT_END,
    RPCS,
    make,
    unknown,
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Plain: TypeAlias = Any
"""A message of the contract; its fields are not known to the type checker."""

_Watcher = tuple[str, "asyncio.Queue[Plain]"]


class PlainController:
    """The server's state, and what it was asked."""

    def __init__(self) -> None:
        self.rules: dict[tuple[str, str], Plain] = {}
        self.services: dict[tuple[str, str, str], Plain] = {}
        self.relays: dict[str, Plain] = {}
        self.events: list[Plain] = []
        self.calls: list[tuple[str, Plain]] = []
        self.watched: list[str] = []
        """Tenants whose rules are watched now."""
        self.unknown: set[int] = set()
        """Numbers of fields it was sent and does not know."""
        self.port = 0
        self._ids = itertools.count(1)
        self._policy: list[_Watcher] = []
        self._registry: list[_Watcher] = []
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve, on the port it had before if it had one; its target."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(tuple(self._handlers()))
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        try:
            yield f"127.0.0.1:{self.port}"
        finally:
            await server.stop(None)
            await server.wait_for_termination()

    def forget(self) -> None:
        """Lose what it knows of services and relays, as one without a database does."""
        self.services.clear()
        self.relays.clear()

    async def until(self, condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Return once ``condition`` holds after some call."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def called(self, rpc: str) -> list[Plain]:
        """The requests of an rpc so far."""
        return [request for name, request in self.calls if name == rpc]

    # ---- Registry ------------------------------------------------------------------------

    def _register_service(self, request: Plain) -> Plain:
        service_id = f"{request.tenant}/{request.service_name}"
        relay = self.relays.get(request.relay_id)
        row = make(
            "Provider",
            service_id=service_id,
            agent_uri=request.agent_uri,
            relay_id=request.relay_id,
            local_addr=request.local_addr,
            updated_at_unix_ms=_now(),
            relay_endpoint=relay.endpoint if relay else "",
        )
        self.services[request.tenant, request.service_name, request.agent_uri] = row
        self._tell_registry(EVENT_KIND_REGISTER, row)
        return make("RegisterServiceResponse", service_id=service_id)

    def _deregister_agent(self, request: Plain) -> Plain:
        for key, row in list(self.services.items()):
            if (key[0], key[2], row.relay_id) == (
                request.tenant,
                request.agent_uri,
                request.relay_id,
            ):
                del self.services[key]
                self._tell_registry(EVENT_KIND_DEREGISTER, row)
        return make("DeregisterAgentResponse")

    def _resolve(self, request: Plain) -> Plain:
        named = (request.tenant, request.service_name)
        return make(
            "ResolveResponse",
            providers=[row for key, row in self.services.items() if key[:2] == named],
        )

    def _upsert_relay(self, request: Plain) -> Plain:
        self.relays[request.id] = request
        return make("UpsertRelayResponse")

    def _tell_registry(self, kind: int, row: Plain) -> None:
        tenant, _, name = row.service_id.partition("/")
        event = make("WatchEvent", kind=kind, provider=row, service_name=name)
        _tell(self._registry, tenant, event)

    # ---- Policy --------------------------------------------------------------------------

    def _add_policy(self, request: Plain) -> Plain:
        rule = make("PolicyRule")
        rule.CopyFrom(request.rule)
        plain: Plain = rule
        plain.id = plain.id or f"rule-{next(self._ids)}"
        plain.created_at_unix_ms = _now()
        self.rules[plain.tenant, plain.id] = plain
        event = make("PolicyEvent", kind=POLICY_KIND_ADDED, rule=plain)
        _tell(self._policy, plain.tenant, event)
        return make("AddPolicyResponse", id=plain.id)

    def _remove_policy(self, request: Plain) -> Plain:
        removed = self.rules.pop((request.tenant, request.id), None)
        if removed:
            event = make("PolicyEvent", kind=POLICY_KIND_REMOVED, removed_id=request.id)
            _tell(self._policy, request.tenant, event)
        return make("RemovePolicyResponse", removed=removed is not None)

    def _list_policies(self, request: Plain) -> Plain:
        return make("ListPoliciesResponse", rules=self._rules_of(request.tenant))

    async def _watch_policies(self, request: Plain) -> AsyncIterator[Plain]:
        """Of no tenant there are no rules."""
        with _watching(self._policy, request.tenant) as queue:
            self.watched.append(request.tenant)
            self._changed.set()
            try:
                for rule in self._rules_of(request.tenant):
                    yield make("PolicyEvent", kind=POLICY_KIND_ADDED, rule=rule)
                yield make("PolicyEvent", kind=POLICY_KIND_SNAPSHOT_END)
                while True:
                    yield await queue.get()
            finally:
                self.watched.remove(request.tenant)
                self._changed.set()

    def _rules_of(self, tenant: str) -> list[Plain]:
        return [rule for key, rule in self.rules.items() if key[0] == tenant]

    # ---- Audit ---------------------------------------------------------------------------

    def _record(self, request: Plain) -> Plain:
        self.events.append(request.event)
        return make("RecordAuditResponse")

    async def _query(self, request: Plain) -> AsyncIterator[Plain]:
        found = [event for event in reversed(self.events) if _is_asked_for(event, request)]
        for event in found[: request.limit or None]:
            yield event

    async def _watch_services(self, request: Plain) -> AsyncIterator[Plain]:
        with _watching(self._registry, request.tenant) as queue:
            while True:
                yield await queue.get()

    # ---- gRPC ----------------------------------------------------------------------------

    def _handlers(self) -> Iterable[grpc.GenericRpcHandler]:
        unary: dict[str, Callable[[Plain], Plain]] = {
            "Registry/RegisterService": self._register_service,
            "Registry/DeregisterAgent": self._deregister_agent,
            "Registry/Resolve": self._resolve,
            "Registry/UpsertRelay": self._upsert_relay,
            "Policy/AddPolicy": self._add_policy,
            "Policy/RemovePolicy": self._remove_policy,
            "Policy/ListPolicies": self._list_policies,
            "Audit/Record": self._record,
        }
        streams: dict[str, Callable[[Plain], AsyncIterator[Plain]]] = {
            "Registry/Watch": self._watch_services,
            "Policy/Watch": self._watch_policies,
            "Audit/Query": self._query,
        }
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for rpc, (request, _) in RPCS.items():
            service, method = rpc.split("/")
            if rpc in unary:
                handler = grpc.unary_unary_rpc_method_handler(
                    self._answering(rpc, unary[rpc]), CLASSES[request].FromString, _bytes
                )
            else:
                handler = grpc.unary_stream_rpc_method_handler(
                    self._streaming(rpc, streams[rpc]), CLASSES[request].FromString, _bytes
                )
            by_service.setdefault(service, {})[method] = handler
        for service, handlers in by_service.items():
            yield grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", handlers)

    def _answering(self, rpc: str, work: Callable[[Plain], Plain]) -> Any:
        async def answer(request: Plain, _context: Context) -> Plain:
            self._note(rpc, request)
            return work(request)

        return answer

    def _streaming(self, rpc: str, work: Callable[[Plain], AsyncIterator[Plain]]) -> Any:
        async def stream(request: Plain, _context: Context) -> AsyncIterator[Plain]:
            self._note(rpc, request)
            async for each in work(request):
                yield each

        return stream

    def _note(self, rpc: str, request: Plain) -> None:
        self.unknown |= unknown(request)
        request.DiscardUnknownFields()
        self.calls.append((rpc, request))
        asyncio.get_running_loop().call_soon(self._changed.set)


@contextmanager
def _watching(watchers: list[_Watcher], tenant: str) -> Iterator[asyncio.Queue[Plain]]:
    """A queue that gets the events of a tenant meanwhile."""
    watcher: _Watcher = (tenant, asyncio.Queue())
    watchers.append(watcher)
    try:
        yield watcher[1]
    finally:
        watchers.remove(watcher)


def _tell(watchers: list[_Watcher], tenant: str, event: Plain) -> None:
    for watched, queue in watchers:
        if watched == tenant:
            queue.put_nowait(event)


def _is_asked_for(event: Plain, request: Plain) -> bool:
    return (
        event.tenant == request.tenant
        and request.caller in ("", event.caller)
        and request.target in ("", event.target)
        and event.ts_unix_ms >= request.since_unix_ms
    )


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _now() -> int:
    return time.time_ns() // 1_000_000
