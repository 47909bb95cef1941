"""Records: what was written whole is read whole, and the rest is known for what it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.relay.audit.record import LONGEST, MAGIC, End, Record, decode, encode

HEAD = 8


def record(number: int, tenant: str = "acme") -> Record:
    return Record.of(audit.AuditEvent(tenant=tenant, event_id=f"id-{number}"))


RECORDS = [record(number) for number in range(3)]
FILE = MAGIC + encode(RECORDS)
LAST = len(FILE) - HEAD - len(RECORDS[2].event)
"""Where the last record begins."""

texts = st.text(max_size=40)
events = st.builds(
    audit.AuditEvent,
    tenant=texts.filter(bool),
    reason=texts,
    bytes_up=st.integers(0, 2**64 - 1),
)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@given(st.lists(events, max_size=5))
def test_what_is_written_is_read(written: list[audit.AuditEvent]) -> None:
    records, end = decode(MAGIC + encode(map(Record.of, written)))
    assert end is End.CLEAN
    assert [each.decoded() for each in records] == written
    assert [each.tenant for each in records] == [each.tenant for each in written]


def test_a_record_knows_what_it_costs() -> None:
    assert RECORDS[0].cost > len(RECORDS[0].event)
    assert RECORDS[0].size == len(encode(RECORDS[:1]))


@pytest.mark.parametrize("left", range(LAST + 1, len(FILE)))
def test_an_end_that_is_missing_is_torn_and_costs_one_record(left: int) -> None:
    assert decode(FILE[:left]) == (RECORDS[:2], End.TORN)
    assert decode(FILE[:left] + b"\0" * 20) == (RECORDS[:2], End.TORN)


@pytest.mark.parametrize("left", range(len(MAGIC)))
def test_a_file_that_just_began_is_torn(left: int) -> None:
    assert decode(MAGIC[:left]) == ([], End.TORN)
    assert decode(MAGIC[:left] + b"\0" * 20) == ([], End.TORN)


def test_a_last_record_that_was_not_written_to_its_end_is_torn() -> None:
    assert decode(flipped(FILE, len(FILE) - 1)) == (RECORDS[:2], End.TORN)


def test_zeros_at_the_end_are_torn() -> None:
    assert decode(FILE + b"\0" * 4096) == (RECORDS, End.TORN)


@pytest.mark.parametrize("at", range(LAST - len(RECORDS[1].event), LAST))
def test_an_event_that_was_changed_is_damage(at: int) -> None:
    assert decode(flipped(FILE, at)) == (RECORDS[:1], End.DAMAGED)


@pytest.mark.parametrize(
    "rest",
    [
        (LONGEST + 1).to_bytes(4, "big") + b"1234",
        b"\0\0\0\0" + b"1234",
        encode([Record("", b"\xff\xff")]),
    ],
    ids=["too long", "empty", "no event"],
)
def test_what_is_no_record_is_damage(rest: bytes) -> None:
    assert decode(FILE + rest) == (RECORDS, End.DAMAGED)


def test_another_file_is_damage() -> None:
    assert decode(b"#!/bin/sh\n") == ([], End.DAMAGED)


@given(st.binary(max_size=200), st.booleans())
def test_whatever_is_in_a_file_decoding_ends(data: bytes, magic: bool) -> None:
    file = (MAGIC if magic else b"") + data
    records, end = decode(file)
    assert end is not End.CLEAN or MAGIC + encode(records) == file
