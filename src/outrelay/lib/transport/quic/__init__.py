"""The QUIC carrier: ``QuicEndpoint`` dials and listens on one UDP socket."""

from outrelay.lib.transport.quic.endpoint import QuicEndpoint

__all__ = ["QuicEndpoint"]
