"""What the CA makes, field by field; that peers accept it is test_verify's part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.issue import CONTROLLER_NAME, Authority, create_authority, key_usage
from outrelay.lib.identity.uri import Identity, Role
from tests.support.pki import agent_identity, identity_of_role

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority(now=NOON)


def leaf(
    authority: Authority, identity: Identity, *server_names: str, lifetime: timedelta = HOUR
) -> x509.Certificate:
    return authority.credentials(
        identity, now=NOON, lifetime=lifetime, server_names=server_names
    ).certificate


def common_name(name: x509.Name) -> str:
    (attribute,) = name
    assert attribute.oid == NameOID.COMMON_NAME
    assert isinstance(attribute.value, str)
    return attribute.value


def dns_names(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def test_the_ca(authority: Authority) -> None:
    certificate = authority.certificate
    extensions = certificate.extensions

    assert common_name(certificate.subject) == common_name(certificate.issuer) == "outrelay-ca"
    assert isinstance(authority.private_key.curve, ec.SECP256R1)
    assert certificate.not_valid_before_utc == NOON - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOON + timedelta(days=3650)
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert constraints.critical
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.value == key_usage("key_cert_sign", "crl_sign")
    assert authority.trust.certificates == (certificate,)


def test_a_leaf(authority: Authority) -> None:
    identity = agent_identity()
    certificate = leaf(authority, identity)
    extensions = certificate.extensions

    assert common_name(certificate.subject) == identity.name
    assert common_name(certificate.issuer) == "outrelay-ca"
    assert certificate.not_valid_before_utc == NOON - timedelta(minutes=5)
    assert certificate.not_valid_after_utc == NOON + HOUR
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.critical) == (False, True)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.value == key_usage("digital_signature", "key_encipherment")
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    assert list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [
        x509.UniformResourceIdentifier(identity.uri),
        x509.DNSName("localhost"),
    ]


def test_a_leaf_names_the_key_that_signed_it(authority: Authority) -> None:
    signer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    named = leaf(authority, agent_identity()).extensions.get_extension_for_class(
        x509.AuthorityKeyIdentifier
    )

    assert named.value.key_identifier == signer.value.digest


def test_no_two_leaves_share_a_key_or_a_serial_number(authority: Authority) -> None:
    identity = agent_identity()
    one, two = leaf(authority, identity), leaf(authority, identity)

    assert one.serial_number != two.serial_number
    assert one.public_key() != two.public_key()


def test_certifies_a_key_made_elsewhere(authority: Authority) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()

    certificate = authority.issue(agent_identity(), key, now=NOON, lifetime=HOUR)

    assert certificate.public_key() == key


def test_no_leaf_outlasts_the_ca() -> None:
    authority = create_authority(now=NOON, lifetime=HOUR)

    assert leaf(authority, agent_identity(), lifetime=2 * HOUR).not_valid_after_utc == NOON + HOUR


def test_server_names_are_added_once_each(authority: Authority) -> None:
    certificate = leaf(authority, agent_identity(), "r1.example", "localhost", "r1.example")

    assert dns_names(certificate) == ["localhost", "r1.example"]


@pytest.mark.parametrize("role", Role)
def test_only_controllers_hold_their_name(authority: Authority, role: Role) -> None:
    names = dns_names(leaf(authority, identity_of_role(role)))

    assert (CONTROLLER_NAME in names) is (role is Role.CONTROLLER)
    assert "localhost" in names


@pytest.mark.parametrize("role", [Role.AGENT, Role.RELAY, Role.OPERATOR])
def test_nobody_else_is_given_it(authority: Authority, role: Role) -> None:
    with pytest.raises(IdentityError, match=f"may not hold the server name {CONTROLLER_NAME}"):
        leaf(authority, identity_of_role(role), CONTROLLER_NAME)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "*.outrelay.internal",
        "*",
        "Controller.outrelay.internal",
        "controller.outrelay.internal.",
        "a..b",
        "a b",
        "a\n",
        "é.example",
        "a" * 64,
        ".".join(["a" * 63] * 4),
    ],
)
def test_what_is_no_plain_dns_name_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(IdentityError, match="is not a plain lower-case DNS name"):
        leaf(authority, agent_identity(), name)
