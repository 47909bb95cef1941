"""What happens around every call: who makes it, may it be made, how does it end.

Invariant: a call ends with a code that says something. What a service raises as a
ControlError is its code and text; a database that fails is UNAVAILABLE; an exception
nobody expected is logged with its trace and is INTERNAL; nothing is UNKNOWN.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any, TypeAlias, TypeVar, cast

import grpc.aio
from google.protobuf.message import DecodeError

from outrelay.controller.authz import PACKAGE, Caller, CallerOf, Context, begin_call, expired
from outrelay.controller.clock import Clock
from outrelay.lib.errors import ControlError, StoreError
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics import RpcMetrics
from outrelay.lib.observe.throttle import Throttle

log = get_logger(__name__)

T = TypeVar("T")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_UNWELCOME = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
"""Codes of calls that their callers may not make."""

Handler: TypeAlias = "grpc.RpcMethodHandler[RequestT, ResponseT]"
Presence = Callable[[Caller], AbstractContextManager[None]]
"""Told of a caller for as long as its call lasts."""


class Calls(grpc.aio.ServerInterceptor):
    """Stands between gRPC and our services, one for each listener.

    Args:
        caller_of: Who makes a call.
        present: Told of the callers.
        metrics: Counts the calls.
        clock: The time.
    """

    def __init__(
        self, caller_of: CallerOf, present: Presence, metrics: RpcMetrics, clock: Clock
    ) -> None:
        self._caller_of = caller_of
        self._present = present
        self._metrics = metrics
        self._clock = clock
        self._throttle = Throttle()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[Handler[RequestT, ResponseT] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler[RequestT, ResponseT] | None:
        """Guard the handlers of our own services; health and reflection are for all."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(f"/{PACKAGE}."):
            return handler
        return _guarded(self, method, handler)

    async def serve(self, method: str, context: Context, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work of a call, and end the call well whatever comes of it."""
        code = "OK"
        try:
            return await self._admitted(method, context, work)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - it is told to the caller, or logged
            code, reason = _refusal_of(error, method)
        finally:
            self._metrics.calls.labels(method, code).inc()
        self._tell(method, context, code, reason)
        # Out here: an error that is still held when the call is aborted is held in a circle,
        # and the request with it, until somebody collects garbage.
        return await context.abort(grpc.StatusCode[code], reason)

    def _tell(self, method: str, context: Context, code: str, reason: str) -> None:
        """Log a call that was refused; who may not make it is what an operator must see."""
        if code in _UNWELCOME:
            self._throttle.write(
                log.warning,
                "call refused",
                cause=(method, code),
                method=method,
                address=context.peer(),
                code=code,
                reason=reason,
            )
        else:
            log.debug("call refused", method=method, code=code, reason=reason)

    def watching(self, method: str) -> AbstractContextManager[object]:
        """Counts an open stream of answers."""
        return self._metrics.watchers.labels(method).track_inprogress()

    async def _admitted(self, method: str, context: Context, work: Callable[[], Awaitable[T]]) -> T:
        caller = self._caller_of(context)
        begin_call(caller, method)
        left = None if caller.expires is None else caller.expires - self._clock() / 1000
        with self._present(caller):
            try:
                async with asyncio.timeout(left) as life:
                    return await work()
            except TimeoutError:
                if not life.expired():
                    raise
                raise expired(caller) from None


def _refusal_of(error: Exception, method: str) -> tuple[str, str]:
    """Status and reason for the caller of a call that failed."""
    if isinstance(error, ControlError):
        return error.status, error.reason
    if isinstance(error, DecodeError):
        return "INVALID_ARGUMENT", "the request cannot be decoded"
    if isinstance(error, StoreError):
        log.warning("database failed", method=method, error=str(error))
        return "UNAVAILABLE", f"the controller's database failed: {error.reason}"
    log.error("call failed", method=method, exc_info=error)
    return "INTERNAL", "the controller failed at this call; its log says why"


def _guarded(
    calls: Calls, method: str, handler: Handler[RequestT, ResponseT]
) -> Handler[RequestT, ResponseT]:
    """``handler`` with ``Calls.serve`` around it.

    Requests are decoded inside of it, so that garbage ends like everything else. They are
    read inside of it, too: a handler of one request is given to gRPC as one of a stream of
    them, which is the same on the wire, so that nothing is read for who may not call.
    """
    decode: _Function = handler.request_deserializer or bytes
    encode = handler.response_serializer
    made: Any
    if handler.unary_unary:
        unary = _unary(calls, method, handler.unary_unary, decode)
        made = grpc.stream_unary_rpc_method_handler(unary, None, encode)
    elif handler.stream_unary:
        stream_in = _stream_in(calls, method, handler.stream_unary, decode)
        made = grpc.stream_unary_rpc_method_handler(stream_in, None, encode)
    elif handler.stream_stream:
        stream_both = _stream_both(calls, method, handler.stream_stream, decode)
        made = grpc.stream_stream_rpc_method_handler(stream_both, None, encode)
    else:
        assert handler.unary_stream, "there is no other kind"
        stream_out = _stream_out(calls, method, handler.unary_stream, decode)
        made = grpc.stream_stream_rpc_method_handler(stream_out, None, encode)
    return cast("Handler[RequestT, ResponseT]", made)


_Function = Callable[..., Any]
"""A handler's parts, of whatever messages it is for."""


def _unary(calls: Calls, method: str, behaviour: _Function, decode: _Function) -> _Function:
    async def unary(_requests: AsyncIterator[bytes], context: Context) -> object:
        async def answer() -> object:
            return await behaviour(decode(await _request(context)), context)

        return await calls.serve(method, context, answer)

    return unary


async def _request(context: Context) -> bytes:
    """The request of a call that has one."""
    request = await context.read()
    if not isinstance(request, bytes):
        raise ControlError("INVALID_ARGUMENT", "the call has no request")
    return request


def _stream_in(calls: Calls, method: str, behaviour: _Function, decode: _Function) -> _Function:
    async def stream_in(requests: AsyncIterator[bytes], context: Context) -> object:
        def work() -> Any:
            return behaviour((decode(request) async for request in requests), context)

        return await calls.serve(method, context, work)

    return stream_in


def _stream_both(calls: Calls, method: str, behaviour: _Function, decode: _Function) -> _Function:
    """The behaviour is a coroutine and writes its answers: it reads at the same time."""

    async def stream_both(requests: AsyncIterator[bytes], context: Context) -> None:
        async def converse() -> None:
            with calls.watching(method):
                await behaviour((decode(request) async for request in requests), context)

        await calls.serve(method, context, converse)

    return stream_both


def _stream_out(calls: Calls, method: str, behaviour: _Function, decode: _Function) -> _Function:
    """Answers are driven from here: cancelled, they end here and now, not when collected."""

    async def stream_out(_requests: AsyncIterator[bytes], context: Context) -> None:
        async def send() -> None:
            request = decode(await _request(context))
            with calls.watching(method):
                async with aclosing(behaviour(request, context)) as answers:
                    async for answer in answers:
                        await context.write(answer)

        await calls.serve(method, context, send)

    return stream_out
