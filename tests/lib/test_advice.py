"""What is advised when the operating system refuses."""

from __future__ import annotations

import errno
import socket

import pytest

from outrelay.lib import advice


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOENT, "check the path"),
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "let this user have access to it"),
        (errno.EIO, ""),
    ],
)
def test_files(number: int, text: str) -> None:
    assert advice.on_file(OSError(number, "no")) == text


def test_an_error_without_a_number() -> None:
    assert advice.on_file(OSError("no")) == ""
    assert advice.on_address(OSError("no")) == ""


def test_an_address_that_is_used_by_somebody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as used, pytest.raises(OSError) as raised:
        socket.create_server(used.getsockname())
    assert advice.on_address(raised.value).startswith("stop what uses the address")


def test_a_name_that_nobody_has() -> None:
    assert advice.on_address(socket.gaierror(socket.EAI_NONAME, "no")) == "check the name"
