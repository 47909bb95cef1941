"""What can be wrong with the controller's options, found by ``--check`` and at the start."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from outrelay.controller.app import serving
from outrelay.controller.options import ControllerOptions, check, load_identity
from outrelay.lib.control.channel import CONTROLLER_NAME
from outrelay.lib.errors import ConfigError
from outrelay.lib.identity.uri import Role
from tests.controller.live import options_for
from tests.support.pki import TestPki, save


@pytest.fixture
def pki() -> TestPki:
    return TestPki()


@pytest.fixture
def options(tmp_path: Path, pki: TestPki) -> ControllerOptions:
    return options_for(tmp_path, pki)


def faults(options: ControllerOptions, **changes: object) -> list[str]:
    return list(check(dataclasses.replace(options, **changes)))  # type: ignore[arg-type]


def test_good_ones_have_no_fault(options: ControllerOptions) -> None:
    assert faults(options) == []
    assert faults(options, db=":memory:", listen_plaintext=None, admin_socket=None) == []


def test_a_listener_there_must_be(options: ControllerOptions) -> None:
    (fault,) = faults(options, listen=None, listen_plaintext=None, admin_socket=None)
    assert "--listen: is empty and there is no other listener" in fault


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.net", "::"])
def test_plaintext_is_for_loopback(options: ControllerOptions, host: str) -> None:
    (fault, *_) = faults(options, listen_plaintext=(host, 0))
    assert "is not a loopback address" in fault
    assert "--trust-plaintext-network" in fault
    trusted = faults(options, listen_plaintext=(host, 0), trust_plaintext_network=True)
    assert not any("loopback" in fault for fault in trusted)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_these_are_loopback(options: ControllerOptions, host: str) -> None:
    assert not any("loopback" in fault for fault in faults(options, listen_plaintext=(host, 0)))


class TestIdentity:
    def test_tls_needs_all_three_files(self, options: ControllerOptions) -> None:
        (fault,) = faults(options, key=None, ca=None)
        assert fault.startswith("--key, --ca: missing, and needed for --listen 127.0.0.1:0")

    def test_without_tls_they_are_not_needed(self, options: ControllerOptions) -> None:
        assert faults(options, listen=None, cert=None, key=None, ca=None) == []
        assert load_identity(dataclasses.replace(options, listen=None)) is None

    @pytest.mark.parametrize("role", [Role.RELAY, Role.AGENT, Role.OPERATOR])
    def test_it_must_be_a_controllers(
        self, options: ControllerOptions, pki: TestPki, tmp_path: Path, role: Role
    ) -> None:
        files = save(pki.of_role(role), tmp_path / "wrong")
        (fault,) = faults(options, cert=files.cert, key=files.key)
        assert "wrong.pem" in fault
        assert "expected the role controller; clients would refuse it" in fault

    def test_it_must_have_the_name_that_clients_require(
        self, options: ControllerOptions, pki: TestPki, tmp_path: Path
    ) -> None:
        nameless = pki.forge(pki.controller().identity, dns_names=("localhost",))
        files = save(nameless, tmp_path / "nameless")
        (fault,) = faults(options, cert=files.cert, key=files.key)
        assert "is not for the server name controller.outrelay.internal" in fault

    def test_its_key_must_be_of_a_kind_that_grpc_knows(
        self, options: ControllerOptions, pki: TestPki, tmp_path: Path
    ) -> None:
        names, key = ("localhost", CONTROLLER_NAME), ed25519.Ed25519PrivateKey.generate()
        identity = pki.controller().identity
        files = save(pki.forge(identity, dns_names=names, private_key=key), tmp_path / "ed")
        (fault,) = faults(options, cert=files.cert, key=files.key)
        assert "ed.key: is an Ed25519 key, which gRPC's TLS does not know; use one of" in fault


class TestDatabase:
    def test_it_must_be_a_file_in_a_directory(
        self, options: ControllerOptions, tmp_path: Path
    ) -> None:
        assert "is a directory" in faults(options, db=str(tmp_path))[0]
        missing = str(tmp_path / "missing" / "x.db")
        assert "in a directory that does not exist" in faults(options, db=missing)[0]

    def test_another_kind_is_refused_by_name(self, options: ControllerOptions) -> None:
        (fault,) = faults(options, db="postgresql://db/outrelay")
        assert fault == "--db: postgresql is not supported; give a file"


class TestAddresses:
    @pytest.fixture
    def taken(self) -> Iterator[tuple[str, int]]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield listener.getsockname()

    @pytest.mark.parametrize("name", ["listen", "listen_plaintext"])
    async def test_one_that_is_taken_is_told_before_and_at_the_start(
        self, options: ControllerOptions, taken: tuple[str, int], name: str
    ) -> None:
        flag = f"--{name.replace('_', '-')}: cannot listen on 127.0.0.1:{taken[1]}"
        (fault,) = faults(options, **{name: taken})
        assert fault.startswith(flag)
        with pytest.raises(ConfigError, match=flag):
            async with serving(dataclasses.replace(options, **{name: taken})):  # type: ignore[arg-type]
                pass


class TestAdminSocket:
    def test_a_path_that_cannot_be_one_is_told(
        self, options: ControllerOptions, tmp_path: Path
    ) -> None:
        file = tmp_path / "file"
        file.touch()
        for path, fault in (
            (file, "exists and is no socket"),
            (tmp_path / "missing" / "x.sock", "in a directory that does not exist"),
            (tmp_path / ("x" * 120), "longer than 104 bytes"),
        ):
            (line,) = faults(options, admin_socket=path)
            assert line.startswith(f"--admin-socket: {path}")
            assert fault in line
        assert file.exists()

    def test_one_nobody_serves_is_cleared_away(
        self, options: ControllerOptions, tmp_path: Path
    ) -> None:
        path = tmp_path / "stale.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        assert faults(options, admin_socket=path) == []
        assert not path.exists()

    def test_one_somebody_serves_is_left_alone(
        self, options: ControllerOptions, tmp_path: Path
    ) -> None:
        path = tmp_path / "served.sock"
        with socket.socket(socket.AF_UNIX) as served:
            served.bind(str(path))
            served.listen()
            (line,) = faults(options, admin_socket=path)
        assert "is served by another controller" in line
        assert path.exists()
