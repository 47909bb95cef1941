"""``dev-pki``: a CA and a certificate for everybody, to try OutRelay out with.

Not for production: the CA's key lies beside the rest, and nothing is renewed; enrolment is
what does both. Keys are readable by their owner alone from the moment they exist, and
nothing is overwritten unless asked.

Source: commands.md, "dev-pki"; control-plane.md, "Enrollment".
"""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from outrelay import __version__
from outrelay.lib import advice
from outrelay.lib.errors import ConfigError, OutRelayError
from outrelay.lib.identity.certs import Credentials, private_key_pem
from outrelay.lib.identity.issue import Authority, create_authority
from outrelay.lib.identity.uri import Identity, Role, is_label
from outrelay.lib.options import ParsedType
from outrelay.lib.service import EXIT_FAILED
from outrelay.lib.usage import OneLine

REGION: Final = "local"
"""The relay's default region."""
WORKLOADS: Final = ("controller", "relay", "agent-a", "agent-b")
"""Those who run in a cluster and find their credentials in a Secret."""

_PUBLIC: Final = 0o644
_PRIVATE: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class DevPki:
    """A CA and those it vouches for, by the stem of their files."""

    authority: Authority
    holders: Mapping[str, Credentials]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Something to write."""

    name: str
    data: bytes
    mode: int


def create(*, tenant: str, relay_id: str, now: datetime, lifetime: timedelta) -> DevPki:
    """A new CA and new credentials for controller, relay, two agents and an operator.

    Args:
        tenant: The agents' and the operator's.
        relay_id: The relay's name in the region ``local``.
        now: An aware time.
        lifetime: How long the leaf certificates last.
    """
    authority = create_authority(now=now)
    identities = {
        "controller": Identity(realm=REGION, role=Role.CONTROLLER, name="c1"),
        "relay": Identity(realm=REGION, role=Role.RELAY, name=relay_id),
        "agent-a": Identity(realm=tenant, role=Role.AGENT, name=str(uuid.uuid4())),
        "agent-b": Identity(realm=tenant, role=Role.AGENT, name=str(uuid.uuid4())),
        "operator": Identity(realm=tenant, role=Role.OPERATOR, name="admin"),
    }
    holders = {
        stem: authority.credentials(identity, now=now, lifetime=lifetime)
        for stem, identity in identities.items()
    }
    return DevPki(authority=authority, holders=holders)


def write(pki: DevPki, folder: Path, *, namespace: str, force: bool = False) -> None:
    """Write every certificate, every key and ``secrets.yaml``.

    Args:
        pki: What to write.
        folder: Where to; made if absent.
        namespace: The Kubernetes namespace of the Secrets.
        force: Replace what is there.

    Raises:
        ConfigError: A file exists already (then nothing is written), or cannot be written.
    """
    files = list(_files(pki, namespace))
    present = [file.name for file in files if os.path.lexists(folder / file.name)]
    if present and not force:
        raise ConfigError(
            str(folder),
            f"holds {present[0]} already",
            "choose another --out, or replace the whole set with --force",
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in files:
            _write(folder / file.name, file.data, file.mode)
    except OSError as error:
        fault = f"cannot be written: {error.strerror}"
        raise ConfigError(str(folder), fault, advice.on_file(error)) from error


def _files(pki: DevPki, namespace: str) -> Iterator[File]:
    yield File(name="ca.pem", data=pki.authority.trust.pem, mode=_PUBLIC)
    yield File(name="ca.key", data=private_key_pem(pki.authority.private_key), mode=_PRIVATE)
    for stem, credentials in pki.holders.items():
        yield File(name=f"{stem}.pem", data=credentials.certificate_pem, mode=_PUBLIC)
        yield File(name=f"{stem}.key", data=credentials.private_key_pem, mode=_PRIVATE)
    yield File(name="secrets.yaml", data=_secrets(pki, namespace).encode(), mode=_PRIVATE)


def _write(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    # Made new, with its mode: nobody holds it open already, and it is no link to elsewhere.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _secrets(pki: DevPki, namespace: str) -> str:
    """One Secret for each workload, under the key names that cert-manager uses too."""
    return "---\n".join(
        _SECRET.format(
            name=f"outrelay-{stem}",
            namespace=namespace,
            ca=_base64(pki.authority.trust.pem),
            certificate=_base64(pki.holders[stem].certificate_pem),
            key=_base64(pki.holders[stem].private_key_pem),
        )
        for stem in WORKLOADS
    )


_SECRET: Final = """\
apiVersion: v1
kind: Secret
metadata:
  name: {name}
  namespace: {namespace}
type: kubernetes.io/tls
data:
  ca.crt: {ca}
  tls.crt: {certificate}
  tls.key: {key}
"""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- the command ---------------------------------------------------------------------------


def _parse_label(text: str) -> str:
    if not is_label(text):
        raise ValueError(f"{text!r} is not a name; use a-z, 0-9 and -, at most 63 of them")
    return text


_LABEL: Final = ParsedType("name", _parse_label)


@click.command("dev-pki", cls=OneLine, context_settings={"show_default": True})
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=".dev-pki",
    help="Folder to write to.",
)
@click.option("--tenant", type=_LABEL, default="acme", help="Tenant of the agents and operator.")
@click.option("--relay-id", type=_LABEL, default="r1", help="Name of the relay.")
@click.option("--namespace", type=_LABEL, default="outrelay", help="Namespace in secrets.yaml.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    help="How long the certificates last; the CA lasts ten years.",
)
@click.option("--force", is_flag=True, help="Replace what is there, the CA too.")
@click.version_option(__version__)
def main(out: Path, tenant: str, relay_id: str, namespace: str, days: int, force: bool) -> None:
    """Make a CA, and certificates for a controller, a relay, two agents and an operator.

    They are for trying OutRelay out: whoever can read the folder can be anybody.
    """
    pki = create(
        tenant=tenant, relay_id=relay_id, now=datetime.now(UTC), lifetime=timedelta(days=days)
    )
    try:
        write(pki, out, namespace=namespace, force=force)
    except OutRelayError as error:
        click.echo(f"dev-pki: {error}", err=True)
        raise SystemExit(EXIT_FAILED) from error
    click.echo(_summary(pki, out))


def _summary(pki: DevPki, folder: Path) -> str:
    rows = "\n".join(
        f"  {stem:<12}{credentials.identity}" for stem, credentials in pki.holders.items()
    )
    consumer = pki.holders["agent-a"].identity
    ends = datetime.fromtimestamp(pki.holders["relay"].expires, UTC)
    return _SUMMARY.format(
        folder=folder, rows=rows, ends=f"{ends:%Y-%m-%d}", tenant=consumer.realm, consumer=consumer
    )


_SUMMARY: Final = """\
Wrote to {folder}: ca.pem, secrets.yaml, and a .pem and a .key for each of

{rows}

They end on {ends}. Next, in that folder, each in a terminal of its own:

  outrelay-controller --cert controller.pem --key controller.key --ca ca.pem
  outrelay-relay --cert relay.pem --key relay.key --ca ca.pem
  outrelay-agent --cert agent-b.pem --key agent-b.key --ca ca.pem --expose web=127.0.0.1:8080
  outrelay-agent --cert agent-a.pem --key agent-a.key --ca ca.pem --consume web@127.0.0.1:9000 \\
    --debug-listen 127.0.0.1:9103

and let agent-a call the service that agent-b exposes:

  outrelay-cli --cert operator.pem --key operator.key --ca ca.pem policy add \\
    --tenant {tenant} --caller {consumer} \\
    --target web --decision allow
  curl http://127.0.0.1:9000/"""
