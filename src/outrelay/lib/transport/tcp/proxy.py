"""HTTP proxies: which one leads to an endpoint, and how it is asked for a connection.

Words: a *tunnel* is what a proxy gives to CONNECT: from then on it passes bytes on.

The proxy of ``--http-proxy`` or, without it, of the variables everybody knows: https_proxy,
then all_proxy, each in lower case before upper case, as curl has them. ``no_proxy`` names what
is dialled without: hosts, with all their subdomains; addresses; networks like 10.0.0.0/8; each
with a port or without; ``*`` for everything. Nobody means this host by those variables.

Source: RFC 9110 section 9.3.6; RFC 9112 section 3.2.3; RFC 7617.
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from outrelay.lib.errors import ConfigError
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.tcp.tls import HandshakeFailed
from outrelay.lib.values import Address, address_text

HEAD_MOST = 64 * 1024
"""Bytes of a proxy's answer."""

_FIX = "write it like http://proxy.example:3128 or http://user:password@proxy.example:3128"
_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_THIS_HOST = ("localhost", "127.0.0.0/8", "::1")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([ -~]{0,100}))?[^\n]*")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Where a proxy is.

    Args:
        address: A name or a numeric host, and a port.
        authorization: The value of Proxy-Authorization; empty: none.
    """

    address: Address
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return address_text(self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Which endpoints are reached through a proxy.

    Args:
        proxy: The one there is, or None.
        exceptions: The entries of ``no_proxy``.
    """

    proxy: Proxy | None = None
    exceptions: tuple[str, ...] = ()

    def towards(self, endpoint: Address) -> Proxy | None:
        """The proxy that leads to ``endpoint``; None: it is dialled without."""
        if self.proxy is None or any(_covers(each, endpoint) for each in self.exceptions):
            return None
        return self.proxy


def find_proxies(given: Proxy | None, environment: Mapping[str, str]) -> Proxies:
    """The proxy that was given, or the one the environment names.

    Raises:
        ConfigError: A variable holds no URL of a proxy.
    """
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    exceptions = tuple(listed.replace(",", " ").split())
    if given is not None:
        return Proxies(proxy=given, exceptions=exceptions)
    for variable in _VARIABLES:
        if value := environment.get(variable):
            try:
                return Proxies(proxy=parse_proxy(value), exceptions=(*exceptions, *_THIS_HOST))
            except ValueError as error:
                raise ConfigError(variable, str(error)) from error
    return Proxies()


def parse_proxy(text: str) -> Proxy:
    """The proxy of a URL; the scheme may be left out, the port is 80 then.

    Raises:
        ValueError: It is none, or one of a kind we do not speak to; the message says how to
            write it.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if not host:
        raise ValueError(f"this is no proxy's URL; {_FIX}")
    if parts.scheme != "http":
        raise ValueError(f"a proxy is spoken to in http, not in {parts.scheme}; {_FIX}")
    authorization = ""
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        authorization = f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    return Proxy(address=(host, port), authorization=authorization)


class Connect:
    """Asks a proxy for a tunnel: one stage of an opening.

    Args:
        proxy: Whom it asks.
        target: Where the tunnel is to lead.
    """

    def __init__(self, proxy: Proxy, target: Address) -> None:
        self._proxy = proxy
        self._target = address_text(target)
        self._request = self._ask()
        self._answer = b""
        self._received = 0

    def receive(self, data: bytes) -> None:
        """Take what the proxy says."""
        self._answer += data
        self._received += len(data)

    def take(self) -> bytes:
        """The request, once."""
        request, self._request = self._request, b""
        return request

    def advance(self) -> bool:
        """Whether the proxy has agreed.

        Raises:
            HandshakeFailed: It has not, or it is no proxy.
        """
        while (end := _HEAD_END.search(self._answer)) is not None:
            status = self._status()
            code = int(status[1])
            if code // 100 == 2:
                if len(self._answer) > end.end():
                    raise _failed("it speaks before we do")
                return True
            if code // 100 != 1:
                raise _failed(self._fault(code, (status[2] or b"").decode()))
            self._answer = self._answer[end.end() :]  # the real answer follows
        if b"\n" in self._answer:
            self._status()
        if self._received > HEAD_MOST:
            raise _failed("its answer is too long")
        return False

    def _status(self) -> re.Match[bytes]:
        status = _STATUS.match(self._answer)
        if status is None:
            raise _failed("it does not answer like an HTTP proxy")
        return status

    def _ask(self) -> bytes:
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._proxy.authorization:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()

    def _fault(self, code: int, phrase: str) -> str:
        answer = f"{code} {phrase}".strip()
        if code == 407 and self._proxy.authorization:
            return f"it does not take the user and password of its URL ({answer})"
        if code == 407:
            return f"it wants a user and a password in its URL ({answer})"
        if code == 403:
            return f"it does not allow connections to {self._target} ({answer})"
        return f"it gives no connection to {self._target} ({answer})"


def _failed(reason: str) -> HandshakeFailed:
    return HandshakeFailed(Cause.PROXY, f"the proxy: {reason}", told=True)


def _covers(entry: str, endpoint: Address) -> bool:
    """Whether an entry of ``no_proxy`` is about ``endpoint``."""
    host, port = endpoint[0].lower().rstrip("."), endpoint[1]
    name, _, wanted = entry.lower().rpartition(":") if _has_port(entry) else (entry.lower(), "", "")
    if wanted and int(wanted) != port:
        return False
    name = name.strip("[]")
    if name == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))


def _has_port(entry: str) -> bool:
    """Whether an entry ends with a port; the colons of an IPv6 address are none."""
    return bool(re.fullmatch(r"(?:[^:]+|\[[^\]]+\]):\d+", entry))
