"""What a relay is told to do: its options as values.

Source: commands.md, outrelay-relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from outrelay.lib.control.channel import UNIX
from outrelay.lib.errors import ConfigError
from outrelay.lib.identity.uri import is_label
from outrelay.lib.insight import UNSEEN, Insight
from outrelay.lib.values import Address, parse_address

SMALLEST_SPOOL = 64 * 1024


class Overflow(StrEnum):
    """What happens where a tenant has no room for audit events."""

    DENY = "deny"
    """It opens no streams."""
    DROP = "drop"
    """Its events are counted and dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """Everything the command line says.

    Args:
        listen: Where agents dial in (UDP).
        advertise: Where others reach that; None: at ``listen``.
        listen_tcp: Where they dial in over TCP; None: nowhere.
        advertise_tcp: Where others reach that; None: at ``listen_tcp``.
        controllers: Targets of the controllers, tried in turn.
        controller_plaintext: Call them without TLS.
        cert: Certificate file.
        key: Private key file.
        ca: File of the CA certificates peers are verified by.
        region: Where this relay is.
        relay_id: What the registry knows it by; empty: the name in its certificate.
        tenant: Whose rules and services it follows; empty: everybody's.
        max_streams_per_agent: Streams one agent may have open as a consumer.
        max_streams_per_tenant: The same for all agents of a tenant together.
        opens_per_second: Streams one agent may open in the long run.
        opens_per_second_per_tenant: The same for all agents of a tenant together.
        max_services_per_agent: Services one agent may offer.
        max_services_per_tenant: The same for all agents of a tenant together.
        resume_window: Seconds a stream that has lost a connection waits for its other half.
        drain: Seconds running streams have to finish when the relay is told to stop.
        audit_spool: Folder for audit events that wait for the controller; None: in memory.
        audit_spool_size: Bytes of that folder for all tenants together.
        audit_overflow: What happens where a tenant has no room for them.
        allow_all: Ask no policy; for development.
        insight: Where it can be looked into.
    """

    listen: Address
    advertise: Address | None = None
    listen_tcp: Address | None = None
    advertise_tcp: Address | None = None
    controllers: tuple[str, ...]
    controller_plaintext: bool = False
    cert: Path
    key: Path
    ca: Path
    region: str = "local"
    relay_id: str = ""
    tenant: str = ""
    max_streams_per_agent: int = 10_000
    max_streams_per_tenant: int = 100_000
    opens_per_second: int = 1000
    opens_per_second_per_tenant: int = 10_000
    max_services_per_agent: int = 1000
    max_services_per_tenant: int = 10_000
    resume_window: float = 30.0
    drain: float = 10.0
    audit_spool: Path | None = None
    audit_spool_size: int = 256 * 2**20
    audit_overflow: Overflow = Overflow.DENY
    allow_all: bool = False
    insight: Insight = UNSEEN

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: A controller is no target, there is none, the tenant is no name, or
                the spool is too small for anything.
        """
        if not self.controllers:
            raise ConfigError("--controller", "names no controller")
        for target in self.controllers:
            _check_target(target)
        if self.tenant and not is_label(self.tenant):
            raise ConfigError("--tenant", f"{self.tenant!r} is not the name of a tenant")
        if self.audit_spool_size < SMALLEST_SPOOL:
            raise ConfigError("--audit-spool-size", "is less than 64KiB")


def _check_target(target: str) -> None:
    if target.startswith(UNIX):
        return
    try:
        parse_address(target)
    except ValueError as error:
        raise ConfigError("--controller", str(error), "or unix:PATH") from error
