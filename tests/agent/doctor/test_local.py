"""What the doctor says of files and backends."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from outrelay.agent.doctor import local
from outrelay.agent.doctor.findings import Mark
from outrelay.agent.options import Expose
from outrelay.lib.identity.verify import Usage
from outrelay.lib.values import Address
from tests.agent.tcp import HOST
from tests.support.pki import DAY, Hostile, TestPki
from tests.support.ports import unused_port

PKI = TestPki(now=datetime.now(UTC).replace(microsecond=0))  # as certificates tell time


def test_a_good_certificate_tells_whose_it_is_and_how_long_it_lasts() -> None:
    agent = PKI.agent()
    finding = local.certificate(agent, PKI.trust, PKI.now)
    assert finding.mark is Mark.OK
    assert finding.text == f"{agent.identity}, valid for 24 h more"


@pytest.mark.parametrize(
    ("left", "text"),
    [(timedelta(hours=5), "5 h"), (timedelta(minutes=40), "40 min")],
)
def test_a_certificate_near_its_end_is_a_warning(left: timedelta, text: str) -> None:
    finding = local.certificate(PKI.agent(), PKI.trust, PKI.now + DAY - left)
    assert (finding.mark, finding.advice[:8]) == (Mark.WARN, "renew it")
    assert f"valid for {text} more" in finding.text


def test_a_long_life_is_told_in_days() -> None:
    agent = PKI.issue(PKI.agent().identity, lifetime=10 * DAY)
    assert "valid for 10 days more" in local.certificate(agent, PKI.trust, PKI.now).text


@pytest.mark.parametrize("kind", [Hostile.WRONG_CA, Hostile.EXPIRED, Hostile.WRONG_USAGE])
def test_a_certificate_no_relay_accepts_fails(kind: Hostile) -> None:
    agent = PKI.agent()
    role = agent.identity.role
    liar = PKI.hostile(kind, role=role, usage=Usage.CLIENT)
    finding = local.certificate(liar, PKI.trust, PKI.now)
    assert finding.mark is Mark.FAIL
    assert finding.advice


def test_a_key_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    key = tmp_path / "agent.key"
    key.touch(0o600)
    assert list(local.key_file(key)) == []
    key.chmod(0o640)
    (finding,) = local.key_file(key)
    assert (finding.mark, finding.advice) == (Mark.WARN, f"chmod 600 {key}")


async def test_backends_are_tried() -> None:
    with socket.create_server((HOST, 0)) as server:
        there = await local.backend(expose(server.getsockname()))
    assert there.mark is Mark.OK
    gone = await local.backend(expose((HOST, unused_port())))
    assert gone.mark is Mark.FAIL
    assert "refused" in gone.text
    nameless = await local.backend(expose(("no-such-name.invalid", 1)))
    assert nameless.mark is Mark.FAIL
    assert "no address" in nameless.text


async def test_a_backend_that_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BACKEND_LIMIT", 0.05)
    with socket.create_server((HOST, 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        finding = await local.backend(expose(full.getsockname()))
        for each in fillers:
            each.close()
    assert finding.mark is Mark.FAIL
    assert "does not answer" in finding.text


def expose(target: Address) -> Expose:
    return Expose(service="db", target=target)
