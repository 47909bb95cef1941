"""The listeners: the admin socket's mode, ports, and the end of what they serve."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import grpc
import pytest

from outrelay.controller import listeners
from outrelay.controller.app import serving
from outrelay.controller.listeners import clear_socket
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.errors import ConfigError
from tests.controller.live import LiveController, live_controller, options_for, refused
from tests.support.pki import TestPki


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_admin_socket_is_its_users_alone(controller: LiveController) -> None:
    path = controller.options.admin_socket
    assert path is not None
    assert mode(path) == 0o600


async def test_the_admin_socket_is_so_from_the_moment_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever could change its mode later is switched off; the umask is back afterwards."""
    options = options_for(tmp_path, TestPki())
    before = os.umask(0o022)
    try:
        with monkeypatch.context() as patch:
            for name in ("chmod", "fchmod", "lchmod"):
                patch.delattr(os, name, raising=False)
            async with serving(options):
                assert mode(tmp_path / "admin.sock") == 0o600
                assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


async def test_the_admin_socket_is_gone_afterwards(tmp_path: Path) -> None:
    async with live_controller(tmp_path) as controller:
        path = controller.options.admin_socket
    assert path is not None
    assert not present(path)


def present(path: Path) -> bool:
    return path.exists()


async def test_stopping_ends_watches_with_unavailable(tmp_path: Path) -> None:
    async with live_controller(tmp_path) as controller:
        stubs_of = controller.as_relay()
        stubs = await stubs_of.__aenter__()
        watch = stubs.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme"))
        await watch.read()
    async with refused(grpc.StatusCode.UNAVAILABLE, "the controller is stopping"):
        await watch.read()
    await stubs_of.__aexit__(None, None, None)


async def test_a_socket_that_cannot_be_made_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is faster than us between the look and the bind."""
    monkeypatch.setattr(listeners, "clear_socket", lambda _path: None)
    monkeypatch.setattr(listeners, "LONGEST_SOCKET_PATH", 1000)
    long = tmp_path / ("d" * 120)
    long.mkdir()
    with pytest.raises(ConfigError, match="--admin-socket: cannot listen on"):
        async with live_controller(long):
            pass


def test_a_socket_that_may_not_be_looked_at_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_socket: object, _path: str) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    monkeypatch.setattr(socket.socket, "connect", denied)
    with pytest.raises(ConfigError, match="cannot be used: Permission denied"):
        clear_socket(path)
