"""The command ``outrelay-agent``.

Source: commands.md, outrelay-agent.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from outrelay.agent import app
from outrelay.agent.doctor import app as doctor
from outrelay.agent.options import (
    AgentOptions,
    Consume,
    Expose,
    Limits,
    parse_consume,
    parse_expose,
    parse_service,
)
from outrelay.agent.status.command import status
from outrelay.lib.errors import ConfigError
from outrelay.lib.insight import Insight
from outrelay.lib.insight_flags import insight_flags
from outrelay.lib.options import (
    ADDRESS,
    COUNT,
    DURATION,
    FOLDER,
    SIZE,
    Address,
    ParsedType,
    address_text,
    command,
    credential_flags,
    flag,
    quic_engine_flag,
)
from outrelay.lib.transport.quic.engines import EngineChoice, runs_on
from outrelay.lib.transport.tcp.proxy import Proxy, parse_proxy

SERVICE = ParsedType("name", parse_service)
EXPOSE = ParsedType("name=host:port", parse_expose)
CONSUME = ParsedType("service[/method]@host:port", parse_consume)

PROXY = ParsedType("url", parse_proxy)

RELAY = ("127.0.0.1", 7443)

EXAMPLES = """
# beside a database: offer it as "db"
outrelay-agent --relay relay.example:7443 --cert agent.pem --key agent.key --ca ca.pem \\
  --expose db=127.0.0.1:5432
# beside an application: what connects to 127.0.0.1:15432 reaches "db"
outrelay-agent --relay relay.example:7443 --cert agent.pem --key agent.key --ca ca.pem \\
  --consume db@127.0.0.1:15432
# the same by two methods, of which policy may allow each to somebody else
outrelay-agent --relay relay.example:7443 --cert agent.pem --key agent.key --ca ca.pem \\
  --consume db/read@127.0.0.1:15432 --consume db/write@127.0.0.1:15433
# where UDP may be blocked
outrelay-agent --relay relay.example:7443 --relay-tcp relay.example:443 --state-dir state \\
  --cert agent.pem --key agent.key --ca ca.pem --consume db@127.0.0.1:15432
# what the agent on this host is connected with
outrelay-agent status
# why an agent with these flags does not get through from here, and what to do about it
outrelay-agent doctor --relay relay.example:7443 --cert agent.pem --key agent.key --ca ca.pem
# and whether policy and the provider let it use "db"
outrelay-agent doctor --open --relay relay.example:7443 --cert agent.pem --key agent.key \\
  --ca ca.pem --consume db@127.0.0.1:15432
