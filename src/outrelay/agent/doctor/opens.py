"""Whether policy and providers let this agent use a service: by opening it.

An agent may not ask the controller what it would decide, so the doctor does what an
application would have done, and closes the stream at once. The backend sees a connection
that comes and goes: that is why it is done only with ``--open``.

Source: protocol.md section 5.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from prometheus_client import CollectorRegistry

from outrelay.agent import hints
from outrelay.agent.consumer import open_stream
from outrelay.agent.doctor.findings import Finding, Mark
from outrelay.agent.options import AgentOptions, Consume
from outrelay.agent.session.dialling import Dialling
from outrelay.agent.session.greeting import hello_of
from outrelay.agent.session.proof import Proof
from outrelay.agent.session.session import Session
from outrelay.lib.errors import Closed, ErrorCode, Refused, Reset, StreamRejected
from outrelay.lib.identity.uri import SCHEME, Identity
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Stream
from outrelay.lib.transport.ways import Ways

NOTHING = "give --consume with the services that should be opened"


class _Visitor:
    """The owner of a session that serves nobody."""

    def take(self, _session: Session, stream: Stream) -> None:
        """See ``session.Owner``."""
        stream.reset(ErrorCode.CANCELLED)
        stream.stop(ErrorCode.CANCELLED)

    async def register(self, _session: Session) -> None:
        """See ``session.Owner``."""
        await asyncio.Event().wait()

    def called(self, _session: Session, _stream_id: int) -> None:
        """See ``session.Owner``."""

    def over(self, _session: Session) -> None:
        """See ``session.Owner``."""


async def check(
    options: AgentOptions, identity: Identity, proof: Proof, ways: Ways
) -> list[Finding]:
    """Open every service of ``--consume`` once.

    Nothing is found where no relay answers: why, the doctor has told before.
    """
    if not options.consume:
        return [Finding(subject="open", mark=Mark.WARN, text="nothing to open", advice=NOTHING)]
    dialling = Dialling(replace(options, state_dir=None), ways, proof)
    try:
        link = await dialling.any_relay()
        hello = hello_of(identity)
        session = await Session.start(link.connection, hello, options.limits, _Visitor())
    except Refused:
        return []
    async with beside(session.run(), name="doctor: session"):
        metrics = StreamMetrics(CollectorRegistry())
        opening = (_open(session, each, identity, options, metrics) for each in options.consume)
        return list(await asyncio.gather(*opening))


async def _open(
    session: Session,
    consume: Consume,
    identity: Identity,
    options: AgentOptions,
    metrics: StreamMetrics,
) -> Finding:
    subject = f"open {'/'.join(filter(None, (consume.service, consume.method)))}"
    loop = asyncio.get_running_loop()
    asked = loop.time()
    stream_id = secrets.randbits(64) or 1
    try:
        with session.stream(stream_id) as carried:
            stream = await open_stream(
                session, carried, stream_id, consume, limits=options.limits, metrics=metrics
            )
            stream.abandon(ErrorCode.CANCELLED)
    except StreamRejected as rejected:
        advice = hints.for_open(rejected.code, caller=identity, consume=consume)
        return Finding(subject=subject, mark=Mark.FAIL, text=str(rejected), advice=advice)
    except (Closed, Reset) as lost:
        advice = "try again, and look at the relay's log"
        return Finding(subject=subject, mark=Mark.FAIL, text=f"broke off: {lost}", advice=advice)
    provider = stream.peer.removeprefix(SCHEME) or "a provider"
    text = f"{provider} takes the stream after {(loop.time() - asked) * 1000:.0f} ms"
    return Finding(subject=subject, mark=Mark.OK, text=text)
