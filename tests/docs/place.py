"""Everything that can be wrong: files of all kinds, addresses in use, a process with few rights."""

from __future__ import annotations

import gzip
import os
import resource
import socket
import sqlite3
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from outrelay.lib.identity.certs import Credentials, PrivateKey
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from outrelay.lib.transport.quic import engines
from outrelay.tools.correlate.groups import MOST_FILES
from tests.docs.mistakes import TEXTS
from tests.support.pki import DAY, Hostile, TestPki, save, save_trust

NOBODY = 65534

Place = dict[str, str]


@contextmanager
def place_of(pki: TestPki) -> Iterator[Place]:
    """A folder of everything that can be wrong, which everybody may enter."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        here = Path(name)
        here.chmod(0o755)
        write_files(here, pki)
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        serve(here / "served", stack)
        web, others_tls = stack.enter_context(web_server()), stack.enter_context(tls_server(here))
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nobody = address_of(gone)
        yield {
            **{role: flags_of(here, role) for role in ("relay", "agent", "controller")},
            "here": name,
            "ca": f"{name}/ca.pem",
            "long": "x" * 120,
            "udp": address_of(udp),
            "tcp": address_of(tcp),
            "nobody": nobody,
            "web": web,
            "others_tls": others_tls,
            "many": "x " * (MOST_FILES + 1),
        }
        (here / "locked").chmod(0o755)


@contextmanager
def web_server(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Where something answers that is none of ours."""
    with ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address_of(server.socket)
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(BaseHTTPRequestHandler):
    """Answers that it knows nothing."""

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def tls_server(here: Path) -> AbstractContextManager[str]:
    """Where a certificate of our CA is presented that is not a controller's."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(here / "relay.pem", here / "relay.key")
    tls.set_alpn_protocols(["h2"])
    return web_server(tls)


def serve(path: Path, stack: ExitStack) -> None:
    """A unix socket that somebody listens at."""
    served = stack.enter_context(socket.socket(socket.AF_UNIX))
    served.bind(str(path))
    served.listen()


def write_files(here: Path, pki: TestPki) -> None:
    for stem, credentials in holders(pki).items():
        save(credentials, here / stem)
    save_trust(pki.trust, here / "ca.pem")
    save_trust(TestPki().trust, here / "other.pem")
    write_keys(here, pki.relay().private_key)
    for name, text in TEXTS.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    packed = gzip.compress(TEXTS["one.log"].encode())
    (here / "cut.gz").write_bytes(packed[:-9])
    (here / "damaged.gz").write_bytes(packed[:10] + b"damaged" + packed[17:])
    write_databases(here)


def holders(pki: TestPki) -> dict[str, Credentials]:
    """Whose certificates there are, by the names of their files."""
    controller = pki.controller().identity
    return {
        "relay": pki.relay(),
        "agent": pki.agent(),
        "controller": pki.controller(),
        "stranger": TestPki().operator(),
        "nobody": pki.hostile(Hostile.NO_URI),
        "expired": pki.hostile(Hostile.EXPIRED, role=Role.RELAY, usage=Usage.SERVER),
        "gone": pki.hostile(Hostile.EXPIRED, role=Role.OPERATOR),
        "early": pki.hostile(Hostile.NOT_YET_VALID, role=Role.RELAY, usage=Usage.SERVER),
        "late": pki.forge(
            controller,
            dns_names=("controller.outrelay.internal",),
            not_before=pki.now - 2 * DAY,
            not_after=pki.now - timedelta(seconds=1),
        ),
        "edwards": pki.forge(
            controller,
            dns_names=("controller.outrelay.internal",),
            private_key=ed25519.Ed25519PrivateKey.generate(),
        ),
        "two": pki.hostile(Hostile.TWO_URIS, role=Role.RELAY, usage=Usage.SERVER),
        "odd": pki.forge(pki.relay().identity, uris=("outrelay://local/cook/r1",)),
        "client": pki.forge(controller, usages=(Usage.CLIENT,)),
        "unnamed": pki.forge(controller, dns_names=("somebody.example",)),
    }


def write_keys(here: Path, key: PrivateKey) -> None:
    """Keys that cannot be used, beside one that can."""
    password = BestAvailableEncryption(b"secret")
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password)
    (here / "encrypted.key").write_bytes(encrypted)
    other = ed448.Ed448PrivateKey.generate()
    plain = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (here / "other.key").write_bytes(plain)
    (here / "locked.key").write_bytes(plain)
    (here / "locked.key").chmod(0)


def write_databases(here: Path) -> None:
    (here / "locked").mkdir()
    for name, statement in (
        ("foreign.db", "CREATE TABLE theirs (x)"),
        ("newer.db", "PRAGMA user_version = 999"),
        ("locked.db", "VACUUM"),
        ("locked/x.db", "VACUUM"),
    ):
        connection = sqlite3.connect(here / name)
        connection.execute(statement)
        connection.close()
    (here / "locked.db").chmod(0o444)
    (here / "locked" / "x.db").chmod(0o666)
    (here / "locked").chmod(0o555)


def flags_of(here: Path, role: str) -> str:
    return f"--cert {here}/{role}.pem --key {here}/{role}.key --ca {here}/ca.pem"


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be nobody for a while, where we are root."""
    resources.files("outrelay").is_dir()  # imports what nobody might not be able to read
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow beyond 8 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def without_native() -> Iterator[None]:
    """Have no native engine, wherever there is one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "native_fault", lambda: "No module named 'outrelay_native'")
        yield


CONDITIONS = {
    "unprivileged": unprivileged,
    "small-files": small_files,
    "without-native": without_native,
}
