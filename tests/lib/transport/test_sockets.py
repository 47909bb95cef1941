"""Binding to one address or to all of them, and addresses of mixed families."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.sockets import bind, try_option, unmapped


class Bound:
    """Listening sockets of a test, closed when it ends."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def __call__(self, host: str) -> Address:
        sock = bind((host, 0), socket.SOCK_STREAM, lambda _: None)
        self.made.append(sock)
        sock.listen()
        found, port = sock.getsockname()[:2]
        return found, port


@pytest.fixture
def bound() -> Iterator[Bound]:
    bound = Bound()
    yield bound
    for each in bound.made:
        each.close()


def reaches(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("::", ["127.0.0.1", "::1"]),
        ("0.0.0.0", ["127.0.0.1"]),
    ],
)
def test_who_gets_through(bound: Bound, host: str, reached: list[str]) -> None:
    found, port = bound(host)
    assert found == host
    assert [each for each in ("127.0.0.1", "::1") if reaches(each, port)] == reached


def without_ipv6(monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    real = socket.socket

    def open_socket(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(fault, os.strerror(fault))
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", open_socket)


@pytest.mark.parametrize("fault", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_everywhere_is_all_of_ipv4(
    bound: Bound, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    without_ipv6(monkeypatch, fault)
    host, port = bound("::")
    monkeypatch.undo()
    assert host == "0.0.0.0"
    assert reaches("127.0.0.1", port)


def test_other_faults_are_not_taken_for_a_lack_of_ipv6(
    bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ipv6(monkeypatch, errno.EMFILE)
    with pytest.raises(OSError, match="open files"):
        bound("::")


def test_a_socket_that_cannot_be_bound_is_closed() -> None:
    made: list[socket.socket] = []
    with pytest.raises(OSError, match="assign"):
        bind(("192.0.2.1", 0), socket.SOCK_STREAM, made.append)
    assert made[0].fileno() == -1


def test_an_option_the_kernel_does_not_know_is_no_fault() -> None:
    with socket.socket() as sock:
        assert try_option(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert not try_option(sock, socket.IPPROTO_TCP, 9999, 1)


def test_addresses_are_written_as_others_write_them() -> None:
    assert unmapped(("::ffff:192.0.2.1", 7443, 0, 0)) == ("192.0.2.1", 7443)
    assert unmapped(("192.0.2.1", 7443)) == ("192.0.2.1", 7443)
    assert unmapped(("fe80::1%lo", 7443, 0, 1)) == ("fe80::1%lo", 7443)
