"""The chain people would build without us: stunnel, HAProxy, stunnel, mutual TLS between them.

    load -> stunnel (our consumer) -> HAProxy (our relay) -> stunnel (our provider) -> backend

The programs come from Debian's packages; where they are missing the chain is left out of the
comparison. Each hop verifies the other's certificate by the deployment's own CA; stunnel
opens a TLS connection for each one it accepts, which is what such chains do.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address, address_text

PROGRAMS = ("stunnel", "haproxy")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_LOOPBACK = "127.0.0.1"
_START_TIMEOUT = 5.0
_GLANCE = 0.02

_STUNNEL = """\
foreground = yes
pid =
syslog = no
debug = err
[hop]
client = {client}
accept = {accept}
connect = {connect}
{tls}"""

_STUNNEL_TLS = """\
cert = {pki}/{holder}.pem
key = {pki}/{holder}.key
CAfile = {pki}/ca.pem
verifyChain = yes
sslVersionMin = TLSv1.3
"""

_HAPROXY = """\
global
    log /dev/null local0
defaults
    mode tcp
    timeout connect 5s
    timeout client 5m
    timeout server 5m
frontend in
    bind {accept} ssl crt {own} ca-file {ca} verify required ssl-min-ver TLSv1.3
    default_backend out
backend out
    server provider {connect} ssl crt {own} ca-file {ca} verify required ssl-min-ver TLSv1.3
"""


class ChainFailedError(OutRelayError):
    """A program of the chain did not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain that runs.

    Args:
        address: Where the load connects.
        pids: Its processes, named as ours are.
    """

    address: Address
    pids: Mapping[str, int]


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextmanager
def chain(directory: Path, pki: Path, backend: Address) -> Iterator[Chain]:
    """A chain to ``backend``, gone after the ``with``.

    Args:
        directory: Where its configuration goes.
        pki: What dev-pki wrote.
        backend: Where the load's backend listens.

    Raises:
        ChainFailedError: One of the programs did not start.
    """
    entry, relay, exit_ = (_free_port() for _ in range(3))
    tls = {name: _STUNNEL_TLS.format(pki=pki, holder=name) for name in ("agent-a", "agent-b")}
    own = directory / "relay-both.pem"
    own.write_bytes((pki / "relay.pem").read_bytes() + (pki / "relay.key").read_bytes())
    own.chmod(0o600)
    texts = {
        "provider": _STUNNEL.format(
            client="no",
            accept=address_text(exit_),
            connect=address_text(backend),
            tls=tls["agent-b"],
        ),
        "relay": _HAPROXY.format(
            accept=address_text(relay), connect=address_text(exit_), own=own, ca=pki / "ca.pem"
        ),
        "consumer": _STUNNEL.format(
            client="yes",
            accept=address_text(entry),
            connect=address_text(relay),
            tls=tls["agent-a"],
        ),
    }
    ports = {"provider": exit_, "relay": relay, "consumer": entry}
    with ExitStack() as stack:
        pids = {
            name: stack.enter_context(_running(name, text, ports[name], directory))
            for name, text in texts.items()
        }
        yield Chain(address=entry, pids=pids)


@contextmanager
def _running(name: str, text: str, address: Address, directory: Path) -> Iterator[int]:
    """One program of the chain, as soon as it listens; its pid."""
    program = "haproxy" if name == "relay" else "stunnel"
    path, log = directory / f"chain-{name}.cfg", directory / f"chain-{name}.log"
    path.write_text(text)
    found = shutil.which(program, path=_PATH)
    assert found is not None
    flags = ["-db", "-f", str(path)] if program == "haproxy" else [str(path)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [found, *flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        ) as process,
    ):
        try:
            _wait_for(address, process, program, log)
            yield process.pid
        finally:
            process.kill()


def _wait_for(address: Address, process: subprocess.Popen[bytes], program: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not _listens(address):
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ChainFailedError(f"{program} does not listen: {' '.join(last)}")
        time.sleep(_GLANCE)


def _listens(address: Address) -> bool:
    """Whether somebody does, told without connecting: a connection would reach the backend."""
    wanted = f"{socket.htonl(0x7F000001):08X}:{address[1]:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in lines)


def _free_port() -> Address:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return (_LOOPBACK, int(probe.getsockname()[1]))
