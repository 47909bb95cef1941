"""A path between two namespaces does to packets what it is told, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrelay.tools.bench import path as laid
from outrelay.tools.bench.path import Path as Way
from outrelay.tools.bench.wire import Impairment

pytestmark = pytest.mark.netlab

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.bind(("", 0))
    print(here.getsockname()[1], flush=True)
    while True:
        here.sendto(*here.recvfrom(9000))
"""
ASK = """
import json, socket, sys, time
host, port, size, count = sys.argv[1], *map(int, sys.argv[2:])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.connect((host, port))
    here.settimeout(30)
    began = time.monotonic()
    for _ in range(count):
        here.send(bytes(size))
        here.recv(9000)
    print(json.dumps(time.monotonic() - began))
"""


@pytest.fixture
def way() -> Iterator[Way]:
    if reason := laid.missing():
        pytest.skip(reason)
    with laid.path() as way:
        yield way


@pytest.fixture
def port(way: Way) -> Iterator[int]:
    """Where datagrams are sent back, near."""
    with subprocess.Popen(
        [*way.near.within, sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def asked(way: Way, port: int, size: int, count: int) -> float:
    """Seconds until so many datagrams were sent from afar and came back, one after the other."""
    asking = [way.near.address, *map(str, (port, size, count))]
    done = subprocess.run(
        [*way.far.within, sys.executable, "-c", ASK, *asking],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout))


def test_packets_are_late_by_the_delay_each_way(way: Way, port: int) -> None:
    way.become(Impairment(delay=0.05))
    assert asked(way, port, 100, 3) >= 0.3
    counts = way.become(Impairment())
    assert counts["up"]["passed"] >= 3
    assert counts["down"]["passed"] >= 3


def test_datagrams_are_cut_before_packets_are_counted(way: Way, port: int) -> None:
    way.become(Impairment())
    asked(way, port, 4000, 1)
    counts = way.become(Impairment())
    assert counts["up"]["passed"] >= 3
    assert counts["up"]["largest"] == 1500


def test_what_is_lost_does_not_arrive(way: Way, port: int) -> None:
    way.become(Impairment(loss=1.0))
    code = "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('{}', 9))"
    sending = [sys.executable, "-c", code.format(way.near.address)]
    subprocess.run([*way.far.within, *sending], check=True)
    while not way.become(Impairment(loss=1.0))["up"]["lost"]:
        pass


def test_nothing_is_left_behind(way: Way) -> None:
    before = set(Path("/run/netns").iterdir())
    with pytest.raises(ValueError, match="broke"), laid.path():
        raise ValueError("broke")
    assert set(Path("/run/netns").iterdir()) == before


def test_a_path_that_cannot_be_laid_says_why(way: Way) -> None:
    with pytest.raises(laid.PathFailedError, match="ip netns add"), laid._end("/", "10.0.0.1"):
        pass


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert laid.missing() == "an impaired path needs root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(laid, "_PATH", str(tmp_path))
    assert laid.missing() == "not installed: iproute2"
    (tmp_path / "tcp_available_congestion_control").write_text("reno bbr\n")
    monkeypatch.setattr(laid, "_TCP", tmp_path)
    assert laid.missing() == "this kernel has no Cubic to compare with"
    monkeypatch.setattr(laid, "_TUN", tmp_path / "tun")
    assert laid.missing() == f"there is no {tmp_path}/tun"
