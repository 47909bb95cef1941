"""A certificate authority: makes itself, and leaves that peers accept.

The rules are those of the controller's CA: ECDSA P-256, path length 0, ten years; a leaf
is for servers and clients, holds its identity as the one URI SAN and ``localhost`` as a
DNS SAN. Only controllers hold CONTROLLER_NAME, which clients require of the server they
call: no other leaf can pose as one. Time is an argument.

Source: control-plane.md, "Enrollment"; protocol.md section 10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Identity, Role

CA_NAME: Final = "outrelay-ca"
CA_LIFETIME: Final = timedelta(days=3650)
BACKDATED: Final = timedelta(minutes=5)
"""How far back a certificate's life begins, for clocks that run late."""

LOCAL_NAME: Final = "localhost"
"""The server name plain peers dial relays and agents with."""
CONTROLLER_NAME: Final = "controller.outrelay.internal"
"""The DNS SAN of controllers, and of nobody else."""

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA certificate and the key that signs with it."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def trust(self) -> Trust:
        """What peers are given to verify the leaves of this CA."""
        return Trust(certificates=(self.certificate,))

    def issue(
        self,
        identity: Identity,
        public_key: PublicKey,
        *,
        now: datetime,
        lifetime: timedelta,
        server_names: Iterable[str] = (),
    ) -> x509.Certificate:
        """A leaf certificate.

        Args:
            identity: Whose it is.
            public_key: The holder's.
            now: An aware time.
            lifetime: How long it lasts from now; it never outlasts the CA.
            server_names: DNS names to hold besides those that go with the role.

        Raises:
            IdentityError: A server name is no plain lower-case DNS name, or is the
                controllers' and the identity is not one.
        """
        names = dict.fromkeys((*_role_names(identity.role), *server_names))
        for name in names:
            _check_server_name(name, identity)
        last = self.certificate.not_valid_after_utc
        return (
            _builder(identity.name, public_key, now, min(now + lifetime, last))
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage("digital_signature", "key_encipherment"), critical=True)
            .add_extension(_SERVER_AND_CLIENT, critical=False)
            .add_extension(_alternative_names(identity, names), critical=False)
            .add_extension(_key_identifier(self.private_key.public_key()), critical=False)
            .sign(self.private_key, hashes.SHA256())
        )

    def credentials(
        self,
        identity: Identity,
        *,
        now: datetime,
        lifetime: timedelta,
        server_names: Iterable[str] = (),
    ) -> Credentials:
        """A new key and a leaf for it; arguments and errors as for ``issue``."""
        key = new_key()
        certificate = self.issue(
            identity, key.public_key(), now=now, lifetime=lifetime, server_names=server_names
        )
        return Credentials(identity=identity, certificate=certificate, private_key=key)


def create_authority(*, now: datetime, lifetime: timedelta = CA_LIFETIME) -> Authority:
    """A new CA with a new key."""
    key = new_key()
    certificate = (
        _builder(CA_NAME, key.public_key(), now, now + lifetime)
        .issuer_name(_name(CA_NAME))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate, private_key=key)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key, from the system's random source."""
    return ec.generate_private_key(ec.SECP256R1())


def key_usage(*usages: str) -> x509.KeyUsage:
    """The key usage extension with exactly these usages, named as ``x509.KeyUsage`` does."""
    return x509.KeyUsage(**{usage: usage in usages for usage in _KEY_USAGES})


_SERVER_AND_CLIENT: Final = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)

_DNS_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")

_KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _builder(
    common_name: str, public_key: PublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    """What CA and leaf certificates have in common."""
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_identifier(issuer: PublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)


def _check_server_name(name: str, identity: Identity) -> None:
    if not _DNS_NAME.fullmatch(name):  # a wildcard could stand for the controllers' name
        raise IdentityError(repr(name), "is not a plain lower-case DNS name")
    if name == CONTROLLER_NAME and identity.role is not Role.CONTROLLER:
        raise IdentityError(identity.uri, f"may not hold the server name {name}")


def _role_names(role: Role) -> tuple[str, ...]:
    return (LOCAL_NAME, CONTROLLER_NAME) if role is Role.CONTROLLER else (LOCAL_NAME,)


def _alternative_names(identity: Identity, names: Iterable[str]) -> x509.SubjectAlternativeName:
    uri = x509.UniformResourceIdentifier(identity.uri)
    return x509.SubjectAlternativeName([uri, *map(x509.DNSName, names)])
