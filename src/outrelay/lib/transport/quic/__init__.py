"""The QUIC carrier: ``QuicEndpoint`` dials and listens on one UDP socket."""

from outrelay.lib.transport.quic.endpoint import QuicEndpoint
from outrelay.lib.transport.quic.engine import NO_HANDSHAKE, Cause, Refusal

__all__ = ["NO_HANDSHAKE", "Cause", "QuicEndpoint", "Refusal"]
