"""IPv6 addresses of IPv4 hosts: the examples of RFC 6052 section 2.4."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from outrelay.lib.transport.nat64 import prefixes

MADE = [
    ("2001:db8:c000:aa::", "2001:db8:c000:221::"),
    ("2001:db8:1c0:0:aa::", "2001:db8:1c0:2:21::"),
    ("2001:db8:122:c000:0:aa00::", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:3c0:0:aa::", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344:c0:0:aa00::", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::192.0.0.170", "2001:db8:122:344::192.0.2.33"),
    ("64:ff9b::192.0.0.171", "64:ff9b::192.0.2.33"),
]


@pytest.mark.parametrize(("probe", "made"), MADE)
def test_a_prefix_of_each_length_is_found_and_used(probe: str, made: str) -> None:
    [prefix] = prefixes([probe])
    assert IPv6Address(prefix.of("192.0.2.33")) == IPv6Address(made)


def test_both_probe_addresses_show_one_prefix() -> None:
    assert len(prefixes(["64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"])) == 1


def test_a_network_may_have_several() -> None:
    assert len(prefixes(["64:ff9b::192.0.0.170", "2001:db8::192.0.0.170"])) == 2


@pytest.mark.parametrize("found", [[], ["2001:db8::1"], ["::"], ["64:ff9b::192.0.2.1"]])
def test_other_addresses_show_none(found: list[str]) -> None:
    assert prefixes(found) == []
