"""A long and lossy path between two network namespaces, for any protocol over IP.

    with path() as way:
        way.become(Impairment(delay=0.05, loss=0.001))
        subprocess.run([*way.near.within, "..."])

What runs *near* and *far* has one network, the path, and a loopback of its own. Packets are
delayed and lost by ``wire``, in user space: not every kernel can do it, and this is the same
for kernels that can. It takes root. Everything is gone after the ``with``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path as File

from outrelay.lib.errors import OutRelayError
from outrelay.tools.bench.wire import Impairment

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_TUN = File("/dev/net/tun")
_TCP = File("/proc/sys/net/ipv4")
_WIRE = (sys.executable, "-m", "outrelay.tools.bench.wire")
_NETWORK = "10.77.0"
_LINK = "wan"
_QUEUE = 20_000
"""Packets that may wait for the wire; it must never be the one that drops them."""
_PATIENCE = 20.0
Counts = Mapping[str, Mapping[str, float]]
"""What became of packets: by direction, what ``wire.Count`` has."""


class PathFailedError(OutRelayError):
    """The path could not be laid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of the path.

    Args:
        within: What to put before a command that is to run there.
        address: Where the other end finds it.
    """

    within: Sequence[str]
    address: str


class Path:
    """A path that is laid; ``path`` makes it."""

    def __init__(self, near: End, far: End, wire: subprocess.Popen[str]) -> None:
        self.near = near
        self.far = far
        self._wire = wire

    def become(self, impairment: Impairment) -> Counts:
        """Do that to packets from now on; what became of those until now."""
        assert self._wire.stdin is not None
        print(json.dumps(asdict(impairment)), file=self._wire.stdin, flush=True)
        counts: Counts = json.loads(_answer(self._wire))
        return counts


def missing() -> str:
    """What keeps a path from being laid here; empty when nothing does."""
    if os.geteuid() != 0:
        return "an impaired path needs root"
    if not _TUN.exists():
        return f"there is no {_TUN}"
    if "cubic" not in (_TCP / "tcp_available_congestion_control").read_text().split():
        return "this kernel has no Cubic to compare with"
    return "" if shutil.which("ip", path=_PATH) else "not installed: iproute2"


@contextmanager
def path() -> Iterator[Path]:
    """A path that does nothing to packets yet, gone after the ``with``.

    Raises:
        PathFailedError: It could not be laid.
    """
    name = f"orb{secrets.token_hex(4)}"
    devices = f"{name}-n", f"{name}-f"
    with ExitStack() as stack:
        wire = stack.enter_context(_running(devices))
        near, far = (
            stack.enter_context(_end(device, f"{_NETWORK}.{number}"))
            for number, device in enumerate(devices, 1)
        )
        stack.callback(wire.kill)  # before its devices go
        yield Path(near, far, wire)


@contextmanager
def _running(devices: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*_WIRE, *devices],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            _answer(process)
            yield process
        finally:
            process.kill()


def _answer(wire: subprocess.Popen[str]) -> str:
    assert wire.stdout is not None
    if line := wire.stdout.readline():
        return line
    raise PathFailedError("the wire between the namespaces ended")


@contextmanager
def _end(device: str, address: str) -> Iterator[End]:
    """A namespace with a loopback and the device."""
    _ip(f"netns add {device}")
    try:
        _ip(f"link set {device} netns {device}")
        inside = f"-n {device}"
        _ip(f"{inside} link set {device} name {_LINK} txqueuelen {_QUEUE}")
        _ip(f"{inside} addr add {address}/24 dev {_LINK}")
        for link in ("lo", _LINK):
            _ip(f"{inside} link set {link} up")
        within = ("ip", "netns", "exec", device)
        # What one transfer has learned of the path would help the next one.
        _run(*within, "sh", "-c", f"echo 1 > {_TCP}/tcp_no_metrics_save")
        yield End(within=within, address=address)
    finally:
        _ip(f"netns del {device}")


def _ip(command: str) -> None:
    _run("ip", *command.split())


def _run(*command: str) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
        env={**os.environ, "PATH": _PATH},
    )
    if done.returncode:
        raise PathFailedError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
