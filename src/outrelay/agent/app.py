"""The agent put together: listeners, the uplink, consumer and provider, and how it stops.

It stops in this order: no new connections of applications, no services at the relay, what
runs finishes within ``--drain``, the rest is cut off, the connection is closed.

Source: architecture.md; commands.md, outrelay-agent.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import TaskGroup
from collections.abc import Iterable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial

from outrelay.agent.carriers import open_carriers
from outrelay.agent.consumer import Consumer
from outrelay.agent.intercept.explicit import ExplicitListener
from outrelay.agent.options import AgentOptions
from outrelay.agent.provider import Provider
from outrelay.agent.resume.finished import Finished
from outrelay.agent.resume.lasting import Lasting
from outrelay.agent.resume.rings import Rings
from outrelay.agent.session.proof import Proof
from outrelay.agent.session.uplink import Uplink
from outrelay.agent.streams import Streams
from outrelay.agent.views import views_of
from outrelay.agent.watch import AbortWatch
from outrelay.lib.checks import faults_of, try_bind
from outrelay.lib.errors import ConfigError, IdentityError
from outrelay.lib.identity.certs import Credentials, load_credentials, load_trust
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.identity.verify import Usage
from outrelay.lib.insight import insight_faults, opened
from outrelay.lib.observe import logs
from outrelay.lib.observe.metrics import AgentMetrics, new_registry
from outrelay.lib.renewal import Renewal
from outrelay.lib.tasks import beside, spawn
from outrelay.lib.transport.quic.engines import chosen
from outrelay.lib.transport.tcp.proxy import find_proxies
from outrelay.lib.transport.ways import Ways

log = logs.get_logger(__name__)


async def run(options: AgentOptions, stop: asyncio.Event) -> None:
    """Be an agent until ``stop`` is set and everything has wound down.

    Raises:
        ConfigError: A file or an address cannot be used.
        Refused: No relay will ever have this agent.
    """
    credentials, trust = load_identity(options), load_trust(options.ca)
    async with open_carriers(options, credentials, trust) as carriers:
        log.info("packet engine chosen", engine=carriers.quic.engine)
        proof = Proof(credentials.expires)

        async def show(renewed: Credentials) -> None:
            carriers.show(renewed)
            proof.renew(renewed.expires)

        renewal = Renewal(
            credentials,
            partial(load_identity, options),
            cert=options.cert,
            key=options.key,
            ca=options.ca,
            usage=Usage.CLIENT,
            show=show,
        )
        async with beside(renewal.run(), name="agent: look at the certificate"):
            engine = carriers.quic.engine
            await serve(options, credentials.identity, proof, carriers.ways, stop, engine=engine)


def check(options: AgentOptions) -> Iterable[str]:
    """What keeps these options from working, one line each."""
    return faults_of(
        partial(load_identity, options),
        partial(load_trust, options.ca),
        partial(chosen, options.quic_engine),
        partial(find_proxies, options.http_proxy, os.environ),
        *(partial(try_bind, str(each), each.bind, udp=False) for each in options.consume),
    ) + insight_faults(options.insight)


def load_identity(options: AgentOptions) -> Credentials:
    """The agent's credentials.

    Raises:
        IdentityError: They are not what an agent needs.
        ConfigError: They are not the identity that ``--uri`` asks for.
    """
    credentials = load_credentials(options.cert, options.key)
    identity, where = credentials.identity, f"--cert {options.cert}"
    if identity.role is not Role.AGENT:
        raise IdentityError(
            where, f"is the certificate of {identity}, not an agent's", "give the agent's own"
        )
    if options.uri and options.uri != identity.uri:
        raise ConfigError(
            f"--uri {options.uri}", f"is not the identity in {options.cert}: {identity}"
        )
    if fault := credentials.date_fault(datetime.now(UTC)):
        raise IdentityError(where, fault, "give a certificate that is valid now")
    return credentials


async def serve(
    options: AgentOptions,
    identity: Identity,
    proof: Proof,
    ways: Ways,
    stop: asyncio.Event,
    *,
    engine: str = "",
) -> None:
    """Be the agent ``identity``, on whatever carriers ``ways`` are.

    Args:
        options: Everything the command line says.
        identity: Ours.
        proof: Our certificate, and whether it was renewed.
        ways: Connect to relays.
        stop: Set when it is time to wind down.
        engine: What builds the packets of QUIC, for who looks; empty: ``ways`` speak none.
    """
    if not (options.expose or options.consume):
        log.warning(
            "nothing to do", hint="offer a service with --expose, or use one with --consume"
        )
    registry = new_registry()
    metrics = AgentMetrics.on(registry)
    if engine:
        metrics.uplink.engine.labels(engine).set(1)
    with ExitStack() as resources:
        listeners = [
            resources.enter_context(closing(ExplicitListener(each))) for each in options.consume
        ]
        watch = resources.enter_context(closing(AbortWatch()))
        async with TaskGroup() as group:
            streams = Streams(group, options.max_streams)
            finished = Finished(streams)
            uplink = Uplink(
                options,
                identity=identity,
                proof=proof,
                ways=ways,
                take=lambda *stream: provider.take(*stream),  # noqa: PLW0108 - it is made below
                called=finished.called,
                is_busy=lambda: bool(streams),
                metrics=metrics.uplink,
            )
            lasting = Lasting(
                identity=identity,
                uplink=uplink,
                rings=Rings(options.ring_max, options.ring_total),
                limit=options.limits.resume,
                finished=finished,
                metrics=metrics.streams,
            )
            limits = options.limits
            provider = Provider(options.expose, streams, watch, lasting, limits, metrics.streams)
            consumer = Consumer(identity, uplink, streams, watch, lasting, limits, metrics.streams)
            accepting = [
                spawn(
                    group, each.run(consumer.take), name=f"agent: listen for {each.consume.service}"
                )
                for each in listeners
            ]
            connecting = spawn(group, uplink.run(), name="agent: uplink")
            views = views_of(
                options=options,
                identity=identity,
                engine=engine,
                expires=lambda: proof.expires,
                registry=registry,
                uplink=uplink,
                streams=streams,
                listeners=listeners,
            )
            async with opened(options.insight, views):
                await stop.wait()
                for task in accepting:
                    task.cancel()
                await _wind_down(uplink, lasting, streams, options.drain)
            connecting.cancel()


async def _wind_down(uplink: Uplink, lasting: Lasting, streams: Streams, drain: float) -> None:
    """Offer nothing any more, and let what runs finish for ``drain`` seconds at most."""
    await uplink.deregister()
    lasting.leave()
    await streams.drain(drain)
