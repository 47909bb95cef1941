"""The command line of ``outrelay-controller``.

Source: commands.md.
"""

from __future__ import annotations

from pathlib import Path

from outrelay.controller import app
from outrelay.controller.options import ControllerOptions, check
from outrelay.lib.insight import Insight
from outrelay.lib.insight_flags import insight_flags
from outrelay.lib.options import (
    DURATION,
    FILE,
    OPTIONAL_ADDRESS,
    Address,
    command,
    credential_flags,
    flag,
)

EXAMPLES = """
outrelay-controller --cert controller.pem --key controller.key --ca ca.pem
outrelay-controller --listen 0.0.0.0:7444 --db /var/lib/outrelay/controller.db \\
    --cert controller.pem --key controller.key --ca ca.pem \\
    --admin-socket /run/outrelay/admin.sock
outrelay-cli --controller unix:/run/outrelay/admin.sock policy list --tenant acme
"""


@command("controller", run=app.run, check=check, examples=EXAMPLES)
@flag(
    "--listen",
    type=OPTIONAL_ADDRESS,
    default="127.0.0.1:7444",
    help="Where relays and operators call (gRPC, mutual TLS); empty turns it off.",
)
@flag(
    "--db",
    default="outrelay-controller.db",
    help="SQLite file, made when absent; :memory: forgets everything at the end.",
)
@credential_flags(required=False)
@flag(
    "--listen-plaintext",
    type=OPTIONAL_ADDRESS,
    default="",
    help="Also serve without TLS here: callers are relay and operator of all tenants.",
)
@flag(
    "--trust-plaintext-network",
    is_flag=True,
    help="Allow --listen-plaintext on other addresses than loopback.",
)
@flag(
    "--admin-socket",
    type=FILE,
    help="Also serve on this unix socket (mode 0600): callers are operators of all tenants.",
)
@flag("--audit-retention", type=DURATION, default="90d", help="How long audit events are kept.")
@insight_flags(("127.0.0.1", 9101))
def main(
    *,
    listen: Address | None,
    db: str,
    cert: Path | None,
    key: Path | None,
    ca: Path | None,
    listen_plaintext: Address | None,
    trust_plaintext_network: bool,
    admin_socket: Path | None,
    audit_retention: float,
    insight: Insight,
) -> ControllerOptions:
    """Keep identity, registry, policy and audit of an OutRelay system.

    Relays tell it which services their agents offer and learn from it who may call what;
    operators change policy and read the audit trail through outrelay-cli.
    """
    return ControllerOptions(
        listen=listen,
        db=db,
        cert=cert,
        key=key,
        ca=ca,
        listen_plaintext=listen_plaintext,
        trust_plaintext_network=trust_plaintext_network,
        admin_socket=admin_socket,
        audit_retention=audit_retention,
        insight=insight,
    )
