"""What a controller shows of itself to who looks into it.

Source: commands.md, Ports; ``outrelay.lib.observe.views``.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from outrelay.controller.certificate import Certificate
from outrelay.controller.fleet.attachments import Attachments
from outrelay.lib.observe.views import Json, Views


class Shown:
    """How far a controller has got.

    Args:
        attachments: The relays on the line.
    """

    targets: Mapping[str, str] | None
    """Where it can be called, by listener; None: nowhere yet, its store is not open."""

    def __init__(self, attachments: Attachments) -> None:
        self._attachments = attachments
        self._is_stopping = False
        self.targets = None

    def stopping(self) -> None:
        """From now on nobody should be sent to it."""
        self._is_stopping = True

    def unready(self) -> list[str]:
        """See ``Views``."""
        if self._is_stopping:
            return ["this controller is stopping"]
        return ["the database is not open yet"] if self.targets is None else []

    def status(self) -> Json:
        """See ``Views``."""
        relays = sorted(self._attachments, key=lambda each: each.relay_id)
        return {
            "listeners": dict(self.targets or {}),
            "attached": len(relays),
            "relays": [
                {"relay_id": each.relay_id, "since_unix_ms": each.since_ms} for each in relays
            ],
        }


def views_of(shown: Shown, certificate: Certificate | None, registry: CollectorRegistry) -> Views:
    """The views of a controller.

    Args:
        shown: How far it has got.
        certificate: Who it is; None: nobody, it serves no TLS.
        registry: Its numbers.
    """
    return Views(
        component="controller",
        registry=registry,
        identity=certificate.identity.uri if certificate else "",
        expires=lambda: certificate.expires if certificate else None,
        unready=shown.unready,
        status=shown.status,
    )
