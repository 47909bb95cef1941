"""Both carriers of an agent: what dials relays, and what it shows them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from outrelay.agent.options import AgentOptions
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.tcp.dialer import TcpDialer, through_proxies
from outrelay.lib.transport.tcp.proxy import find_proxies
from outrelay.lib.transport.ways import Carrier, Ways

ANYWHERE = ("::", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carriers:
    """Both, and the ways they make."""

    quic: QuicEndpoint
    tcp: TcpDialer
    ways: Ways

    def show(self, credentials: Credentials) -> None:
        """Show ``credentials`` from the next handshake on.

        Raises:
            IdentityError: They cannot be used.
        """
        self.tcp.show(credentials)  # which may raise
        self.quic.show(credentials)


@asynccontextmanager
async def open_carriers(
    options: AgentOptions, credentials: Credentials, trust: Trust
) -> AsyncIterator[Carriers]:
    """Both carriers, ready to dial."""
    proxies = find_proxies(options.http_proxy, os.environ)
    quic = await QuicEndpoint.bind(
        ANYWHERE,
        credentials=credentials,
        trust=trust,
        accept_roles=frozenset(),
        engine=options.quic_engine,
    )
    tcp = TcpDialer(credentials=credentials, trust=trust)
    ways = Ways({Carrier.QUIC: quic, Carrier.TCP: tcp}, detour=through_proxies(tcp, proxies))
    try:
        yield Carriers(quic=quic, tcp=tcp, ways=ways)
    finally:
        await tcp.close()
        await quic.close()
