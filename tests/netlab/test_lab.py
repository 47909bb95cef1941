"""The lab itself: hosts reach each other, UDP can be taken from them, and nothing stays."""

from __future__ import annotations

import select
import socket
import subprocess

import pytest

from tests.netlab.lab import NAMESPACES, Host, Lab

pytestmark = pytest.mark.netlab

PORT = 7000


def test_hosts_reach_each_other_by_tcp(lab: Lab) -> None:
    wan = lab.router("wan")
    server, client = lab.host("server", wan), lab.host("client", wan)
    with server.inside():
        listener = socket.create_server((server.address, PORT))
    with client.inside():
        calling = socket.create_connection((server.address, PORT), timeout=5)
    accepted, (caller, _) = listener.accept()
    with listener, calling, accepted:
        assert caller == client.address


def test_udp_is_dropped_and_passes_again(lab: Lab) -> None:
    wan = lab.router("wan")
    server, client = lab.host("server", wan), lab.host("client", wan)
    with server.inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((server.address, PORT))
    with client.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def heard(word: bytes) -> bool:
        sender.sendto(word, (server.address, PORT))
        if not select.select([receiver], [], [], 0.5)[0]:
            return False
        return receiver.recv(100) == word

    with receiver, sender:
        assert heard(b"before")
        wan.drop_udp(client)
        assert not heard(b"meanwhile")
        wan.pass_all()
        assert heard(b"after")


def test_a_program_runs_within_a_host(lab: Lab) -> None:
    host = lab.host("host", lab.router("wan"))
    done = subprocess.run(
        [*host.command, "ip", "-br", "address"], capture_output=True, text=True, check=True
    )
    assert host.address in done.stdout


def test_nothing_stays_when_building_fails_half_way(lab: Lab) -> None:
    made: list[Host] = []
    with pytest.raises(AssertionError, match="File exists"), Lab() as second:
        wan = second.router("second")
        made += [wan, second.host("twice", wan)]
        second.host("twice", wan)
    assert not [each for each in made if (NAMESPACES / each.namespace).exists()]
