"""Where agents come in: a listener for each carrier, and what others are told of it."""

from __future__ import annotations

import asyncio
import socket
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from outrelay.lib import advice
from outrelay.lib.checks import faults_of, try_bind
from outrelay.lib.errors import ConfigError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.carrier import Address, Listener
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.quic.engines import chosen
from outrelay.lib.transport.refusal import OnRefused
from outrelay.lib.transport.tcp.listener import TcpListener
from outrelay.lib.transport.ways import Carrier
from outrelay.lib.values import address_text
from outrelay.relay.options import RelayOptions

log = get_logger(__name__)


class Doors:
    """The listeners of a relay.

    Args:
        quic: Listens over QUIC.
        tcp: Listens over TCP; None: nobody does.
        advertise: Where others reach ``quic``; None: at its own address.
        advertise_tcp: Where others reach ``tcp``, likewise.
        engine: The packet engine of ``quic``, for who looks.
    """

    def __init__(
        self,
        quic: Listener,
        tcp: Listener | None = None,
        *,
        advertise: Address | None = None,
        advertise_tcp: Address | None = None,
        engine: str = "",
    ) -> None:
        self.listeners = {Carrier.QUIC: quic} | ({Carrier.TCP: tcp} if tcp else {})
        self.engine = engine
        """What builds the packets of QUIC; empty: it is not known."""
        self.endpoint = address_text(advertise or quic.address)
        """Where others reach this relay over QUIC."""
        self.tcp_endpoint = address_text(advertise_tcp or tcp.address) if tcp else ""
        """The same over TCP; empty: nowhere."""

    def show(self, credentials: Credentials) -> None:
        """Show ``credentials`` to whoever comes in from now on.

        Raises:
            IdentityError: They cannot be used.
        """
        for listener in reversed(self.listeners.values()):  # that of tcp may raise
            listener.show(credentials)

    def announce(self) -> None:
        """Log where agents may come in."""
        for carrier, listener in self.listeners.items():
            log.info("listening", address=address_text(listener.address), carrier=carrier)
        if self.engine:
            log.info("packet engine chosen", engine=self.engine)

    async def close(self) -> None:
        """Close all of them, and what they accepted."""
        async with TaskGroup() as group:
            for carrier, listener in self.listeners.items():
                spawn(group, listener.close(), name=f"relay: close {carrier}")


@asynccontextmanager
async def open_doors(
    options: RelayOptions, credentials: Credentials, trust: Trust, on_refused: OnRefused
) -> AsyncIterator[Doors]:
    """The doors that ``options`` ask for.

    Args:
        options: Where to listen.
        credentials: What we show.
        trust: Whom the peers' certificates must come from.
        on_refused: Told of everybody turned away.

    Raises:
        ConfigError: An address cannot be listened on.
    """
    quic = await QuicEndpoint.bind(
        await _numeric("--listen", options.listen),
        credentials=credentials,
        trust=trust,
        on_refused=on_refused,
        engine=options.quic_engine,
    )
    try:
        tcp = None
        if options.listen_tcp is not None:
            tcp = await TcpListener.bind(
                await _numeric("--listen-tcp", options.listen_tcp),
                credentials=credentials,
                trust=trust,
                on_refused=on_refused,
            )
    except BaseException:
        await quic.close()
        raise
    doors = Doors(
        quic,
        tcp,
        advertise=options.advertise,
        advertise_tcp=options.advertise_tcp,
        engine=quic.engine,
    )
    try:
        yield doors
    finally:
        await doors.close()


def door_faults(options: RelayOptions) -> list[str]:
    """What keeps the doors from being opened, one line each."""
    steps: list[Callable[[], object]] = [
        lambda: chosen(options.quic_engine),
        lambda: try_bind("--listen", options.listen, udp=True),
    ]
    if (tcp := options.listen_tcp) is not None:
        steps.append(lambda: try_bind("--listen-tcp", tcp, udp=False))
    return faults_of(*steps)


async def _numeric(flag: str, address: Address) -> Address:
    """``address`` with its host as a number."""
    host, port = address
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        fault = f"{host!r} has no address: {error.strerror}"
        raise ConfigError(flag, fault, advice.on_address(error)) from error
    return str(found[0][4][0]), port
