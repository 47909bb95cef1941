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
ours is refused (DNS rebinding).

Source: commands.md, Ports; ``docs/decisions/0018-looking-into-a-process.md``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from outrelay import __version__
from outrelay.lib.errors import ConfigError
from outrelay.lib.observe import http
from outrelay.lib.observe.exposition import series_of, text_of
from outrelay.lib.observe.http import Answer, Request, text_answer
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.views import Json, Views, page_of, status_of, tasks_of_loop
from outrelay.lib.values import Address, address_text

log = get_logger(__name__)

PAGE = 100
LARGEST_PAGE = 1000

Routes = Mapping[str, Callable[[Request], Answer]]
"""What to answer, by path."""


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
    desk = _Desk(routes, told=address[0], bound=bound[0])
    async with http.serve(sock, desk.answer, name=f"outrelay/{__version__}"):
        yield bound


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

    def answer(self, request: Request) -> Answer:
        """The answer to one request."""
        if not all(self._is_ours(host) for host in request.hosts):
            hint = "use the address it listens on, or localhost"
            return text_answer(f"this listener is not at that host; {hint}", status=421)
        answer = self._routes.get(request.path)
        if answer is None:
            return text_answer(f"nothing here; there is {' '.join(self._routes)}", status=404)
        try:
            return answer(request)
        except BadRequestError as error:
            return text_answer(str(error), status=400)
        except Exception:
            log.exception("debug request failed", path=request.path)
            return text_answer("this failed; the log says why", status=500)

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

    def ready(_request: Request) -> Answer:
        reasons = views.unready()
        return text_answer("\n".join(reasons) or "ready", status=503 if reasons else 200)

    return {"/healthz": lambda _request: text_answer("alive"), "/readyz": ready}


def debug_routes(views: Views, config: Json) -> Routes:
    """For who wants to know more.

    Args:
        views: What there is to see.
        config: The effective configuration, without secrets.
    """

    def metrics(request: Request) -> Answer:
        body, media_type = text_of(views.registry, request.accepted)
        return Answer(body=body, media_type=media_type)

    def streams(request: Request) -> Answer:
        after = request.query.get("after", "")
        return _json(page_of(views.streams, limit=_limit(request), after=after))

    return {
        **probe_routes(views),
        "/metrics": metrics,
        "/debug/metrics": lambda _request: _json(series_of(views.registry)),
        "/debug/status": lambda _request: _json(status_of(views)),
        "/debug/streams": streams,
        "/debug/tasks": lambda _request: _json(tasks_of_loop()),
        "/debug/config": lambda _request: _json(config),
    }


def _limit(request: Request) -> int:
    text = request.query.get("limit", str(PAGE))
    limit = int(text) if re.fullmatch(r"[0-9]{1,4}", text) else 0
    if not 1 <= limit <= LARGEST_PAGE:
        raise BadRequestError(f"limit: must be a number from 1 to {LARGEST_PAGE}")
    return limit


def _json(value: Json) -> Answer:
    text = json.dumps(value, indent=1, default=str)
    return Answer(body=f"{text}\n".encode(), media_type="application/json")
