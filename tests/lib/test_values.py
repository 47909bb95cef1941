"""Values as people write them, and the hints they get when they write something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.values import (
    address_text,
    parse_address,
    parse_duration,
    parse_optional_address,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("250ms", 0.25),
        ("10s", 10),
        ("1.5s", 1.5),
        ("5m", 300),
        ("24h", 86_400),
        ("90d", 7_776_000),
        ("1h30m", 5_400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "10 s", "10S", "1h30", "ten", "1e3s", "10s\n"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 250ms, 10s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("65536", 65_536), ("7B", 7), ("64KiB", 65_536), ("16MiB", 2**24), ("2GiB", 2**31)],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "KiB", "-1", "64kb", "64 KiB", "1.5MiB", "64KB", "1\n"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write it like 64KiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7443", ("127.0.0.1", 7443)),
        ("relay.example:443", ("relay.example", 443)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:443", ("::1", 443)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65_535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7443",
        ":7443",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "::1:443",
        "[::1]",
        "a b:1",
        "a:1\n",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address; write it like 127\.0\.0\.1:7443"):
        parse_address(text)


def test_an_address_that_may_be_absent() -> None:
    assert parse_optional_address("") is None
    assert parse_optional_address("localhost:1") == ("localhost", 1)


@given(
    host=st.one_of(
        st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)
    ),
    port=st.integers(min_value=0, max_value=65_535),
)
def test_an_address_reads_as_it_was_written(host: str, port: int) -> None:
    assert parse_address(address_text((host, port))) == (host, port)
