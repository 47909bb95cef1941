"""The steps of ``--check``: every fault is one line, and probing leaves nothing bound."""

from __future__ import annotations

import socket

import pytest

from outrelay.lib.checks import faults_of, try_bind
from outrelay.lib.errors import ConfigError


def test_faults_are_collected_in_order_and_the_rest_still_checked() -> None:
    done = []

    def fails(subject: str) -> None:
        raise ConfigError(subject, "is wrong", "mend it")

    faults = faults_of(lambda: fails("a"), lambda: done.append("b"), lambda: fails("c"))

    assert faults == ["a: is wrong; mend it", "c: is wrong; mend it"]
    assert done == ["b"]


@pytest.mark.parametrize("udp", [True, False])
def test_a_free_address_can_be_bound_again_and_again(udp: bool) -> None:
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()

    try_bind("--listen", address, udp=udp)
    try_bind("--listen", address, udp=udp)


@pytest.mark.parametrize("udp", [True, False])
def test_an_address_in_use_is_a_fault_that_names_flag_and_address(udp: bool) -> None:
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if not udp:
            holder.listen()
        host, port = holder.getsockname()

        with pytest.raises(ConfigError) as fault:
            try_bind("--listen", (host, port), udp=udp)

    expected = f"--listen: cannot listen on 127.0.0.1:{port}: Address already in use"
    fix = "stop what uses the address, or choose another one"
    assert str(fault.value) == f"{expected}; {fix}"


def test_a_host_that_is_not_here() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on host\.invalid:1: "):
        try_bind("--listen", ("host.invalid", 1), udp=True)
