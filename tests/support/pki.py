"""Certificates for tests: a CA, what it issues, and what no peer may accept.

pki = TestPki()
relay = pki.relay()
agent = pki.agent(tenant="acme")
liar = pki.hostile(Hostile.EXPIRED, role=Role.AGENT, usage=Usage.CLIENT)
files = save(agent, tmp_path / "agent-a")
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID, ObjectIdentifier

from outrelay.lib.identity.certs import Credentials, PrivateKey, Trust
from outrelay.lib.identity.issue import BACKDATED, create_authority, new_key
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.identity.verify import Usage

DAY = timedelta(days=1)


class Hostile(StrEnum):
    """Certificates that a peer must refuse during the handshake."""

    WRONG_CA = "wrong CA"
    SELF_SIGNED = "self-signed"
    SIGNED_BY_LEAF = "signed by a leaf"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    NO_URI = "no URI SAN"
    TWO_URIS = "two URI SANs"
    DNS_ONLY = "DNS only"
    WRONG_ROLE = "wrong role"
    WRONG_USAGE = "wrong EKU"
    NO_USAGE = "no EKU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where credentials were saved."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """What signs a leaf: any certificate and its key, also of one that is no CA."""

    certificate: x509.Certificate
    private_key: PrivateKey


class TestPki:
    """One CA and everything it issues.

    Args:
        now: When everything is issued; the present by default.
    """

    __test__ = False

    def __init__(self, *, now: datetime | None = None) -> None:
        self.now = now or datetime.now(UTC)
        self.authority = create_authority(now=self.now)

    @property
    def trust(self) -> Trust:
        """The CA, for those who verify what it issued."""
        return self.authority.trust

    def agent(
        self, tenant: str = "acme", name: str | None = None, *, lifetime: timedelta = DAY
    ) -> Credentials:
        """An agent's credentials; a new uuid unless ``name`` is one."""
        return self.issue(agent_identity(tenant, name), lifetime=lifetime)

    def relay(
        self, region: str = "local", name: str = "r1", *, lifetime: timedelta = DAY
    ) -> Credentials:
        """A relay's credentials."""
        return self.issue(Identity(realm=region, role=Role.RELAY, name=name), lifetime=lifetime)

    def controller(
        self, region: str = "local", name: str = "c1", *, lifetime: timedelta = DAY
    ) -> Credentials:
        """A controller's credentials."""
        identity = Identity(realm=region, role=Role.CONTROLLER, name=name)
        return self.issue(identity, lifetime=lifetime)

    def operator(
        self, tenant: str = "acme", name: str = "admin", *, lifetime: timedelta = DAY
    ) -> Credentials:
        """An operator's credentials."""
        identity = Identity(realm=tenant, role=Role.OPERATOR, name=name)
        return self.issue(identity, lifetime=lifetime)

    def issue(self, identity: Identity, *, lifetime: timedelta = DAY) -> Credentials:
        """The credentials the CA gives to ``identity``."""
        return self.authority.credentials(identity, now=self.now, lifetime=lifetime)

    def of_role(self, role: Role) -> Credentials:
        """Credentials of somebody of that role."""
        return self.issue(identity_of_role(role))

    def forge(
        self,
        identity: Identity,
        *,
        issuer: Issuer | None = None,
        uris: Sequence[str] | None = None,
        dns_names: Sequence[str] = ("localhost",),
        usages: Sequence[Usage] = tuple(Usage),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        common_name: str | None = None,
        private_key: PrivateKey | None = None,
        ca: bool = False,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Credentials:
        """Credentials with whatever is wrong with them; what is not given is right.

        Args:
            identity: Whom the credentials claim to be of.
            issuer: Who signs; the CA by default.
            uris: The URI SANs; the identity's by default.
            dns_names: The DNS SANs; with no URI either there is no SAN extension.
            usages: The extended key usages; with none the extension is absent.
            not_before: Start of its life; shortly ago by default.
            not_after: End of its life; in a day by default.
            common_name: The subject's; of any length.
            private_key: The holder's key; a new P-256 key by default.
            ca: Whether the certificate calls itself a CA's.
            extensions: More of them.
        """
        issuer = issuer or Issuer(
            certificate=self.authority.certificate, private_key=self.authority.private_key
        )
        private_key = private_key or new_key()
        names: list[x509.GeneralName] = [
            *map(x509.UniformResourceIdentifier, [identity.uri] if uris is None else uris),
            *map(x509.DNSName, dns_names),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject(common_name or identity.name))
            .issuer_name(issuer.certificate.subject)
            .public_key(private_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or self.now - BACKDATED)
            .not_valid_after(not_after or self.now + DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usages:
            oids: list[ObjectIdentifier] = [usage.value for usage in usages]
            builder = builder.add_extension(x509.ExtendedKeyUsage(oids), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        certificate = sign(builder, issuer.private_key)
        return Credentials(identity=identity, certificate=certificate, private_key=private_key)

    def hostile(
        self, kind: Hostile, *, role: Role = Role.AGENT, usage: Usage = Usage.CLIENT
    ) -> Credentials:
        """Credentials that a peer must refuse who expects ``role`` and ``usage``."""
        identity = identity_of_role(role)
        match kind:
            case Hostile.WRONG_CA:
                return TestPki(now=self.now).issue(identity)
            case Hostile.SELF_SIGNED:
                return self._self_signed(identity)
            case Hostile.SIGNED_BY_LEAF:
                leaf = self.agent()
                issuer = Issuer(certificate=leaf.certificate, private_key=leaf.private_key)
                forged = self.forge(identity, issuer=issuer)
                return replace(forged, chain=(leaf.certificate,))
            case Hostile.EXPIRED:
                return self.forge(identity, not_before=self.now - 2 * DAY, not_after=self.now - DAY)
            case Hostile.NOT_YET_VALID:
                return self.forge(identity, not_before=self.now + DAY, not_after=self.now + 2 * DAY)
            case Hostile.NO_URI:
                return self.forge(identity, uris=(), dns_names=())
            case Hostile.TWO_URIS:
                return self.forge(identity, uris=(identity.uri, identity_of_role(role).uri))
            case Hostile.DNS_ONLY:
                return self.forge(identity, uris=())
            case Hostile.WRONG_ROLE:
                return self.of_role(Role.OPERATOR if role is Role.AGENT else Role.AGENT)
            case Hostile.WRONG_USAGE:
                return self.forge(identity, usages=[each for each in Usage if each != usage])
            case Hostile.NO_USAGE:
                return self.forge(identity, usages=())

    def _self_signed(self, identity: Identity) -> Credentials:
        key = new_key()
        itself = self.forge(identity, private_key=key)
        issuer = Issuer(certificate=itself.certificate, private_key=key)
        return self.forge(identity, issuer=issuer, private_key=key)


def agent_identity(tenant: str = "acme", name: str | None = None) -> Identity:
    """An agent's identity; a new uuid unless ``name`` is one."""
    return Identity(realm=tenant, role=Role.AGENT, name=name or str(uuid.uuid4()))


def identity_of_role(role: Role) -> Identity:
    """Somebody of that role; of agents somebody new each time."""
    if role is Role.AGENT:
        return agent_identity()
    realm = "acme" if role is Role.OPERATOR else "local"
    return Identity(realm=realm, role=role, name=f"{role}-{uuid.uuid4().hex[:8]}")


def subject(common_name: str) -> x509.Name:
    """A subject, also with a name longer than X.509 allows (plain issuers do that)."""
    with warnings.catch_warnings(action="ignore"):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)])


def sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    """The certificate, signed as its issuer's kind of key wants it."""
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm)


def save(credentials: Credentials, stem: Path) -> Files:
    """Write ``<stem>.pem`` and ``<stem>.key``."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = Files(cert=stem.with_name(stem.name + ".pem"), key=stem.with_name(stem.name + ".key"))
    files.cert.write_bytes(credentials.certificate_pem)
    files.key.write_bytes(credentials.private_key_pem)
    files.key.chmod(0o600)
    return files


def save_trust(trust: Trust, path: Path) -> Path:
    """Write the CA certificates; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trust.pem)
    return path
