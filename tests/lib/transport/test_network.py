"""Telling networks apart by what the kernel's tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrelay.lib.transport.network import fingerprint

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
HOME = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
OFFICE = "eth0\t00000000\t01FEA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
NEARBY = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
LO4 = "lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n"

NONE = "00000000000000000000000000000000"
PREFIX = "20010db8000000000000000000000000"


def route6(destination: str, length: str, gateway: str = NONE, interface: str = "eth0") -> str:
    return f"{destination} {length} {NONE} 00 {gateway} 00000100 1 0 00000001     {interface}\n"


class Tables:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fingerprint(self, ipv4: str = HEAD, ipv6: str = "") -> str:
        (self._folder / "route").write_text(ipv4)
        (self._folder / "ipv6_route").write_text(ipv6)
        return fingerprint(self._folder)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_networks_differ_by_their_routes(tables: Tables) -> None:
    home = tables.fingerprint(HEAD + HOME)
    others = {
        tables.fingerprint(HEAD + OFFICE),
        tables.fingerprint(HEAD + HOME.replace("eth0", "wlan0")),
        tables.fingerprint(HEAD + HOME + NEARBY),
        tables.fingerprint(HEAD + HOME, route6(PREFIX, "40")),
        tables.fingerprint(HEAD + HOME, route6(PREFIX, "40", "fe80" + NONE[4:])),
    }
    assert len(others) == 5
    assert home not in others
    assert tables.fingerprint(HEAD + HOME) == home


def test_the_order_of_the_tables_does_not_count(tables: Tables) -> None:
    assert tables.fingerprint(HEAD + HOME + NEARBY) == tables.fingerprint(HEAD + NEARBY + HOME)


def test_what_every_interface_has_does_not_count(tables: Tables) -> None:
    usual = (
        route6("fe80" + NONE[4:], "40")
        + route6("ff00" + NONE[4:], "08")
        + route6(PREFIX[:-1] + "7", "80")  # an address of our own
        + route6(NONE, "00", interface="lo")
    )
    assert tables.fingerprint(HEAD + HOME + LO4, usual) == tables.fingerprint(HEAD + HOME)


def test_no_network_has_no_fingerprint(tables: Tables, tmp_path: Path) -> None:
    assert tables.fingerprint(HEAD + LO4) == ""
    assert tables.fingerprint("", "") == ""
    assert fingerprint(tmp_path / "elsewhere") == ""
    assert tables.fingerprint("a line of something else\n", "another\n") == ""


def test_this_host_can_be_asked() -> None:
    assert fingerprint() == fingerprint()