"""


@command(
    "agent",
    run=app.run,
    check=app.check,
    examples=EXAMPLES,
    actions={"doctor": doctor.run},
    runs_on=partial(runs_on, "OUTRELAY_AGENT_QUIC_ENGINE"),
    others={"status": status},
)
@flag(
    "--relay",
    type=ADDRESS,
    multiple=True,
    show_default=f"{address_text(RELAY)}, without --relay-tcp",
    help="Relays (UDP); the first to answer is used. Repeatable, or a comma list.",
)
@flag(
    "--relay-tcp",
    type=ADDRESS,
    multiple=True,
    help="The same over TCP, for networks that block UDP: used when no relay answers over UDP"
    " within a second, and left again when one does. Repeatable, or a comma list.",
)
@flag(
    "--http-proxy",
    type=PROXY,
    show_default="https_proxy or all_proxy of the environment",
    help="HTTP proxy that leads to --relay-tcp, as http://user:password@proxy.example:3128;"
    " hosts and networks in no_proxy of the environment are reached without.",
)
@quic_engine_flag
@credential_flags(required=True)
@flag("--uri", default="", help="Identity the certificate must hold; empty: whichever it holds.")
@flag(
    "--expose",
    type=EXPOSE,
    multiple=True,
    help="Service to offer and its backend, as NAME=HOST:PORT. Repeatable.",
)
@flag("--expose-service", type=SERVICE, help="Service to offer; with --expose-target.")
@flag("--expose-target", type=ADDRESS, help="Backend of --expose-service.")
@flag(
    "--consume",
    type=CONSUME,
    multiple=True,
    help="Service to use and where applications connect to it, as SERVICE@HOST:PORT;"
    " SERVICE/METHOD@HOST:PORT calls it by a method that policy rules can name. Repeatable.",
)
@flag(
    "--intercept",
    type=click.Choice(["explicit"]),
    default="explicit",
    expose_value=False,
    help="How connections of applications reach the agent: at the addresses of --consume.",
)
@flag(
    "--server-name",
    default="localhost",
    help="DNS name a relay's certificate must hold; empty: any.",
)
@flag(
    "--state-dir",
    type=FOLDER,
    help="Directory that keeps which relay was reached how in which network, for a faster start.",
)
@flag(
    "--drain",
    type=DURATION,
    default="10s",
    help="Time running streams have to finish after SIGTERM or SIGINT.",
)
@flag(
    "--max-streams",
    type=COUNT,
    default=10_000,
    help="Streams at a time, opened and served together.",
)
@flag(
    "--resume-deadline",
    type=DURATION,
    default="120s",
    help="Time a stream may be without a connection before its application is told.",
)
@flag(
    "--dead-after",
    type=DURATION,
    default="3s",
    help="Silence of the relay, while streams are open, after which it counts as gone.",
)
@flag(
    "--ring-max",
    type=SIZE,
    default="16MiB",
    help="Bytes a stream may have on their way to the far application; held until they arrive.",
)
@flag(
    "--ring-total",
    type=SIZE,
    default="256MiB",
    help="The same for all streams together; a quarter is for those that have little on their way.",
)
@flag(
    "--open",
    is_flag=True,
    help="Have doctor open a stream to each --consume, too, and close it at once: whether policy"
    " and provider allow it. The backend sees a connection.",
)
@insight_flags(("127.0.0.1", 9102))
def main(
    *,
    relay: tuple[Address, ...],
    relay_tcp: tuple[Address, ...],
    http_proxy: Proxy | None,
    quic_engine: str,
    cert: Path,
    key: Path,
    ca: Path,
    uri: str,
    expose: tuple[Expose, ...],
    expose_service: str | None,
    expose_target: Address | None,
    consume: tuple[Consume, ...],
    server_name: str,
    state_dir: Path | None,
    drain: float,
    max_streams: int,
    resume_deadline: float,
    dead_after: float,
    ring_max: int,
    ring_total: int,
    open: bool,  # noqa: A002 - as the flag is called
    insight: Insight,
) -> AgentOptions:
    """Connect the services of this host to a relay, and its applications to services elsewhere.

    The agent only dials out. It offers services of this host (--expose) and lets applications
    here use services of other agents (--consume). With `doctor` before the same flags it tells
    why that does not work, and what to do. `status` tells what the agent on this host does.
    """
    return AgentOptions(
        relays=relay or (() if relay_tcp else (RELAY,)),
        relays_tcp=relay_tcp,
        http_proxy=http_proxy,
        quic_engine=EngineChoice(quic_engine),
        cert=cert,
        key=key,
        ca=ca,
        uri=uri,
        expose=(*expose, *_exposed(expose_service, expose_target)),
        consume=consume,
        server_name=server_name,
        state_dir=state_dir,
        drain=drain,
        max_streams=max_streams,
        ring_max=ring_max,
        ring_total=ring_total,
        opens=open,
        insight=insight,
        limits=Limits(resume=resume_deadline, dead=dead_after),
    )


def _exposed(service: str | None, target: Address | None) -> list[Expose]:
    """The service of ``--expose-service`` and ``--expose-target``, which come together."""
    if service is None and target is None:
        return []
    if service is None or target is None:
        raise ConfigError(
            "--expose-service and --expose-target",
            "one is missing",
            "give both, or --expose NAME=HOST:PORT",
        )
    return [Expose(service=service, target=target)]
