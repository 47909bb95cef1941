"""The controller as a process: what it logs, how it stops, what it keeps, ``--check``."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from outrelay.lib.control.v1 import policy_pb2
from tests.controller.fleet.scripted import attach
from tests.controller.live import Stubs, options_for, policy_rule, refused, stubs
from tests.support.pki import TestPki
from tests.support.processes import Programs, run

WATCH = policy_pb2.WatchPoliciesRequest(tenant="acme")


def arguments(directory: Path, pki: TestPki) -> list[str]:
    options = options_for(directory, pki)
    return [
        "--listen", "127.0.0.1:0", "--db", options.db, "--cert", str(options.cert),
        "--key", str(options.key), "--ca", str(options.ca),
        "--admin-socket", str(options.admin_socket), "--listen-plaintext", "127.0.0.1:0",
    ]  # fmt: skip


async def rules(caller: Stubs) -> list[str]:
    answer = await caller.policy.ListPolicies(policy_pb2.ListPoliciesRequest(tenant="acme"))
    return [rule.id for rule in answer.rules]


def entries(directory: Path) -> list[Path]:
    return list(directory.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_when_it_serves_and_stops_with_watches_open(
    tmp_path: Path, number: signal.Signals
) -> None:
    pki = TestPki()
    async with Programs() as programs:
        process = await programs.start("outrelay-controller", *arguments(tmp_path, pki))
        host, port = await process.listening(listener="tls")
        assert host == "127.0.0.1"
        await process.event("ready")
        assert process.seen("listening", listener="admin", address=f"unix:{tmp_path}/admin.sock")
        (warning,) = process.seen(
            "plaintext listener: whoever reaches it is relay and operator of every tenant"
        )
        assert warning["level"] == "warning"
        target = f"{host}:{port}"
        async with stubs(target, credentials=pki.relay(), trust=pki.trust) as relay:
            watch = relay.policy.Watch(WATCH)
            await watch.read()
            attached = await attach(relay, "r1")
            process.send_signal(number)
            for call in (watch, attached):
                async with refused(grpc.StatusCode.UNAVAILABLE, "the controller is stopping"):
                    await call.read()
            assert await process.ended() == 0


async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    pki = TestPki()
    flags = arguments(tmp_path, pki)
    async with Programs() as programs:
        first = await programs.start("outrelay-controller", *flags)
        await first.event("ready")
        async with stubs(f"unix:{tmp_path}/admin.sock") as admin:
            request = policy_pb2.AddPolicyRequest(rule=policy_rule())
            added = [(await admin.policy.AddPolicy(request)).id for _ in range(20)]
            first.send_signal(signal.SIGKILL)
            await first.ended()
        second = await programs.start("outrelay-controller", *flags)
        await second.event("ready")
        async with stubs(f"unix:{tmp_path}/admin.sock") as admin:
            assert await rules(admin) == added


async def test_a_second_one_on_the_same_database_is_refused(tmp_path: Path) -> None:
    pki = TestPki()
    flags = arguments(tmp_path, pki)
    async with Programs() as programs:
        first = await programs.start("outrelay-controller", *flags)
        await first.event("ready")
        second = await run("outrelay-controller", *flags)
        assert second.code == 1
        assert "is used by another controller" in second.stderr
        assert len([line for line in second.stderr.splitlines() if "INFO" not in line]) == 1


async def test_check_tells_all_faults_at_once(tmp_path: Path) -> None:
    flags = arguments(tmp_path, TestPki())
    fine = await run("outrelay-controller", *flags, "--check")
    assert (fine.code, fine.stderr) == (0, "")
    bad = await run(
        "outrelay-controller", *flags, "--check",
        "--db", "postgresql://x", "--listen-plaintext", "0.0.0.0:0",
    )  # fmt: skip
    assert bad.code == 78
    assert len(bad.stderr.splitlines()) == 2


async def test_without_certificates_it_says_what_is_missing(tmp_path: Path) -> None:
    result = await run("outrelay-controller", cwd=tmp_path)
    assert result.code == 78
    assert "--cert, --key, --ca: missing, and needed for --listen 127.0.0.1:7444" in result.stderr
    assert not entries(tmp_path)


async def test_plaintext_and_memory_are_enough_to_try_it_out(tmp_path: Path) -> None:
    async with Programs() as programs:
        process = await programs.start(
            "outrelay-controller", "--listen", "", "--db", ":memory:",
            "--listen-plaintext", "127.0.0.1:0", cwd=tmp_path,
        )  # fmt: skip
        host, port = await process.listening(listener="plaintext")
        await process.event("ready")
        async with stubs(f"{host}:{port}") as caller:
            added = await caller.policy.AddPolicy(policy_pb2.AddPolicyRequest(rule=policy_rule()))
            assert await rules(caller) == [added.id]
        assert await process.stop() == 0
    assert not entries(tmp_path)
