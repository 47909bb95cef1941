"""Certificates, keys and trust bundles: what a file holds, or why it cannot be used.

Words: *credentials* are our own certificate, its intermediates and its private key; the
*trust* is the set of CA certificates a peer's chain may lead to (more than one while CAs
roll over).

Invariants: an error names the file and the fault; nothing is read from a subject (plain
issuers put names there that X.509 does not allow); loading does not judge dates, because
an expired certificate is still good for its renewal: ask ``Credentials.date_fault``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from outrelay.lib import advice
from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.uri import SCHEME, Identity

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
"""The kinds of key that TLS 1.3 peers of ours can sign with."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who we are, and what proves it.

    Args:
        identity: The one in ``certificate``.
        certificate: Our leaf certificate.
        chain: The intermediates between it and the CA, leaf's issuer first; mostly empty.
        private_key: The key of ``certificate``; never printed.
    """

    identity: Identity
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()
    private_key: PrivateKey = field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        """The leaf, then its intermediates."""
        return _pem((self.certificate, *self.chain))

    @property
    def private_key_pem(self) -> bytes:
        """The key as unencrypted PKCS #8."""
        return private_key_pem(self.private_key)

    @property
    def expires(self) -> float:
        """When the leaf ends, seconds since the epoch."""
        return self.certificate.not_valid_after_utc.timestamp()

    def date_fault(self, now: datetime) -> str:
        """Why no peer accepts the leaf at ``now``; empty when its dates are fine."""
        return date_fault(self.certificate, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The CAs whose certificates we believe; never empty."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def pem(self) -> bytes:
        """The CA certificates, in the order of the file."""
        return _pem(self.certificates)


def load_credentials(cert_path: str | Path, key_path: str | Path) -> Credentials:
    """Our certificate (with intermediates after it) and its private key.

    Raises:
        IdentityError: A file cannot be read or is not what it should be, the certificate
            holds no identity, or the key is another one's.
    """
    certificate, *chain = _load_certificates(cert_path)
    private_key = _load_private_key(key_path)
    if _public_bytes(certificate, cert_path) != private_key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        raise IdentityError(
            str(key_path), f"is not the key of {cert_path}", "give the two files of one identity"
        )
    return Credentials(
        identity=identity_of(certificate, subject=str(cert_path)),
        certificate=certificate,
        chain=tuple(chain),
        private_key=private_key,
    )


def load_trust(ca_path: str | Path) -> Trust:
    """The CA certificates of a file.

    Raises:
        IdentityError: It cannot be read, holds no certificate, or one that is not a CA's.
    """
    certificates = _load_certificates(ca_path)
    for certificate in certificates:
        if not _is_ca(certificate, str(ca_path)):
            raise IdentityError(
                str(ca_path),
                "holds a certificate that is not a CA's",
                "list only CA certificates in it",
            )
    return Trust(certificates=tuple(certificates))


def identity_of(certificate: x509.Certificate, *, subject: str = "certificate") -> Identity:
    """The identity a certificate holds, whoever signed it.

    Args:
        certificate: A leaf.
        subject: What to call it in an error.

    Raises:
        IdentityError: It holds not exactly one outrelay:// URI SAN, or an invalid one.

    Source: protocol.md sections 1 and 10.
    """
    names = alternative_names(certificate, subject=subject)
    uris = [
        uri
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier)
        if uri.lower().startswith(SCHEME)
    ]
    if not uris:
        raise IdentityError(subject, f"holds no {SCHEME} URI SAN")
    if len(uris) > 1:
        raise IdentityError(subject, f"holds {len(uris)} {SCHEME} URI SANs instead of one")
    try:
        return Identity.parse(uris[0])
    except IdentityError as error:
        raise IdentityError(subject, f"its URI SAN {error.subject} {error.fault}") from error


def alternative_names(
    certificate: x509.Certificate, *, subject: str = "certificate"
) -> x509.SubjectAlternativeName:
    """The subject alternative names of a certificate; empty when it has none.

    Raises:
        IdentityError: Its extensions cannot be decoded.
    """
    return extension(certificate, x509.SubjectAlternativeName, subject) or (
        x509.SubjectAlternativeName([])
    )


def extension(
    certificate: x509.Certificate, kind: type[_Extension], subject: str = "certificate"
) -> _Extension | None:
    """One extension of a certificate, or None where it is absent.

    Raises:
        IdentityError: The certificate's extensions cannot be decoded.
    """
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise IdentityError(subject, f"has extensions that cannot be read: {error}") from error


def date_fault(certificate: x509.Certificate, now: datetime) -> str:
    """Why a certificate's dates exclude ``now``; empty when they do not.

    The moment it ends at is excluded, so that nobody whose connection was closed at that moment
    comes back within the second.

    Args:
        certificate: Any certificate.
        now: An aware time.
    """
    if now >= certificate.not_valid_after_utc:
        return f"expired at {_moment(certificate.not_valid_after_utc)}"
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {_moment(certificate.not_valid_before_utc)}"
    return ""


def private_key_pem(key: PrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
        raise IdentityError(str(path), fault, advice.on_file(error)) from error


def _load_certificates(path: str | Path) -> list[x509.Certificate]:
    data = _read(path)
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise IdentityError(
            str(path), "holds no PEM certificate", "give a file with -----BEGIN CERTIFICATE-----"
        ) from error


def _load_private_key(path: str | Path) -> PrivateKey:
    data = _read(path)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise IdentityError(str(path), "is encrypted", "store it without a pass phrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(
            str(path), "holds no PEM private key", "give a file with -----BEGIN PRIVATE KEY-----"
        ) from error
    if not isinstance(key, PrivateKey):
        raise IdentityError(
            str(path), "is of a kind we do not use", "make it EC P-256, EC P-384 or Ed25519"
        )
    return key


def _public_bytes(certificate: x509.Certificate, path: str | Path) -> bytes:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(str(path), f"holds a key that cannot be read: {error}") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_ca(certificate: x509.Certificate, subject: str) -> bool:
    constraints = extension(certificate, x509.BasicConstraints, subject)
    usage = extension(certificate, x509.KeyUsage, subject)
    return bool(constraints and constraints.ca) and (usage is None or usage.key_cert_sign)
