"""The debug listener: what can be seen of a running process, over HTTP.

    /healthz         200: the event loop answers
    /readyz          200, or 503 and why nobody should be sent here
    /metrics         the numbers, for Prometheus
    /debug/metrics   the same as JSON
    /debug/status    what this process is and what it is connected with
    /debug/streams   what it carries, a page at a time (?limit=100&after=NAME)
    /debug/tasks     what its tasks wait for
    /debug/config    with what configuration it runs, and where each value comes from

A *probe* listener has the first two only.

Invariants: it only shows; nothing can be changed here and no secret is told. A page of another
site that a browser on this machine has open reads nothing: who asks for a host that is not
ours is refused (DNS rebinding). Connections and headers are bounded; when there are too many
connections the oldest gives way, so that a probe always gets its answer.

Source: commands.md, Ports.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aiohttp import web

from outrelay import __version__
from outrelay.lib.errors import ConfigError
from outrelay.lib.observe.exposition import series_of, text_of
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.views import Json, Views, page_of, status_of, tasks_of_loop
from outrelay.lib.values import Address, address_text

log = get_logger(__name__)

MOST_CONNECTIONS = 64
BACKLOG = 16
IDLE = 60.0
"""Seconds a connection may be without a whole request."""
LONGEST_LINE = 8 * 1024
MOST_HEADERS = 64
FAREWELL = 0.5
"""Seconds that requests under way have when the listener is closed."""

PAGE = 100
LARGEST_PAGE = 1000

_SILENT = logging.getLogger(f"{__name__}.http")
_SILENT.setLevel(logging.CRITICAL + 1)
"""What the library says of broken requests is nobody's concern."""

_HEADERS = {
    "Server": f"outrelay/{__version__}",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}

Answer = Callable[[web.BaseRequest], web.Response]
Routes = Mapping[str, Answer]


class BadRequestError(Exception):
    """A request that cannot be answered; its text says why."""


@asynccontextmanager
async def listen(flag: str, address: Address, routes: Routes) -> AsyncIterator[Address]:
    """Answer requests at ``address``; gives the address, with the port the system chose.

    Args:
        flag: What the operator wrote the address for.
        address: A name or a numeric host, and a port.
        routes: What to answer, by path.

    Raises:
        ConfigError: It cannot be listened on.
    """
    sock = await _bind(flag, address)
    bound: Address = sock.getsockname()[:2]
    server = _Bounded(
        _Desk(routes, told=address[0], bound=bound[0]).serve,
        logger=_SILENT,
        access_log=None,
        keepalive_timeout=IDLE,
        lingering_time=0,
        max_line_size=LONGEST_LINE,
        max_field_size=LONGEST_LINE,
        max_headers=MOST_HEADERS,
    )
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, sock=sock, backlog=BACKLOG)
    try:
        yield bound
    finally:
        listener.close()
        server.pre_shutdown()
        await server.shutdown(FAREWELL)


async def _bind(flag: str, address: Address) -> socket.socket:
    host, port = address
    loop = asyncio.get_running_loop()
    sock = None
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, target = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # everywhere is everywhere
        sock.bind(target)
    except OSError as error:
        if sock:
            sock.close()
        fault = f"cannot listen on {address_text(address)}: {error.strerror}"
        raise ConfigError(flag, fault, f"give another one, or {flag} '' for none") from error
    return sock


class _Bounded(web.Server):
    """A server on which the oldest connection makes room for one too many."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """See ``web.Server``."""
        alive = [each.transport for each in self.connections if each.transport]
        alive = [each for each in alive if not each.is_closing()]
        if len(alive) >= MOST_CONNECTIONS:
            alive[0].abort()
        super().connection_made(handler, transport)


class _Desk:
    """Answers the requests of one listener.

    Args:
        routes: What to answer, by path.
        told: The host it was told to listen on.
        bound: The numeric host it listens on.
    """

    def __init__(self, routes: Routes, *, told: str, bound: str) -> None:
        self._routes = routes
        self._names = {"localhost", told.lower()}
        self._bound = ipaddress.ip_address(bound)

    async def serve(self, request: web.BaseRequest) -> web.Response:
        """The answer to one request."""
        if not all(self._is_ours(host) for host in request.headers.getall("Host", ())):
            hint = "use the address it listens on, or localhost"
            return _text(f"this listener is not at that host; {hint}", status=421)
        if request.method not in ("GET", "HEAD"):
            return _text("only GET and HEAD", status=405, allow="GET, HEAD")
        answer = self._routes.get(request.path)
        if answer is None:
            return _text(f"nothing here; there is {' '.join(self._routes)}", status=404)
        try:
            return answer(request)
        except BadRequestError as error:
            return _text(str(error), status=400)
        except Exception:
            log.exception("debug request failed", path=request.path)
            return _text("this failed; the log says why", status=500)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or self._is_here(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _is_here(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether one who asks for ``address`` may mean us: everywhere is also behind a NAT."""
        return self._bound.is_unspecified or address == self._bound


# ---- what is answered ----------------------------------------------------------------------


def probe_routes(views: Views) -> Routes:
    """For who only has to know whether the process does its work."""

    def ready(_request: web.BaseRequest) -> web.Response:
        reasons = views.unready()
        return _text("\n".join(reasons) or "ready", status=503 if reasons else 200)

    return {"/healthz": lambda _request: _text("alive"), "/readyz": ready}


def debug_routes(views: Views, config: Json) -> Routes:
    """For who wants to know more.

    Args:
        views: What there is to see.
        config: The effective configuration, without secrets.
    """

    def metrics(request: web.BaseRequest) -> web.Response:
        body, media_type = text_of(views.registry, request.headers.get("Accept", ""))
        return _response(body, media_type)

    def streams(request: web.BaseRequest) -> web.Response:
        page = page_of(views.streams, limit=_limit(request), after=request.query.get("after", ""))
        return _json(page)

    return {
        **probe_routes(views),
        "/metrics": metrics,
        "/debug/metrics": lambda _request: _json(series_of(views.registry)),
        "/debug/status": lambda _request: _json(status_of(views)),
        "/debug/streams": streams,
        "/debug/tasks": lambda _request: _json(tasks_of_loop()),
        "/debug/config": lambda _request: _json(config),
    }


def _limit(request: web.BaseRequest) -> int:
    text = request.query.get("limit", str(PAGE))
    limit = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else 0
    if not 1 <= limit <= LARGEST_PAGE:
        raise BadRequestError(f"limit: must be a number from 1 to {LARGEST_PAGE}")
    return limit


def _json(value: Json) -> web.Response:
    text = json.dumps(value, indent=1, default=str)
    return _response(f"{text}\n".encode(), "application/json")


def _text(text: str, *, status: int = 200, allow: str | None = None) -> web.Response:
    return _response(f"{text}\n".encode(), "text/plain; charset=utf-8", status, allow)


def _response(
    body: bytes, media_type: str, status: int = 200, allow: str | None = None
) -> web.Response:
    headers = {**_HEADERS, "Content-Type": media_type} | ({"Allow": allow} if allow else {})
    return web.Response(body=body, status=status, headers=headers)
