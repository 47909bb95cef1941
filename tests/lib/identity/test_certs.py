"""Loading certificates, keys and trust: what works, and what each fault is called."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import DER_cert_to_PEM_cert

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.certs import (
    PrivateKey,
    date_fault,
    identity_of,
    load_credentials,
    load_trust,
)
from outrelay.lib.identity.issue import key_usage
from outrelay.lib.identity.uri import Identity, Role
from tests.support.pki import (
    DAY,
    Files,
    TestPki,
    agent_identity,
    identity_of_role,
    save,
    save_trust,
    sign,
    subject,
)

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def pki() -> TestPki:
    return TestPki(now=NOON)


@pytest.fixture
def files(pki: TestPki, tmp_path: Path) -> Files:
    return save(pki.agent(), tmp_path / "agent")


def fault_of(load: Callable[[], object]) -> str:
    """The one line a user would read."""
    with pytest.raises(IdentityError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- credentials ---------------------------------------------------------------------------


def test_loads_what_was_saved(pki: TestPki, tmp_path: Path) -> None:
    saved = pki.relay(name="r7")
    files = save(saved, tmp_path / "relay")

    loaded = load_credentials(files.cert, files.key)

    assert loaded.identity == Identity(realm="local", role=Role.RELAY, name="r7")
    assert loaded.certificate == saved.certificate
    assert loaded.chain == ()
    assert loaded.certificate_pem == files.cert.read_bytes()
    assert loaded.private_key_pem == files.key.read_bytes()
    assert loaded.expires == (NOON + DAY).timestamp()


def test_takes_paths_as_text(files: Files) -> None:
    assert load_credentials(str(files.cert), str(files.key)).identity.role is Role.AGENT


def test_what_follows_the_leaf_is_its_chain(pki: TestPki, files: Files) -> None:
    leaf = files.cert.read_bytes()
    files.cert.write_bytes(b"subject=anything\n" + leaf + b"\n# its issuer\n" + pki.trust.pem)

    loaded = load_credentials(files.cert, files.key)

    assert loaded.chain == pki.trust.certificates
    assert loaded.certificate_pem == leaf + pki.trust.pem


@pytest.mark.parametrize(
    "make_key",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "Ed25519", "RSA"],
)
def test_takes_every_kind_of_key_we_sign_with(
    pki: TestPki, tmp_path: Path, make_key: Callable[[], PrivateKey]
) -> None:
    files = save(pki.forge(agent_identity(), private_key=make_key()), tmp_path / "agent")

    assert load_credentials(files.cert, files.key).private_key_pem == files.key.read_bytes()


def test_a_key_is_not_shown(pki: TestPki) -> None:
    assert "private" not in repr(pki.agent())
    assert "private" not in repr(pki.authority)


def test_an_expired_certificate_loads_and_says_so(pki: TestPki, tmp_path: Path) -> None:
    expired = pki.forge(agent_identity(), not_before=NOON - DAY, not_after=NOON)
    files = save(expired, tmp_path / "agent")

    loaded = load_credentials(files.cert, files.key)

    assert loaded.date_fault(NOON - DAY - timedelta(seconds=1)) == (
        "is not valid before 2030-01-01 12:00:00 UTC"
    )
    assert loaded.date_fault(NOON - DAY) == ""
    assert loaded.date_fault(NOON - timedelta(microseconds=1)) == ""
    assert loaded.date_fault(NOON) == "expired at 2030-01-02 12:00:00 UTC"


def test_dates_are_compared_across_zones(pki: TestPki) -> None:
    certificate = pki.forge(agent_identity(), not_after=NOON).certificate

    assert date_fault(certificate, NOON.astimezone()) != ""
    assert date_fault(certificate, (NOON - timedelta(seconds=1)).astimezone()) == ""


def test_a_common_name_of_any_length_is_not_read(pki: TestPki, tmp_path: Path) -> None:
    identity = agent_identity("a" * 63)
    files = save(pki.forge(identity, common_name=identity.uri), tmp_path / "agent")

    assert len(identity.uri) > 64
    assert load_credentials(files.cert, files.key).identity == identity


@pytest.mark.parametrize("which", ["cert", "key"])
def test_a_missing_file(files: Files, which: str) -> None:
    path: Path = getattr(files, which)
    path.unlink()

    fault = fault_of(lambda: load_credentials(files.cert, files.key))

    assert fault == f"{path}: cannot be read: No such file or directory; check the path"


def test_a_folder_is_no_file(files: Files, tmp_path: Path) -> None:
    fault = fault_of(lambda: load_credentials(tmp_path, files.key))

    assert fault == f"{tmp_path}: cannot be read: Is a directory; give a file"


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00\xff", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_certificate_that_is_not_pem(files: Files, data: bytes) -> None:
    files.cert.write_bytes(data)

    fault = fault_of(lambda: load_credentials(files.cert, files.key))

    assert (
        fault
        == f"{files.cert}: holds no PEM certificate; give a file with -----BEGIN CERTIFICATE-----"
    )


def test_a_certificate_in_der_is_not_pem(pki: TestPki, files: Files) -> None:
    files.cert.write_bytes(pki.agent().certificate.public_bytes(Encoding.DER))

    assert "holds no PEM certificate; give a file with -----BEGIN CERTIFICATE-----" in fault_of(
        lambda: load_credentials(files.cert, files.key)
    )


def test_a_certificate_of_an_unknown_version(pki: TestPki, files: Files) -> None:
    der = bytearray(pki.agent().certificate.public_bytes(Encoding.DER))
    at = der.index(bytes.fromhex("a003020102"))  # [0] { INTEGER 2 }: version 3
    der[at + 4] = 9
    files.cert.write_bytes(DER_cert_to_PEM_cert(bytes(der)).encode())

    assert "holds no PEM certificate; give a file with -----BEGIN CERTIFICATE-----" in fault_of(
        lambda: load_credentials(files.cert, files.key)
    )


def test_files_that_were_swapped(files: Files) -> None:
    fault = fault_of(lambda: load_credentials(files.key, files.cert))

    assert (
        fault
        == f"{files.key}: holds no PEM certificate; give a file with -----BEGIN CERTIFICATE-----"
    )


@pytest.mark.parametrize("data", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_key_that_is_not_pem(files: Files, data: bytes) -> None:
    files.key.write_bytes(data)

    fault = fault_of(lambda: load_credentials(files.cert, files.key))

    assert (
        fault
        == f"{files.key}: holds no PEM private key; give a file with -----BEGIN PRIVATE KEY-----"
    )


def test_an_encrypted_key(pki: TestPki, files: Files) -> None:
    encryption = BestAvailableEncryption(b"secret")
    files.key.write_bytes(
        pki.agent().private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    )

    fault = fault_of(lambda: load_credentials(files.cert, files.key))

    assert fault == f"{files.key}: is encrypted; store it without a pass phrase"


def test_a_key_of_a_kind_we_do_not_use(files: Files) -> None:
    key = dsa.generate_private_key(2048)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    fault = fault_of(lambda: load_credentials(files.cert, files.key))

    assert fault.startswith(f"{files.key}: is of a kind we do not use; make it EC P-256")


def test_a_key_of_another_certificate(pki: TestPki, files: Files, tmp_path: Path) -> None:
    other = save(pki.agent(), tmp_path / "other")

    fault = fault_of(lambda: load_credentials(files.cert, other.key))

    assert fault.startswith(f"{other.key}: is not the key of {files.cert}; ")


# ---- identity ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uris", "fault"),
    [
        ((), "holds no outrelay:// URI SAN"),
        (("https://acme/agent",), "holds no outrelay:// URI SAN"),
        (("outrelay://a/relay/b", "outrelay://a/relay/c"), "holds 2 outrelay:// URI SANs"),
        (("outrelay://a/relay/b", "OutRelay://a/relay/b"), "holds 2 outrelay:// URI SANs"),
        (("outrelay://a/relay/",), "its URI SAN 'outrelay://a/relay/' has an invalid id: ''"),
        (("OUTRELAY://a/relay/b",), "its URI SAN 'OUTRELAY://a/relay/b' is not an identity"),
    ],
)
def test_a_certificate_without_one_identity(
    pki: TestPki, tmp_path: Path, uris: tuple[str, ...], fault: str
) -> None:
    files = save(pki.forge(agent_identity(), uris=uris), tmp_path / "agent")

    text = fault_of(lambda: load_credentials(files.cert, files.key))

    assert text.startswith(f"{files.cert}: {fault}")


def test_a_certificate_without_any_alternative_name(pki: TestPki) -> None:
    certificate = pki.forge(agent_identity(), uris=(), dns_names=()).certificate

    assert fault_of(lambda: identity_of(certificate)) == (
        "certificate: holds no outrelay:// URI SAN"
    )


def test_uris_of_other_schemes_do_not_matter(pki: TestPki) -> None:
    identity = identity_of_role(Role.RELAY)
    uris = ("spiffe://acme/relay", identity.uri, "https://acme")

    assert identity_of(pki.forge(identity, uris=uris).certificate) == identity


def test_alternative_names_that_cannot_be_read(pki: TestPki) -> None:
    not_ascii = x509.UnrecognizedExtension(
        x509.SubjectAlternativeName.oid, bytes.fromhex("3003 8601 ff")
    )
    certificate = pki.forge(
        agent_identity(), uris=(), dns_names=(), extensions=[not_ascii]
    ).certificate

    assert "extensions that cannot be read" in fault_of(lambda: identity_of(certificate))


def test_an_unknown_kind_of_public_key(pki: TestPki, files: Files) -> None:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject("x"))
        .issuer_name(subject("x"))
        .public_key(ed448.Ed448PrivateKey.generate().public_key())
        .serial_number(1)
        .not_valid_before(NOON)
        .not_valid_after(NOON + DAY)
    )
    der = sign(builder, pki.authority.private_key).public_bytes(Encoding.DER)
    unknown = der.replace(bytes.fromhex("06032b6571"), bytes.fromhex("06032b6501"))
    certificate = x509.load_der_x509_certificate(unknown)
    files.cert.write_bytes(certificate.public_bytes(Encoding.PEM))

    fault = fault_of(lambda: load_credentials(files.cert, files.key))

    assert fault.startswith(f"{files.cert}: holds a key that cannot be read")


# ---- trust ---------------------------------------------------------------------------------


def test_loads_a_ca(pki: TestPki, tmp_path: Path) -> None:
    path = save_trust(pki.trust, tmp_path / "ca.pem")

    assert load_trust(path) == pki.trust
    assert load_trust(str(path)).pem == path.read_bytes()


def test_loads_two_cas_while_they_roll_over(pki: TestPki, tmp_path: Path) -> None:
    path, newer = tmp_path / "ca.pem", TestPki(now=NOON)
    path.write_bytes(b"# old\n" + pki.trust.pem + b"# new\n" + newer.trust.pem)

    assert load_trust(path).certificates == (
        pki.authority.certificate,
        newer.authority.certificate,
    )
    assert load_trust(path).pem == pki.trust.pem + newer.trust.pem


def test_a_trust_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    assert fault_of(lambda: load_trust(path)).startswith(f"{path}: cannot be read")

    path.touch()
    assert (
        fault_of(lambda: load_trust(path))
        == f"{path}: holds no PEM certificate; give a file with -----BEGIN CERTIFICATE-----"
    )


@pytest.mark.parametrize("with_key_usage", [True, False])
def test_a_leaf_is_not_to_be_trusted(pki: TestPki, tmp_path: Path, with_key_usage: bool) -> None:
    path = tmp_path / "ca.pem"
    leaf = pki.agent() if with_key_usage else pki.forge(agent_identity())
    path.write_bytes(pki.trust.pem + leaf.certificate_pem)

    assert fault_of(lambda: load_trust(path)) == (
        f"{path}: holds a certificate that is not a CA's; list only CA certificates in it"
    )


def test_a_ca_that_may_not_sign_certificates_is_none(pki: TestPki, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    ca = pki.forge(agent_identity(), ca=True, extensions=[key_usage("crl_sign")])
    path.write_bytes(ca.certificate_pem)

    assert "is not a CA's" in fault_of(lambda: load_trust(path))


def test_a_ca_without_key_usage_is_one(pki: TestPki, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(pki.forge(agent_identity(), ca=True).certificate_pem)

    assert len(load_trust(path).certificates) == 1
