"""The one verifier of peers: every carrier asks it before a connection exists.

OpenSSL builds the chain and checks signatures, dates, path lengths and CA flags, as it
does for the standard library's TLS; what makes a certificate OutRelay's (usage, identity,
role, server name) is checked here. Time is an argument.

Source: protocol.md section 1, "Peer verification".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from enum import Enum

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.certs import (
    Trust,
    alternative_names,
    date_fault,
    extension,
    identity_of,
)
from outrelay.lib.identity.uri import Identity, Role

_PEER = "peer certificate"
_DATE_ERRORS = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


class Usage(Enum):
    """What the peer does with its certificate in this connection."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def verify_peer(
    chain: Sequence[x509.Certificate],
    trust: Trust,
    *,
    usage: Usage,
    roles: Collection[Role],
    server_name: str = "",
    now: datetime,
) -> Identity:
    """Who the peer is, once its certificate has proved to be one we accept.

    That the peer holds the private key is the handshake's part, not this one's.

    Args:
        chain: What the peer sent, its leaf first.
        trust: The CAs the chain may lead to.
        usage: SERVER when we dialled the peer, CLIENT when it dialled us.
        roles: Roles the peer may have.
        server_name: DNS name the leaf must hold, no wildcards; empty: any.
        now: An aware time.

    Raises:
        IdentityError: The first rule the certificate breaks.
    """
    if not chain:
        raise IdentityError(_PEER, "is missing", "the peer must present one")
    leaf = chain[0]
    for issuer in _verified_chain(chain, trust, now)[1:]:
        _check_issuer(issuer, usage)
    _check_usage(leaf, usage)
    identity = identity_of(leaf, subject=_PEER)
    if identity.role not in roles:
        expected = " or ".join(sorted(roles))
        raise IdentityError(_PEER, f"is of {identity}, expected the role {expected}")
    if server_name:
        _check_server_name(leaf, server_name)
    return identity


def _verified_chain(
    chain: Sequence[x509.Certificate], trust: Trust, now: datetime
) -> list[x509.Certificate]:
    """The path from the leaf to the CA that vouches for it."""
    failures = []
    # One CA at a time: two of one name (a roll-over) must not hide each other from
    # certificates that do not say which of the two keys signed them.
    for authority in trust.certificates:
        try:
            return _path(chain, authority, now)
        except crypto.X509StoreContextError as error:
            failures.append(error)
        except crypto.Error as error:
            raise IdentityError(_PEER, "cannot be read") from error
    failure = min(failures, key=lambda error: error.errors[0] not in _DATE_ERRORS)
    raise IdentityError(_PEER, _chain_fault(failure, now)) from failure


def _path(
    chain: Sequence[x509.Certificate], authority: x509.Certificate, now: datetime
) -> list[x509.Certificate]:
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(authority))
    # What the operator lists is trusted, also when it is not a root itself.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(now.astimezone(UTC))
    leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in chain)
    context = crypto.X509StoreContext(store, leaf, others)
    return [found.to_cryptography() for found in context.get_verified_chain()]


def _chain_fault(error: crypto.X509StoreContextError, now: datetime) -> str:
    code, depth, message = error.errors
    if code not in _DATE_ERRORS:
        return f"does not lead to a CA we trust ({message})"
    fault = date_fault(error.certificate.to_cryptography(), now)
    return f"has an issuer that {fault}" if depth else fault


def _check_issuer(certificate: x509.Certificate, usage: Usage) -> None:
    """An issuer that is limited to some usages issues for no other."""
    usages = extension(certificate, x509.ExtendedKeyUsage, _PEER)
    if usages is not None and usage.value not in usages:
        raise IdentityError(_PEER, f"has an issuer that is not for {_purpose(usage)}")


def _check_usage(leaf: x509.Certificate, usage: Usage) -> None:
    usages = extension(leaf, x509.ExtendedKeyUsage, _PEER)
    if usages is None or usage.value not in usages:
        raise IdentityError(_PEER, f"is not for {_purpose(usage)} (extended key usage)")
    key_usage = extension(leaf, x509.KeyUsage, _PEER)
    if key_usage is not None and not key_usage.digital_signature:
        raise IdentityError(_PEER, "is not for signatures (key usage)")


def _check_server_name(leaf: x509.Certificate, server_name: str) -> None:
    names = alternative_names(leaf, subject=_PEER).get_values_for_type(x509.DNSName)
    if server_name.lower() not in (name.lower() for name in names):
        held = ", ".join(names) or "none"
        raise IdentityError(_PEER, f"is not for the server name {server_name} (DNS SANs: {held})")


def _purpose(usage: Usage) -> str:
    return "servers" if usage is Usage.SERVER else "clients"
