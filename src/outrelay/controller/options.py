"""What the controller is told, and what can be wrong with it.

Source: commands.md, outrelay-controller.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from outrelay.controller.admin_socket import clear_socket
from outrelay.controller.store import IN_MEMORY
from outrelay.lib import advice
from outrelay.lib.checks import faults_of, try_bind
from outrelay.lib.control.channel import CONTROLLER_NAME
from outrelay.lib.errors import ConfigError, IdentityError
from outrelay.lib.identity.certs import Credentials, Trust, load_credentials, load_trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.insight import UNSEEN, Insight, insight_faults
from outrelay.lib.values import Address, address_text

DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOptions:
    """What the controller is told.

    Args:
        listen: Where mutual TLS is served; None: nowhere.
        db: The database file, or ``:memory:``.
        cert: Our certificate; needed for ``listen``, like ``key`` and ``ca``.
        key: Its key.
        ca: The CAs that callers are verified by.
        listen_plaintext: Where callers without TLS are served; None: nowhere.
        trust_plaintext_network: Allow that to be another address than loopback.
        admin_socket: Where the admin socket is made; None: nowhere.
        audit_retention: Seconds that audit events are kept.
        insight: Where it can be looked into.
    """

    listen: Address | None
    db: str
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    listen_plaintext: Address | None = None
    trust_plaintext_network: bool = False
    admin_socket: Path | None = None
    audit_retention: float = 90 * DAY
    insight: Insight = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where it stands what the TLS listener proves who we are with, and whom it believes."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """What the TLS listener proves who we are with, and whom it believes."""

    files: TlsFiles
    credentials: Credentials
    trust: Trust


def check(options: ControllerOptions) -> Iterable[str]:
    """What is at fault with the options, one line each."""
    steps: list[Callable[[], object]] = [
        lambda: check_listeners(options),
        lambda: check_database(options.db),
        lambda: load_identity(options),
    ]
    for flag, address in (
        ("--listen", options.listen),
        ("--listen-plaintext", options.listen_plaintext),
    ):
        if address:
            steps.append(partial(try_bind, flag, address, udp=False))
    if path := options.admin_socket:
        steps.append(partial(clear_socket, path))
    return [*faults_of(*steps), *insight_faults(options.insight)]


def check_listeners(options: ControllerOptions) -> None:
    """Make sure that there is a listener, and none that opens the doors to a network.

    Raises:
        ConfigError: There is none, or one that does.
    """
    if not (options.listen or options.listen_plaintext or options.admin_socket):
        raise ConfigError("--listen", "is empty and there is no other listener", "give one")
    address = options.listen_plaintext
    if address and not options.trust_plaintext_network and not _is_loopback(address[0]):
        raise ConfigError(
            "--listen-plaintext",
            f"{address_text(address)} is not a loopback address, and whoever reaches it rules"
            " every tenant",
            "give a loopback address, or --trust-plaintext-network if you mean it",
        )


def check_database(path: str) -> None:
    """Make sure that ``path`` names what the store can open.

    Raises:
        ConfigError: It does not.
    """
    if path == IN_MEMORY:
        return
    if "://" in path:
        raise ConfigError("--db", f"{path.partition(':')[0]} is not supported", "give a file")
    file = Path(path)
    try:
        is_folder, has_folder = file.is_dir(), file.absolute().parent.is_dir()
    except OSError as error:
        fault = f"{path} cannot be looked at: {error.strerror}"
        raise ConfigError("--db", fault, advice.on_file(error)) from error
    if is_folder:
        raise ConfigError("--db", f"{path} is a directory", "give a file in it")
    if not has_folder:
        raise ConfigError("--db", f"{path} is in a directory that does not exist", "make it first")


def load_identity(options: ControllerOptions) -> TlsIdentity | None:
    """What the TLS listener needs; None when there is none.

    Raises:
        ConfigError: A file is missing, or clients would refuse our certificate.
    """
    if options.listen is None:
        return None
    missing = [name for name in ("cert", "key", "ca") if getattr(options, name) is None]
    if options.cert is None or options.key is None or options.ca is None:
        raise ConfigError(
            ", ".join(f"--{name}" for name in missing),
            f"missing, and needed for --listen {address_text(options.listen)}",
            "give all three, or --listen '' to serve no TLS",
        )
    return read_identity(TlsFiles(cert=options.cert, key=options.key, ca=options.ca))


def read_identity(files: TlsFiles) -> TlsIdentity:
    """What the TLS listener needs, as it is in its files now.

    Raises:
        ConfigError: A file is missing, or clients would refuse our certificate.
    """
    credentials, trust = load_credentials(files.cert, files.key), load_trust(files.ca)
    try:
        verify_peer(
            (credentials.certificate, *credentials.chain),
            trust,
            usage=Usage.SERVER,
            roles=(Role.CONTROLLER,),
            server_name=CONTROLLER_NAME,
            now=datetime.now(UTC),
        )
    except IdentityError as error:
        raise IdentityError(str(files.cert), error.fault, "clients would refuse it") from error
    if isinstance(credentials.private_key, ed25519.Ed25519PrivateKey):
        fault = "is an Ed25519 key, which gRPC's TLS does not know"
        raise IdentityError(str(files.key), fault, "use one of EC P-256")
    return TlsIdentity(files=files, credentials=credentials, trust=trust)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
