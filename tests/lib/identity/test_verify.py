"""The one verifier of peers: every rule, broken one at a time."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.certs import Credentials, PrivateKey, Trust
from outrelay.lib.identity.issue import (
    CA_NAME,
    CONTROLLER_NAME,
    create_authority,
    key_usage,
    new_key,
)
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.identity.verify import Usage, verify_peer
from tests.support.pki import DAY, Hostile, Issuer, TestPki, agent_identity, sign, subject

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def pki() -> TestPki:
    return TestPki(now=NOON)


def verified(
    peer: Credentials,
    trust: Trust,
    *,
    usage: Usage = Usage.CLIENT,
    roles: Collection[Role] = (Role.AGENT,),
    server_name: str = "",
    now: datetime = NOON,
) -> Identity:
    chain = (peer.certificate, *peer.chain)
    return verify_peer(chain, trust, usage=usage, roles=roles, server_name=server_name, now=now)


def fault_of(
    peer: Credentials,
    trust: Trust,
    *,
    usage: Usage = Usage.CLIENT,
    roles: Collection[Role] = (Role.AGENT,),
    server_name: str = "",
    now: datetime = NOON,
) -> str:
    with pytest.raises(IdentityError) as caught:
        verified(peer, trust, usage=usage, roles=roles, server_name=server_name, now=now)
    text = str(caught.value)
    assert text.startswith("peer certificate: ")
    assert "\n" not in text
    return text.removeprefix("peer certificate: ")


def root(
    pki: TestPki, *, path_length: int | None = 0, extensions: Collection[x509.ExtensionType] = ()
) -> Issuer:
    """A CA with key and settings of its own."""
    key = new_key()
    name = subject(CA_NAME)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(pki.now - DAY)
        .not_valid_after(pki.now + 100 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Issuer(certificate=sign(builder, key), private_key=key)


def trusting(*issuers: Issuer) -> Trust:
    return Trust(certificates=tuple(issuer.certificate for issuer in issuers))


def intermediate(
    pki: TestPki,
    issuer: Issuer,
    *,
    key: PrivateKey | None = None,
    not_after: datetime | None = None,
    usages: Collection[Usage] = (),
) -> Issuer:
    """A CA between a root and leaves."""
    made = pki.forge(
        agent_identity(),
        issuer=issuer,
        common_name="intermediate",
        uris=(),
        dns_names=(),
        usages=tuple(usages),
        private_key=key,
        not_after=not_after,
        ca=True,
    )
    return Issuer(certificate=made.certificate, private_key=made.private_key)


# ---- who is accepted -----------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("usage", Usage)
def test_accepts_everybody_the_ca_vouches_for(pki: TestPki, role: Role, usage: Usage) -> None:
    peer = pki.of_role(role)

    identity = verified(peer, pki.trust, usage=usage, roles=[role], server_name="localhost")

    assert identity == peer.identity
    assert identity.role is role


def test_any_role_of_several_will_do(pki: TestPki) -> None:
    relay = pki.relay()

    assert verified(relay, pki.trust, roles={Role.AGENT, Role.RELAY}) == relay.identity


@pytest.mark.parametrize("usage", Usage)
def test_one_usage_is_enough_for_it(pki: TestPki, usage: Usage) -> None:
    peer = pki.forge(agent_identity(), usages=[usage])

    assert verified(peer, pki.trust, usage=usage) == peer.identity


def test_a_subject_of_any_length_is_not_read(pki: TestPki) -> None:
    identity = agent_identity("a" * 63)
    peer = pki.forge(identity, common_name=identity.uri)

    assert verified(peer, pki.trust) == identity


@pytest.mark.parametrize(
    "key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())]
)
def test_accepts_other_kinds_of_key(pki: TestPki, key: PrivateKey) -> None:
    peer = pki.forge(agent_identity(), private_key=key)

    assert verified(peer, pki.trust) == peer.identity


@pytest.mark.parametrize("now", [NOON - 5 * 60 * SECOND, NOON, NOON + DAY])
def test_accepts_a_leaf_to_the_ends_of_its_life(pki: TestPki, now: datetime) -> None:
    peer = pki.agent(lifetime=DAY)

    assert verified(peer, pki.trust, now=now) == peer.identity


def test_now_may_be_of_any_zone(pki: TestPki) -> None:
    peer = pki.agent(lifetime=60 * SECOND)
    far_east, far_west = timezone(timedelta(hours=13)), timezone(timedelta(hours=-11))

    assert verified(peer, pki.trust, now=NOON.astimezone(far_east)) == peer.identity
    assert verified(peer, pki.trust, now=NOON.astimezone(far_west)) == peer.identity


def test_certificates_that_lead_nowhere_do_no_harm(pki: TestPki) -> None:
    peer = replace(pki.agent(), chain=(TestPki(now=NOON).authority.certificate,))

    assert verified(peer, pki.trust) == peer.identity


# ---- who is not ----------------------------------------------------------------------------

FAULTS = {
    Hostile.WRONG_CA: "does not lead to a CA we trust (",
    Hostile.SELF_SIGNED: "does not lead to a CA we trust (",
    Hostile.SIGNED_BY_LEAF: "does not lead to a CA we trust (invalid CA certificate)",
    Hostile.EXPIRED: "expired at 2030-01-01 12:00:00 UTC",
    Hostile.NOT_YET_VALID: "is not valid before 2030-01-03 12:00:00 UTC",
    Hostile.NO_URI: "holds no outrelay:// URI SAN",
    Hostile.TWO_URIS: "holds 2 outrelay:// URI SANs",
    Hostile.DNS_ONLY: "holds no outrelay:// URI SAN",
    Hostile.WRONG_ROLE: "is of outrelay://",
    Hostile.WRONG_USAGE: "is not for ",
    Hostile.NO_USAGE: "is not for ",
}


@pytest.mark.parametrize("kind", Hostile)
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("usage", Usage)
def test_refuses_hostile_certificates(
    pki: TestPki, kind: Hostile, role: Role, usage: Usage
) -> None:
    peer = pki.hostile(kind, role=role, usage=usage)

    fault = fault_of(peer, pki.trust, usage=usage, roles=[role], server_name="localhost")

    assert fault.startswith(FAULTS[kind])


def test_refuses_a_peer_without_a_certificate(pki: TestPki) -> None:
    with pytest.raises(IdentityError, match="peer certificate: is missing"):
        verify_peer((), pki.trust, usage=Usage.CLIENT, roles=[Role.AGENT], now=NOON)


def test_says_which_role_was_expected(pki: TestPki) -> None:
    peer = pki.operator()

    fault = fault_of(peer, pki.trust, roles=[Role.RELAY, Role.AGENT])

    assert fault == f"is of {peer.identity}, expected the role agent or relay"


def test_says_which_usage_is_missing(pki: TestPki) -> None:
    server = pki.forge(agent_identity(), usages=[Usage.SERVER])
    client = pki.forge(agent_identity(), usages=[Usage.CLIENT])

    assert "not for clients" in fault_of(server, pki.trust, usage=Usage.CLIENT)
    assert "not for servers" in fault_of(client, pki.trust, usage=Usage.SERVER)


def test_any_usage_at_all_is_not_the_right_usage(pki: TestPki) -> None:
    anything = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    peer = pki.forge(agent_identity(), usages=(), extensions=[anything])

    assert "is not for clients" in fault_of(peer, pki.trust)


def test_refuses_a_key_that_is_not_for_signatures(pki: TestPki) -> None:
    peer = pki.forge(agent_identity(), extensions=[key_usage("key_encipherment")])

    assert fault_of(peer, pki.trust) == "is not for signatures (key usage)"


def test_refuses_what_comes_a_second_too_late_or_too_early(pki: TestPki) -> None:
    peer = pki.agent(lifetime=DAY)

    assert "expired at" in fault_of(peer, pki.trust, now=NOON + DAY + SECOND)
    assert "is not valid before" in fault_of(peer, pki.trust, now=NOON - 5 * 60 * SECOND - SECOND)


def test_refuses_an_unknown_critical_extension(pki: TestPki) -> None:
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject("x"))
        .issuer_name(pki.authority.certificate.subject)
        .public_key(new_key().public_key())
        .serial_number(1)
        .not_valid_before(NOON)
        .not_valid_after(NOON + DAY)
        .add_extension(x509.UnrecognizedExtension(oid, b"\x05\x00"), critical=True)
    )
    peer = replace(pki.agent(), certificate=sign(builder, pki.authority.private_key))

    assert "unhandled critical extension" in fault_of(peer, pki.trust)


def test_refuses_extensions_that_cannot_be_read(pki: TestPki) -> None:
    names = x509.SubjectAlternativeName.oid
    broken = x509.UnrecognizedExtension(names, bytes.fromhex("3003 8601 ff"))
    peer = pki.forge(agent_identity(), uris=(), dns_names=(), extensions=[broken])

    assert "has extensions that cannot be read" in fault_of(peer, pki.trust)


# ---- the server's name ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "relay.example"])
def test_a_server_name_is_one_of_the_dns_names(pki: TestPki, name: str) -> None:
    peer = pki.forge(agent_identity(), dns_names=["localhost", "Relay.Example"])

    assert verified(peer, pki.trust, server_name=name) == peer.identity


@pytest.mark.parametrize("name", ["host", "localhost.", "a.relay.example", "*.relay.example"])
def test_another_server_name_is_refused(pki: TestPki, name: str) -> None:
    peer = pki.forge(agent_identity(), dns_names=["localhost"], common_name=name)

    assert fault_of(peer, pki.trust, server_name=name) == (
        f"is not for the server name {name} (DNS SANs: localhost)"
    )


def test_wildcards_are_names_like_any_other(pki: TestPki) -> None:
    peer = pki.forge(agent_identity(), dns_names=["*.outrelay.internal"])

    assert "is not for the server name" in fault_of(peer, pki.trust, server_name=CONTROLLER_NAME)


def test_no_dns_name_at_all_is_refused(pki: TestPki) -> None:
    peer = pki.forge(agent_identity(), dns_names=())

    assert "(DNS SANs: none)" in fault_of(peer, pki.trust, server_name="localhost")


def test_only_controllers_pass_for_controllers(pki: TestPki) -> None:
    roles = [Role.CONTROLLER]
    assert verified(pki.controller(), pki.trust, roles=roles, server_name=CONTROLLER_NAME)

    for peer in (pki.relay(), pki.agent(), pki.operator()):
        fault = fault_of(peer, pki.trust, roles=list(Role), server_name=CONTROLLER_NAME)
        assert "is not for the server name" in fault


# ---- chains --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [new_key(), ed25519.Ed25519PrivateKey.generate()])
def test_a_chain_through_an_intermediate(pki: TestPki, key: PrivateKey) -> None:
    top = root(pki, path_length=1)
    middle = intermediate(pki, top, key=key)
    peer = pki.forge(agent_identity(), issuer=middle)

    assert verified(replace(peer, chain=(middle.certificate,)), trusting(top)) == peer.identity
    assert verified(peer, trusting(middle)) == peer.identity
    assert "unable to get local issuer" in fault_of(peer, trusting(top))


def test_a_ca_of_path_length_0_has_no_intermediates(pki: TestPki) -> None:
    top = Issuer(certificate=pki.authority.certificate, private_key=pki.authority.private_key)
    middle = intermediate(pki, top)
    peer = replace(pki.forge(agent_identity(), issuer=middle), chain=(middle.certificate,))

    assert "path length constraint exceeded" in fault_of(peer, pki.trust)


def test_an_expired_intermediate(pki: TestPki) -> None:
    top = root(pki, path_length=1)
    middle = intermediate(pki, top, not_after=NOON - SECOND)
    peer = replace(pki.forge(agent_identity(), issuer=middle), chain=(middle.certificate,))

    assert fault_of(peer, trusting(top)) == (
        "has an issuer that expired at 2030-01-02 11:59:59 UTC"
    )


def test_an_expired_ca(pki: TestPki) -> None:
    authority = create_authority(now=NOON, lifetime=DAY)
    identity = agent_identity()
    issuer = Issuer(certificate=authority.certificate, private_key=authority.private_key)
    peer = pki.forge(identity, issuer=issuer, not_after=NOON + 10 * DAY)

    assert "has an issuer that expired" in fault_of(peer, authority.trust, now=NOON + 2 * DAY)


@pytest.mark.parametrize("usage", Usage)
def test_an_intermediate_issues_only_for_its_own_usages(pki: TestPki, usage: Usage) -> None:
    top = root(pki, path_length=1)
    middle = intermediate(pki, top, usages=[usage])
    peer = replace(pki.forge(agent_identity(), issuer=middle), chain=(middle.certificate,))
    other = next(each for each in Usage if each is not usage)

    assert verified(peer, trusting(top), usage=usage) == peer.identity
    assert "has an issuer that is not for" in fault_of(peer, trusting(top), usage=other)


def test_a_signature_by_a_ca_of_the_same_name_is_refused(pki: TestPki) -> None:
    ours, theirs = root(pki), root(pki)
    peer = pki.forge(agent_identity(), issuer=theirs)

    assert fault_of(peer, trusting(ours)).startswith("does not lead to a CA we trust (")


@pytest.mark.parametrize("newest_first", [True, False])
def test_two_cas_of_one_name_are_both_trusted(pki: TestPki, newest_first: bool) -> None:
    issuers = [root(pki), root(pki)]
    trust = trusting(*(reversed(issuers) if newest_first else issuers))

    for issuer in issuers:
        peer = pki.forge(agent_identity(), issuer=issuer)
        assert verified(peer, trust) == peer.identity


def test_with_two_cas_the_fault_is_the_issuers(pki: TestPki) -> None:
    old, new = root(pki), root(pki)
    late = pki.forge(agent_identity(), issuer=new, not_after=NOON - SECOND)

    assert fault_of(late, trusting(old, new)).startswith("expired at")
    assert fault_of(late, trusting(new, old)).startswith("expired at")


# ---- fuzzing -------------------------------------------------------------------------------

VICTIM = TestPki(now=NOON)
LEAF = VICTIM.agent()
DER = LEAF.certificate.public_bytes(Encoding.DER)


@settings(max_examples=300)
@given(st.dictionaries(st.integers(0, len(DER) - 1), st.integers(0, 255), min_size=1, max_size=3))
def test_a_damaged_certificate_is_refused_and_nothing_else_comes_out(
    damage: dict[int, int],
) -> None:
    damaged = bytearray(DER)
    for at, value in damage.items():
        damaged[at] = value
    with warnings.catch_warnings(action="ignore"):  # about serial numbers below 1
        try:
            certificate = x509.load_der_x509_certificate(bytes(damaged))
        except (ValueError, x509.InvalidVersion):
            return  # the handshake does not get further either

    if damaged == DER:
        assert verified(LEAF, VICTIM.trust) == LEAF.identity
    else:
        fault_of(replace(LEAF, certificate=certificate), VICTIM.trust)
