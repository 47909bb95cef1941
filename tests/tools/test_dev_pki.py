"""dev-pki: what it writes, how it protects it, and what it refuses to overwrite."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from outrelay import __version__
from outrelay.lib.identity.certs import Credentials, load_credentials, load_trust
from outrelay.lib.identity.issue import CONTROLLER_NAME
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.tools.dev_pki import main

ROOT = Path(__file__).parent.parent.parent
HOLDERS = {
    "controller": Role.CONTROLLER,
    "relay": Role.RELAY,
    "agent-a": Role.AGENT,
    "agent-b": Role.AGENT,
    "operator": Role.OPERATOR,
}
FILES = {"ca.pem", "ca.key", "secrets.yaml"} | {
    f"{stem}.{kind}" for stem in HOLDERS for kind in ("pem", "key")
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pki"


def dev_pki(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def made(out: Path, *arguments: str) -> Result:
    result = dev_pki("--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return result


def credentials(out: Path, stem: str) -> Credentials:
    return load_credentials(out / f"{stem}.pem", out / f"{stem}.key")


def secrets(out: Path) -> dict[str, dict[str, str]]:
    """The flat keys of each document of secrets.yaml, by the Secret's name."""
    documents = (out / "secrets.yaml").read_text().split("---\n")
    pairs = [dict(re.findall(r"^ *([\w.]+): (\S+)$", text, re.MULTILINE)) for text in documents]
    return {document["name"]: document for document in pairs}


def test_writes_a_ca_and_everybody(out: Path) -> None:
    made(out)

    assert {path.name for path in out.iterdir()} == FILES
    identities = {stem: credentials(out, stem).identity for stem in HOLDERS}
    assert {stem: identity.role for stem, identity in identities.items()} == HOLDERS
    assert str(identities["relay"]) == "outrelay://local/relay/r1"
    assert identities["agent-a"].realm == identities["operator"].realm == "acme"
    assert identities["agent-a"].name != identities["agent-b"].name


@pytest.mark.parametrize(("stem", "role"), HOLDERS.items())
def test_everybody_is_accepted_by_peers(out: Path, stem: str, role: Role) -> None:
    made(out)
    peer = credentials(out, stem)

    for usage in Usage:
        identity = verify_peer(
            [peer.certificate],
            load_trust(out / "ca.pem"),
            usage=usage,
            roles=[role],
            server_name=CONTROLLER_NAME if role is Role.CONTROLLER else "localhost",
            now=datetime.now(UTC),
        )
        assert identity == peer.identity


def test_the_ca_key_is_the_cas(out: Path) -> None:
    made(out)
    (certificate,) = load_trust(out / "ca.pem").certificates
    key = load_pem_private_key((out / "ca.key").read_bytes(), password=None)

    assert key.public_key() == certificate.public_key()


def test_names_and_lifetime_are_asked_for(out: Path) -> None:
    made(out, "--tenant", "globex", "--relay-id", "r-2", "--namespace", "edge", "--days", "7")

    assert credentials(out, "agent-b").identity.realm == "globex"
    assert credentials(out, "operator").identity.realm == "globex"
    assert credentials(out, "relay").identity.name == "r-2"
    assert {secret["namespace"] for secret in secrets(out).values()} == {"edge"}
    ends = credentials(out, "relay").certificate.not_valid_after_utc
    assert timedelta(days=6) < ends - datetime.now(UTC) <= timedelta(days=7)


def test_secrets_hold_what_the_files_hold(out: Path) -> None:
    made(out)

    found = secrets(out)

    assert set(found) == {f"outrelay-{stem}" for stem in HOLDERS if stem != "operator"}
    for name, secret in found.items():
        stem = name.removeprefix("outrelay-")
        assert (secret["kind"], secret["type"]) == ("Secret", "kubernetes.io/tls")
        assert secret["namespace"] == "outrelay"
        keys = {"ca.crt": "ca.pem", "tls.crt": f"{stem}.pem", "tls.key": f"{stem}.key"}
        for key, file in keys.items():
            assert base64.b64decode(secret[key]) == (out / file).read_bytes()


