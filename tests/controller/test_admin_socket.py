"""The admin socket: whose it is, who gets through it, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from outrelay.controller import admin_socket
from outrelay.controller.admin_socket import (
    clear_socket,
    inner_directory,
    inner_socket,
    open_door,
)
from outrelay.controller.app import serving
from outrelay.lib.control.v1 import audit_pb2, policy_pb2
from outrelay.lib.errors import ConfigError
from tests.controller.live import LiveController, live_controller, options_for, policy_rule
from tests.support.events import events
from tests.support.pki import TestPki

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def socket_of(controller: LiveController) -> Path:
    assert controller.options.admin_socket is not None
    return controller.options.admin_socket


class TestFiles:
    async def test_it_is_its_users_alone_and_so_is_what_is_behind_it(
        self, controller: LiveController
    ) -> None:
        path = socket_of(controller)
        assert mode(path) == 0o600
        assert mode(inner_socket(path)) == 0o600
        assert mode(inner_socket(path).parent) == 0o700

    async def test_so_from_the_moment_they_exist(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever could change a mode later is switched off; the umask is back afterwards."""
        options = options_for(tmp_path, TestPki())
        path = tmp_path / "admin.sock"
        before = os.umask(0o022)
        try:
            with monkeypatch.context() as patch:
                for name in ("chmod", "fchmod", "lchmod"):
                    patch.delattr(os, name, raising=False)
                async with serving(options):
                    assert mode(path) == mode(inner_socket(path)) == 0o600
                    assert os.umask(0o022) == 0o022
        finally:
            os.umask(before)

    async def test_nothing_is_left_of_them(self, tmp_path: Path) -> None:
        async with live_controller(tmp_path) as controller:
            path = socket_of(controller)
        assert not [each.name for each in path.parent.iterdir() if "sock" in each.name]

    async def test_what_a_killed_controller_left_is_no_obstacle(self, tmp_path: Path) -> None:
        path = tmp_path / "admin.sock"
        inner_socket(path).parent.mkdir(mode=0o700)
        for left in (path, inner_socket(path)):
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(left))
        async with live_controller(tmp_path) as controller, controller.admin() as stubs:
            await stubs.policy.ListPolicies(policy_pb2.ListPoliciesRequest(tenant="acme"))

    @pytest.mark.parametrize("what", ["a file", "a link", "open to others"])
    def test_a_directory_that_is_not_ours_alone_is_refused(self, tmp_path: Path, what: str) -> None:
        inner = inner_socket(tmp_path / "admin.sock").parent
        if what == "a file":
            inner.touch()
        elif what == "a link":
            inner.symlink_to(tmp_path)
        else:
            inner.mkdir(mode=0o755)
        with (
            pytest.raises(ConfigError, match=r"\.admin\.sock"),
            inner_directory(tmp_path / "admin.sock"),
        ):
            pass

    async def test_a_socket_that_cannot_be_made_is_a_config_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody is faster than us between the look and the bind."""
        (tmp_path / "admin.sock").touch()
        monkeypatch.setattr("outrelay.controller.listeners.clear_socket", lambda _path: None)
        with pytest.raises(ConfigError, match=r"--admin-socket: .* cannot be made: Address"):
            async with live_controller(tmp_path):
                pass

    def test_a_socket_that_may_not_be_looked_at_is_a_config_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(_socket: object, _path: str) -> None:
            raise PermissionError(13, "Permission denied")

        path = tmp_path / "x.sock"
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
        monkeypatch.setattr(socket.socket, "connect", denied)
        with pytest.raises(ConfigError, match="cannot be used: Permission denied"):
            clear_socket(path)


@pytest.mark.both_loops
class TestCallers:
    async def test_who_comes_and_goes_leaves_no_fault(self, tmp_path: Path) -> None:
        with events() as seen:
            async with live_controller(tmp_path) as controller:
                for _ in range(5):
                    async with controller.admin() as stubs:
                        watch = stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme"))
                        await watch.read()
                    with socket.socket(socket.AF_UNIX) as rude:
                        rude.connect(str(socket_of(controller)))
                        rude.send(b"GET / HTTP/1.0")
        assert not seen.of("task failed")

    async def test_large_answers_and_watches_come_through(self, controller: LiveController) -> None:
        rules = [policy_rule(id=f"{n:04}", caller_pattern="x" * 1000) for n in range(1000)]
        async with controller.admin() as stubs:
            watch = stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme"))
            await watch.read()
            trail = stubs.audit.Query(audit_pb2.QueryAuditRequest(tenant="acme", follow=True))
            await stubs.policy.ReplacePolicies(
                policy_pb2.ReplacePoliciesRequest(tenant="acme", rules=rules), timeout=20
            )
            listed = await stubs.policy.ListPolicies(policy_pb2.ListPoliciesRequest(tenant="acme"))
            assert [rule.id for rule in listed.rules] == [rule.id for rule in rules]
            for rule in rules:
                event = await watch.read()
                assert isinstance(event, policy_pb2.PolicyEvent)
                assert event.rule.id == rule.id
            trail.cancel()

    async def test_another_uid_is_closed_before_anything_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "door"
        with events() as seen:
            async with open_door(path, uids=frozenset({NOBODY})):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"PRI * HTTP/2.0")
                assert await end_of(reader) == b""
                writer.close()
            [line] = seen.of("caller of the admin socket refused")
        assert line["uid"] == os.geteuid()

    @pytest.mark.root
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
    async def test_somebody_else_does_not_get_in_however_open_the_files_are(self) -> None:
        call = (
            "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            "s.connect(sys.argv[1]); sys.exit(len(s.recv(1)))"
        )
        with tempfile.TemporaryDirectory() as name, events() as seen:
            door = Path(name) / "door"
            async with open_door(door):
                open_to_everybody(door)
                run = asyncio.create_subprocess_exec(sys.executable, "-c", call, f"{name}/door")
                assert await (await run).wait() == 0
                await seen.wait("caller of the admin socket refused", uid=NOBODY)

    async def test_who_calls_while_nobody_serves_is_closed(self, tmp_path: Path) -> None:
        async with open_door(tmp_path / "door"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "door")
            assert await end_of(reader) == b""
            writer.close()

    async def test_a_process_without_files_goes_on_when_it_has_some(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin_socket, "AFTER_FAULT", 0.01)
        loop = asyncio.get_running_loop()
        accept, faults = loop.sock_accept, iter([OSError(24, "Too many open files")])

        async def accept_later(door: socket.socket) -> object:
            for fault in faults:
                raise fault
            return await accept(door)

        monkeypatch.setattr(loop, "sock_accept", accept_later)
        async with open_door(tmp_path / "door", uids=frozenset()):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "door")
            assert await end_of(reader) == b""
            writer.close()


def open_to_everybody(path: Path) -> None:
    path.chmod(0o666)
    path.parent.chmod(0o755)


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end, which may be a reset."""
    try:
        return await reader.read()
    except OSError:
        return b""
