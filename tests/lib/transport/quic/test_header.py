"""What the first bytes of a datagram say, whatever they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.transport.quic.header import CID_LENGTH, Header, parse_header

V1 = 1
connection_ids = st.binary(max_size=20)


def variable(value: int, width: int) -> bytes:
    """A variable-length integer of RFC 9000 section 16, in ``width`` bytes."""
    prefix = {1: 0, 2: 1, 4: 2, 8: 3}[width] << (8 * width - 2)
    return (prefix | value).to_bytes(width, "big")


def long_header(
    destination: bytes, source: bytes, *, first: int = 0xC0, version: int = V1, rest: bytes = b""
) -> bytes:
    ids = bytes([len(destination)]) + destination + bytes([len(source)]) + source
    return bytes([first]) + version.to_bytes(4, "big") + ids + rest


@given(st.binary(max_size=64))
def test_nothing_makes_it_raise(datagram: bytes) -> None:
    header = parse_header(datagram)

    if header is not None:
        assert header.destination in datagram
        assert header.source in datagram
        assert header.token in datagram


@given(st.integers(0, 0x7F), st.binary(min_size=CID_LENGTH, max_size=40))
def test_a_short_header_is_followed_by_an_id_of_our_length(first: int, rest: bytes) -> None:
    header = parse_header(bytes([first]) + rest)

    assert header == Header(False, False, 0, rest[:CID_LENGTH], b"", b"")


@given(
    connection_ids,
    connection_ids,
    st.binary(max_size=63),
    st.sampled_from([1, 2, 4, 8]),
    st.binary(max_size=30),
)
def test_an_initial_says_both_ids_and_its_token(
    destination: bytes, source: bytes, token: bytes, width: int, payload: bytes
) -> None:
    rest = variable(len(token), width) + token + payload
    datagram = long_header(destination, source, rest=rest)

    header = parse_header(datagram)

    if len(datagram) > CID_LENGTH:
        assert header == Header(True, True, V1, destination, source, token)
    else:
        assert header is None


@given(st.binary(max_size=100), st.sampled_from([2, 4, 8]))
def test_a_token_may_be_longer_than_its_shortest_length_tells(token: bytes, width: int) -> None:
    datagram = long_header(bytes(8), b"", rest=variable(len(token), width) + token)

    header = parse_header(datagram)

    assert header is not None
    assert header.token == token


@pytest.mark.parametrize("kind", [0xD0, 0xE0, 0xF0], ids=["0-RTT", "Handshake", "Retry"])
def test_other_long_headers_have_no_token(kind: int) -> None:
    datagram = long_header(b"destination", b"source", first=kind, rest=b"\xff" * 8)

    assert parse_header(datagram) == Header(True, False, V1, b"destination", b"source", b"")


def test_a_token_is_looked_for_in_version_1_only() -> None:
    datagram = long_header(b"destination", b"source", version=0x6B3343CF, rest=b"\xff" * 8)

    assert parse_header(datagram) == Header(True, True, 0x6B3343CF, b"destination", b"source", b"")


def test_every_cut_of_an_initial_is_no_header_until_it_is_whole() -> None:
    whole = long_header(b"destination", b"source", rest=variable(5, 2) + b"token")

    assert [cut for cut in range(len(whole)) if parse_header(whole[:cut]) is not None] == []
    assert parse_header(whole) is not None


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x40" * CID_LENGTH,
        long_header(bytes(21), b"", rest=bytes(100)),
        long_header(b"", bytes(21), rest=bytes(100)),
    ],
    ids=["empty", "short", "long destination", "long source"],
)
def test_what_cannot_be_quic_is_nobodys(datagram: bytes) -> None:
    assert parse_header(datagram) is None
