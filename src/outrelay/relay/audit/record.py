"""Records: audit events as they wait, in memory and in the files of the spool.

A file is ``MAGIC`` and records; a record is the length of its event and the event's CRC-32
(4 bytes each, big-endian), then the event, an AuditEvent as protobuf encodes it.

Words: a file is *torn* when its end is missing, as after a crash in the middle of a write
(also when the system left zeros there); it is *damaged* when something else is wrong with
it. Of both, the records before that place are good.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import DecodeError

from outrelay.lib.control.v1 import audit_pb2 as audit

MAGIC = b"outrelay audit 1\n"

LONGEST = 16 * 1024
"""Bytes of an event; none that is recorded comes near it."""

OVERHEAD = 128
"""Bytes of memory that a record costs beside its event."""

_HEAD = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Record:
    """One encoded event, and whose it is."""

    tenant: str
    event: bytes

    @classmethod
    def of(cls, event: audit.AuditEvent) -> Record:
        """The record of an event."""
        return cls(event.tenant, event.SerializeToString())

    @property
    def cost(self) -> int:
        """Bytes of memory."""
        return len(self.event) + OVERHEAD

    @property
    def size(self) -> int:
        """Bytes in a file."""
        return _HEAD.size + len(self.event)

    def decoded(self) -> audit.AuditEvent:
        """The event."""
        return audit.AuditEvent.FromString(self.event)


class End(Enum):
    """How a file ends."""

    CLEAN = "is whole"
    TORN = "ends in the middle of a record"
    DAMAGED = "holds something that is no record"


def encode(records: Iterable[Record]) -> bytes:
    """The records as a file has them after its ``MAGIC``."""
    parts: list[bytes] = []
    for record in records:
        parts += (_HEAD.pack(len(record.event), zlib.crc32(record.event)), record.event)
    return b"".join(parts)


def decode(data: bytes) -> tuple[list[Record], End]:
    """The good records of a whole file, and how it ends."""
    if not data.startswith(MAGIC):
        return [], End.TORN if _is_cut(data, MAGIC) else End.DAMAGED
    records: list[Record] = []
    at = len(MAGIC)
    while at < len(data):
        record = _record_at(data, at)
        if isinstance(record, End):
            return records, record
        records.append(record)
        at += record.size
    return records, End.CLEAN


def _record_at(data: bytes, at: int) -> Record | End:
    """The record that begins at a place, or what is there instead."""
    begin = at + _HEAD.size
    if begin > len(data):
        return End.TORN
    length, checksum = _HEAD.unpack_from(data, at)
    if not 0 < length <= LONGEST:
        return End.TORN if _is_zero(data, at) else End.DAMAGED
    end = begin + length
    event = data[begin:end]
    if end > len(data):
        return End.TORN
    if zlib.crc32(event) != checksum:
        # Zeros may stand for the end of what was written last.
        return End.TORN if end == len(data) or _is_zero(data, end) else End.DAMAGED
    try:
        return Record(audit.AuditEvent.FromString(event).tenant, event)
    except DecodeError:
        return End.DAMAGED


def _is_cut(data: bytes, whole: bytes) -> bool:
    return whole.startswith(data.rstrip(b"\0"))


def _is_zero(data: bytes, at: int) -> bool:
    """Whether nothing but zeros comes from there on."""
    return data.count(0, at) == len(data) - at
