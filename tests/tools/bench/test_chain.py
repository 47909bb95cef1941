"""The chain of other people's programs carries the load, and is gone afterwards."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from outrelay.tools import dev_pki
from outrelay.tools.bench import chain
from outrelay.tools.bench.chain import ChainFailedError


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """What dev-pki writes."""
    made = dev_pki.create(
        tenant="acme", relay_id="r1", now=datetime.now(UTC), lifetime=timedelta(days=1)
    )
    dev_pki.write(made, tmp_path / "pki", namespace="outrelay")
    return tmp_path / "pki"


@pytest.mark.skipif(bool(chain.missing()), reason="needs stunnel and haproxy")
def test_bytes_go_through(tmp_path: Path, pki: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as backend,
        chain.chain(tmp_path, pki, backend.getsockname()) as running,
    ):
        with socket.create_connection(running.address, timeout=5) as client:
            client.sendall(b"question")
            accepted, _ = backend.accept()
            with accepted:
                accepted.settimeout(5)
                assert accepted.recv(100) == b"question"
        assert set(running.pids) == {"consumer", "relay", "provider"}
        pids = list(running.pids.values())
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.skipif(bool(chain.missing()), reason="needs stunnel and haproxy")
def test_a_program_that_does_not_start_is_told(tmp_path: Path, pki: Path) -> None:
    (pki / "agent-b.key").unlink()
    with (
        pytest.raises(ChainFailedError, match="stunnel does not listen"),
        chain.chain(tmp_path, pki, ("127.0.0.1", 1)),
    ):
        raise AssertionError