def test_tells_who_is_who_and_what_to_do_next(out: Path) -> None:
    output = made(out).output

    for stem in HOLDERS:
        assert re.search(rf"^  {stem} +{credentials(out, stem).identity}$", output, re.MULTILINE)
    for program in ("controller", "relay", "agent", "cli"):
        assert f"\n  outrelay-{program} " in output
    assert output.count("--debug-listen ") == 1  # of two agents on one host one has the default
    assert str(out) in output
    assert "PRIVATE KEY" not in output


# ---- protection ----------------------------------------------------------------------------


def test_keys_are_their_owners_alone_whatever_the_umask(out: Path) -> None:
    before = os.umask(0)
    try:
        made(out)
    finally:
        os.umask(before)

    private = {path.name for path in out.iterdir() if path.stat().st_mode & 0o777 == 0o600}
    assert private == {name for name in FILES if not name.endswith(".pem")}
    assert out.stat().st_mode & 0o777 == 0o700


def test_keys_are_private_from_the_moment_they_exist(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: dict[str, int] = {}
    real_open = os.open

    def watched(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        assert flags & os.O_EXCL
        modes[Path(path).name] = os.fstat(descriptor).st_mode & 0o777
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    made(out)
    monkeypatch.undo()

    assert set(modes) == FILES
    assert {name for name, mode in modes.items() if mode & 0o077} == {
        name for name in FILES if name.endswith(".pem")
    }


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_is_overwritten(out: Path, name: str) -> None:
    out.mkdir()
    (out / name).write_text("mine")

    result = dev_pki("--out", out)

    assert result.exit_code == 1
    assert result.output == (
        f"dev-pki: {out}: holds {name} already; "
        "choose another --out, or replace the whole set with --force\n"
    )
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


def test_a_link_that_leads_nowhere_is_a_file_too(out: Path, tmp_path: Path) -> None:
    out.mkdir()
    (out / "ca.key").symlink_to(tmp_path / "elsewhere")

    assert dev_pki("--out", out).exit_code == 1


def test_force_replaces_the_whole_set(out: Path) -> None:
    made(out)
    (out / "notes.txt").write_text("mine")
    (out / "relay.key").chmod(0o644)
    before = {name: (out / name).read_bytes() for name in FILES}

    made(out, "--force")

    assert all((out / name).read_bytes() != data for name, data in before.items())
    assert (out / "relay.key").stat().st_mode & 0o777 == 0o600
    assert (out / "notes.txt").read_text() == "mine"
    assert credentials(out, "relay").identity.role is Role.RELAY


def test_force_replaces_a_link_and_not_what_it_leads_to(out: Path, tmp_path: Path) -> None:
    out.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (out / "ca.key").symlink_to(elsewhere)

    made(out, "--force")

    assert elsewhere.read_text() == "mine"
    assert not (out / "ca.key").is_symlink()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "pki"

    result = dev_pki("--out", folder)

    assert result.exit_code == 1
    assert (
        result.output == f"dev-pki: {folder}: cannot be written: Not a directory; check the path\n"
    )


# ---- the command line ----------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--tenant", "--relay-id", "--namespace"])
def test_names_must_be_names(out: Path, flag: str) -> None:
    result = dev_pki("--out", out, flag, "Not/A/Name")

    assert result.exit_code == 2
    assert f"dev-pki: {flag}: 'Not/A/Name' is not a name" in result.output
    assert not out.exists()


def test_a_certificate_does_not_outlast_the_ca(out: Path) -> None:
    assert dev_pki("--out", out, "--days", "3651").exit_code == 2


def test_says_its_version() -> None:
    assert __version__ in dev_pki("--version").output


def test_runs_as_a_file(out: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "dev-pki", "--out", out],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr == ""
    assert {path.name for path in out.iterdir()} == FILES
