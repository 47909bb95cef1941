"""The command line of ``outrelay-relay``.

Source: commands.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from outrelay.lib.insight import Insight
from outrelay.lib.insight_flags import insight_flags
from outrelay.lib.options import (
    ADDRESS,
    COUNT,
    DURATION,
    FOLDER,
    OPTIONAL_ADDRESS,
    SIZE,
    Address,
    Decorated,
    command,
    credential_flags,
    flag,
    quic_engine_flag,
    together,
)
from outrelay.lib.transport.quic.engines import EngineChoice, runs_on
from outrelay.relay import app
from outrelay.relay.options import Overflow, RelayOptions

EXAMPLES = """
outrelay-relay --cert relay.pem --key relay.key --ca ca.pem
outrelay-relay --listen 0.0.0.0:7443 --advertise relay.example.net:7443 \\
    --listen-tcp 0.0.0.0:443 --advertise-tcp relay.example.net:443 \\
    --controller controller.example.net:7444 --cert relay.pem --key relay.key --ca ca.pem
"""


LISTENING = together(
    flag("--listen", type=ADDRESS, default="127.0.0.1:7443", help="Where agents dial in (UDP)."),
    flag(
        "--advertise",
        type=OPTIONAL_ADDRESS,
        default="",
        show_default="--listen",
        help="Where others reach this relay.",
    ),
    flag(
        "--listen-tcp",
        type=OPTIONAL_ADDRESS,
        default="",
        show_default="nowhere",
        help="Where agents dial in over TCP (TLS), from networks that block UDP; usually port 443.",
    ),
    flag(
        "--advertise-tcp",
        type=OPTIONAL_ADDRESS,
        default="",
        show_default="--listen-tcp",
        help="Where others reach that.",
    ),
)

CONTROLLER = together(
    flag(
        "--controller",
        multiple=True,
        default=["127.0.0.1:7444"],
        help="Controllers, tried in turn. Repeatable, or a comma list.",
    ),
    flag("--controller-plaintext", is_flag=True, help="Call the controller without TLS."),
)

NAMES = together(
    flag("--region", default="local", help="Where this relay is."),
    flag("--relay-id", default="", show_default="from the certificate", help="Its name."),
    flag("--tenant", default="", show_default="all", help="Serve one tenant only."),
)

OF_ALL_AGENTS = "The same for all agents of a tenant together."


def most(name: str, default: int, text: str = OF_ALL_AGENTS) -> Callable[[Decorated], Decorated]:
    """A flag that is a bound: at least 1."""
    return flag(name, type=COUNT, default=default, help=text)


BOUNDS = together(
    most("--max-streams-per-agent", 10_000, "Streams one agent may have open as a consumer."),
    most("--max-streams-per-tenant", 100_000),
    most(
        "--opens-per-second",
        1000,
        "Streams one agent may open in the long run; twice as many at once.",
    ),
    most("--opens-per-second-per-tenant", 10_000),
    most("--max-services-per-agent", 1000, "Services one agent may offer."),
    most("--max-services-per-tenant", 10_000),
)

OUTAGES = together(
    flag(
        "--resume-window",
        type=DURATION,
        default="30s",
        help="How long a stream that lost a connection waits for its other agent.",
    ),
    flag(
        "--drain",
        type=DURATION,
        default="10s",
        help="How long running streams may go on when the relay is told to stop.",
    ),
)

AUDIT = together(
    flag(
        "--audit-spool",
        type=FOLDER,
        show_default="in memory",
        help="Where audit events wait for the controller.",
    ),
    flag(
        "--audit-spool-size",
        type=SIZE,
        default="256MiB",
        help="Most of them, of all tenants; one alone may fill half of it.",
    ),
    flag(
        "--audit-overflow",
        type=click.Choice([each.value for each in Overflow]),
        default="deny",
        help="When a tenant's part is full: deny it new streams, or drop its events.",
    ),
)


@command(
    "relay",
    run=app.run,
    check=app.check,
    examples=EXAMPLES,
    runs_on=partial(runs_on, "OUTRELAY_RELAY_QUIC_ENGINE"),
)
@LISTENING
@quic_engine_flag
@CONTROLLER
@credential_flags(required=True)
@NAMES
@BOUNDS
@OUTAGES
@AUDIT
@insight_flags(("127.0.0.1", 9100))
@flag("--allow-all", is_flag=True, help="Ask no policy. For development only.")
def main(
    *,
    listen: Address,
    advertise: Address | None,
    listen_tcp: Address | None,
    advertise_tcp: Address | None,
    quic_engine: str,
    controller: tuple[str, ...],
    controller_plaintext: bool,
    cert: Path,
    key: Path,
    ca: Path,
    region: str,
    relay_id: str,
    tenant: str,
    max_streams_per_agent: int,
    max_streams_per_tenant: int,
    opens_per_second: int,
    opens_per_second_per_tenant: int,
    max_services_per_agent: int,
    max_services_per_tenant: int,
    resume_window: float,
    drain: float,
    audit_spool: Path | None,
    audit_spool_size: int,
    audit_overflow: str,
    allow_all: bool,
    insight: Insight,
) -> RelayOptions:
    """Join agents that only dial out: take their connections and splice their streams.

    A relay keeps policy and directory in memory, decides every stream from them, and
    reports every decision to the controller. It goes on while the controller is away.
    """
    return RelayOptions(
        listen=listen,
        advertise=advertise,
        listen_tcp=listen_tcp,
        advertise_tcp=advertise_tcp,
        quic_engine=EngineChoice(quic_engine),
        controllers=controller,
        controller_plaintext=controller_plaintext,
        cert=cert,
        key=key,
        ca=ca,
        region=region,
        relay_id=relay_id,
        tenant=tenant,
        max_streams_per_agent=max_streams_per_agent,
        max_streams_per_tenant=max_streams_per_tenant,
        opens_per_second=opens_per_second,
        opens_per_second_per_tenant=opens_per_second_per_tenant,
        max_services_per_agent=max_services_per_agent,
        max_services_per_tenant=max_services_per_tenant,
        resume_window=resume_window,
        drain=drain,
        audit_spool=audit_spool,
        audit_spool_size=audit_spool_size,
        audit_overflow=Overflow(audit_overflow),
        allow_all=allow_all,
        insight=insight,
    )
