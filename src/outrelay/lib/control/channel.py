"""Channels to a controller, and its errors as a person can use them.

A target is ``host:port`` or ``unix:PATH``. Without credentials and trust the channel is
plaintext, for ``--plaintext`` and unix sockets. Over TLS the controller's certificate must
lead to our trust and hold the DNS name ``controller.outrelay.internal``: a relay's or an
agent's certificate, though of the same CA, does not make a controller.

    async with open_channel(target, credentials=credentials, trust=trust) as channel:
        with control_errors(target, credentials=credentials, trust=trust):
            await PolicyStub(channel).ListPolicies(request, timeout=10)

Invariant: every failure of a call inside ``control_errors`` is a ControlError whose text
is one line that says what to do.

Source: control-plane.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import grpc.aio

from outrelay.lib.errors import ConfigError, ControlError, IdentityError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.values import parse_address

CONTROLLER_NAME = "controller.outrelay.internal"
"""The DNS SAN that controllers alone get."""

UNIX = "unix:"

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes of the largest message we take: all rules of a tenant come in one."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # Plain controllers drop who asks more often than every five minutes.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel does not inherit another's backoff
    ("grpc.enable_http_proxy", 0),
)


def open_channel(
    target: str, *, credentials: Credentials | None = None, trust: Trust | None = None
) -> grpc.aio.Channel:
    """A channel that connects at its first call and again whenever it must.

    Args:
        target: ``host:port`` or ``unix:PATH``.
        credentials: Who we are; None on a plaintext channel.
        trust: The CAs the controller's certificate may lead to; None on a plaintext channel.

    Raises:
        ConfigError: ``target`` is neither form.
    """
    _check_target(target)
    if target.startswith(UNIX) or (credentials is None and trust is None):
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    assert credentials is not None, "a controller is not called over TLS without a certificate"
    assert trust is not None, "nor is one believed without a CA"
    return grpc.aio.secure_channel(
        target,
        grpc.ssl_channel_credentials(
            root_certificates=trust.pem,
            private_key=credentials.private_key_pem,
            certificate_chain=credentials.certificate_pem,
        ),
        options=(*_OPTIONS, ("grpc.ssl_target_name_override", CONTROLLER_NAME)),
    )


@contextmanager
def control_errors(
    target: str, *, credentials: Credentials | None = None, trust: Trust | None = None
) -> Iterator[None]:
    """Turn what a call to ``target`` raises into a ControlError.

    Args:
        target: As of ``open_channel``.
        credentials: As of ``open_channel``; they tell why a handshake failed.
        trust: As of ``open_channel``.

    Raises:
        ControlError: The call failed.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        status, reason = _fault(error, target, credentials, trust)
        raise ControlError(status, reason, controller=target) from error


def _check_target(target: str) -> None:
    if target == UNIX:
        raise ConfigError("controller", f"{UNIX!r} names no socket", "write unix:PATH")
    if target.startswith(UNIX):
        return
    try:
        parse_address(target)
    except ValueError as error:
        raise ConfigError("controller", str(error), "or unix:PATH for an admin socket") from error


def _fault(
    error: grpc.aio.AioRpcError,
    target: str,
    credentials: Credentials | None,
    trust: Trust | None,
) -> tuple[str, str]:
    """Name of the status and what to tell people.

    gRPC calls a handshake that failed UNAVAILABLE; it is UNAUTHENTICATED: trying again
    does not help.
    """
    code, details = error.code(), " ".join((error.details() or "").split())
    if code is grpc.StatusCode.UNAVAILABLE:
        if target.startswith(UNIX):
            return code.name, _socket_fault(details)
        if credentials is not None and trust is not None:
            fault = _handshake_fault(details, credentials, trust)
        else:
            fault = _plaintext_fault(details)
        if fault:
            return grpc.StatusCode.UNAUTHENTICATED.name, fault
        return code.name, _connection_fault(details)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return code.name, "did not answer in time"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return code.name, "does not know this call; it may be an older version or another program"
    return code.name, details or code.name


def _socket_fault(details: str) -> str:
    for number in (2, 13):  # ENOENT, EACCES
        if os.strerror(number) in details:
            return f"the socket cannot be opened ({os.strerror(number).lower()})"
    return _connection_fault(details)


def _handshake_fault(details: str, credentials: Credentials, trust: Trust) -> str:
    """What is wrong with the certificates; empty when the failure is not theirs."""
    _, failed, why = details.partition("CERTIFICATE_VERIFY_FAILED: ")
    if failed:
        why = why.removesuffix(": OK")
        return f"its certificate does not lead to a CA we trust ({why}); check the CA given"
    if "Hostname Verification" in details:
        return f"is no controller: its certificate is not for {CONTROLLER_NAME}"
    if "WRONG_VERSION_NUMBER" in details:
        return "does not speak TLS at this address; use its TLS address, or plaintext"
    if not _closed_at_once(details):
        return ""
    fault = _own_fault(credentials, trust)
    return f"refused our certificate, which {fault or 'may come from a CA it does not trust'}"


def _own_fault(credentials: Credentials, trust: Trust) -> str:
    """Why anybody with our trust would refuse our own certificate."""
    try:
        verify_peer(
            (credentials.certificate, *credentials.chain),
            trust,
            usage=Usage.CLIENT,
            roles=tuple(Role),
            now=datetime.now(UTC),
        )
    except IdentityError as error:
        return error.fault
    return ""


def _plaintext_fault(details: str) -> str:
    if _closed_at_once(details):
        return "does not take plaintext at this address; give a certificate, key and CA"
    return ""


def _closed_at_once(details: str) -> bool:
    """True when a connection was made and went before the first call was answered."""
    ended = ("Socket closed", "Connection reset", "Broken pipe", "handshake failed")
    return details.startswith("failed to connect") and any(text in details for text in ended)


def _connection_fault(details: str) -> str:
    if "Connection refused" in details:
        return "nobody listens there (connection refused); is it running?"
    if "lookup" in details or "resolv" in details:
        return "its name cannot be resolved"
    if details.startswith("failed to connect"):
        return f"cannot be reached ({details.rpartition('last error: ')[2]})"
    return f"is not available ({details})"
