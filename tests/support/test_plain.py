"""The plain peers' own codec agrees with what other implementations put on the wire."""

from __future__ import annotations

import pytest

from outrelay.lib.transport.tcp import pulse
from tests.support import plain
from tests.support.plain import Frames, frame, without_notes


class Once:
    """A stream that brings some bytes, one at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = [bytes([byte]) for byte in data]

    async def read(self) -> bytes:
        return self._data.pop(0) if self._data else b""


HELLO = bytes.fromhex(
    "20010000000000430a056f72702f31123a6f757472656c61793a2f2f61636d652f6167656e742f"
    "34613963336635322d366430652d346330622d396135372d306431663362376532633131"
)
URI = "outrelay://acme/agent/4a9c3f52-6d0e-4c0b-9a57-0d1f3b7e2c11"


def test_what_is_written() -> None:
    assert frame(plain.HELLO, {1: "orp/1", 2: URI}) == HELLO
    assert frame(plain.STREAM_ACCEPT) == bytes.fromhex("2012000000000000")
    assert frame(plain.STREAM_READY, {1: 300}) == bytes.fromhex("215200000000000308ac02")
    assert frame(plain.STREAM_READY, {1: 0}) == bytes.fromhex("2152000000000000")
    assert frame(plain.PING, odd=True) == bytes.fromhex("3820ffff00000000")


async def test_what_is_read() -> None:
    frames = Frames(Once(HELLO + frame(0x7FF, {1: 2**64 - 1, 1001: b"\0"}) + b"rest"))  # type: ignore[arg-type]
    said = await frames.expect(plain.HELLO)
    assert (said.text(1), said.text(2), said.text(3)) == ("orp/1", URI, "")
    said = await frames.expect(0x7FF)
    assert (said.number(1), said.number(2), said.text(1001)) == (2**64 - 1, 0, "\0")
    with pytest.raises(AssertionError, match="cut short"):
        await frames.next()
    assert frames.rest() == b"rest"


def test_notes_come_back_whoever_has_done_without_them_last() -> None:
    known = pulse.HELLO
    one, other = without_notes(), without_notes()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert pulse.HELLO == 0
    other.__exit__(None, None, None)
    assert known == pulse.HELLO
