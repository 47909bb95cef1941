"""What an agent is told to do: its options as values, and how people write them.

Words: an agent *exposes* a service when it passes the service's streams on to a target, and
*consumes* one when it listens at an address and opens a stream for every connection there. A
*method* is what a stream wants of the service: a word that policy decides by.

Source: commands.md, outrelay-agent; protocol.md section 4 (names).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from outrelay.lib.errors import ConfigError
from outrelay.lib.insight import UNSEEN, Insight
from outrelay.lib.policy import REGISTER
from outrelay.lib.transport.tcp.proxy import Proxy
from outrelay.lib.transport.ways import Carrier, Endpoint
from outrelay.lib.values import Address, address_text, parse_address

_SERVICE = re.compile(r"[!-.0-~]{1,255}")  # printable ASCII without space and slash

LONGEST_METHOD = 255

RING_LEAST = 64 * 1024
"""Bytes without which no stream gets anywhere."""

DEAD_LEAST = 2.0
"""Seconds; less takes a relay that is merely busy for a dead one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose:
    """A service this agent provides.

    Args:
        service: Its name.
        target: The backend that serves it.
    """

    service: str
    target: Address


class Names(TypedDict):
    """What a stream leads to, as log lines tell it: a method only where there is one."""

    service: str
    method: NotRequired[str]


class StreamNames(Names):
    """The same of a stream: also its id, where it has one."""

    stream_id: NotRequired[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consume:
    """A service this agent's applications use.

    Args:
        service: Its name.
        method: What they want of it; empty: nothing in particular.
        bind: Where applications connect to; port 0 lets the system choose.
    """

    service: str
    method: str = ""
    bind: Address

    @property
    def names(self) -> Names:
        """What they get, as fields of a log line."""
        if self.method:
            return Names(service=self.service, method=self.method)
        return Names(service=self.service)

    def __str__(self) -> str:
        slash = "/" if self.method else ""
        return f"--consume {self.service}{slash}{self.method}@{address_text(self.bind)}"

    def named(self, stream_id: str) -> StreamNames:
        """What a stream leads to, as fields of a log line; ``stream_id`` may be empty."""
        names: StreamNames = {"service": self.service}
        if self.method:
            names["method"] = self.method
        if stream_id:
            names["stream_id"] = stream_id
        return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the agent waits, in seconds. Source: protocol.md sections 1, 4 and 5.

    Args:
        hello: For HELLO_ACK.
        register: For the answer to REGISTER.
        open: For the carrier to give a stream, and for the first frame of an incoming one.
        ready: A consumer, for STREAM_READY.
        provider_ready: A provider, for STREAM_READY after its STREAM_ACCEPT.
        backend: For the backend to take the connection.
        session: An application's connection, while no relay is connected.
        resume: For a stream to go on, after its connection was lost.
        dead: For a sign of life of the relay, while streams live.
    """

    hello: float = 5.0
    register: float = 5.0
    open: float = 10.0
    ready: float = 10.0
    provider_ready: float = 5.0
    backend: float = 5.0
    session: float = 5.0
    resume: float = 120.0
    dead: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Everything the command line says.

    Args:
        relays: Where relays are reached over QUIC, all equally good.
        relays_tcp: Where they are reached over TCP, when QUIC does not get through.
        http_proxy: Leads to what is dialled over TCP; None: what the environment says.
        state_dir: Where it keeps what is worth knowing in the next run; None: nowhere.
        cert: Certificate file.
        key: Private key file.
        ca: File of the CA certificates peers are verified by.
        uri: The identity the certificate must hold; empty: whatever it holds.
        expose: Services to provide.
        consume: Services to listen for.
        server_name: DNS name a relay's certificate must hold; empty: any.
        drain: Seconds running streams have to finish when the agent is told to stop.
        max_streams: Streams at a time, both roles together.
        ring_max: Bytes one stream may hold until its peer has acknowledged them.
        ring_total: The same for all streams together.
        limits: How long it waits for what.
        insight: Where it can be looked into.
        opens: Whether the doctor opens the services to consume.
    """

    relays: tuple[Address, ...] = ()
    relays_tcp: tuple[Address, ...] = ()
    http_proxy: Proxy | None = None
    state_dir: Path | None = None
    cert: Path
    key: Path
    ca: Path
    uri: str = ""
    expose: tuple[Expose, ...] = ()
    consume: tuple[Consume, ...] = ()
    server_name: str = "localhost"
    drain: float = 10.0
    max_streams: int = 10_000
    ring_max: int = 16 << 20
    ring_total: int = 256 << 20
    limits: Limits = Limits()
    insight: Insight = UNSEEN
    opens: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: There is no relay, a service is exposed twice, or there is no time or
                memory for what streams need.
        """
        if not self.endpoints:
            raise ConfigError("--relay", "names no relay", "write it like relay.example:7443")
        for name, value in (("--ring-max", self.ring_max), ("--ring-total", self.ring_total)):
            if value < RING_LEAST:
                raise ConfigError(name, f"is less than {RING_LEAST >> 10}KiB")
        if self.limits.dead < DEAD_LEAST:
            reason = f"is less than {DEAD_LEAST:g}s; the relay is asked once a second"
            raise ConfigError("--dead-after", reason)
        for name in _repeated(each.service for each in self.expose):
            raise ConfigError(
                "--expose", f"{name} is exposed twice", "an agent has one target for a service"
            )

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The relays, by the carriers that reach them."""
        return (
            *(Endpoint(Carrier.QUIC, each) for each in self.relays),
            *(Endpoint(Carrier.TCP, each) for each in self.relays_tcp),
        )


def parse_expose(text: str) -> Expose:
    """The value of ``NAME=HOST:PORT``.

    Raises:
        ValueError: It is none; the message says how to write it.
    """
    service, equals, target = text.rpartition("=")
    if not equals:
        raise ValueError(f"{text!r} names no target; write it like db=127.0.0.1:5432")
    return Expose(service=parse_service(service), target=parse_address(target))


def parse_consume(text: str) -> Consume:
    """The value of ``SERVICE@HOST:PORT`` or ``SERVICE/METHOD@HOST:PORT``.

    The first slash ends the service's name, the last @ the method: a method may hold either.

    Raises:
        ValueError: It is none; the message says how to write it.
    """
    target, at, bind = text.rpartition("@")
    if not at:
        raise ValueError(f"{text!r} has no address to listen on; write it like db@127.0.0.1:5432")
    service, slash, method = target.partition("/")
    return Consume(
        service=parse_service(service),
        method=parse_method(method) if slash else "",
        bind=parse_address(bind),
    )


def parse_service(text: str) -> str:
    """A service's name.

    Raises:
        ValueError: It is none; the message says what is.
    """
    if not _SERVICE.fullmatch(text):
        raise ValueError(
            f"{text!r} cannot name a service; use 1 to 255 printable ASCII characters"
            " without slash and space"
        )
    return text


def parse_method(text: str) -> str:
    """A method's name.

    Raises:
        ValueError: It is none; the message says what is.
    """
    if not 0 < len(text) <= LONGEST_METHOD or not text.isprintable():
        raise ValueError(
            f"{text!r} cannot be a method; use 1 to {LONGEST_METHOD} printable characters, as in"
            " db/read@127.0.0.1:5432, or leave the slash out"
        )
    if text == REGISTER:
        raise ValueError(f"{REGISTER} is exposing a service, not a method to call it by")
    return text


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
