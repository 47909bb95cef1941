"""A stream on a carrier that has no codes: with which one we give it up is said on the control
stream, just before.

Source: protocol.md section 1, error codes; docs/decisions/0004-codes-on-tcp.md.
"""

from __future__ import annotations

from collections.abc import Callable

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.carrier import READ_SIZE, Stream


class SpokenStream:
    """A Stream of the carrier port, which is ``stream`` but for ``reset``.

    Args:
        stream: The carrier's; used through this from now on.
        say: Tells the relay the code of a reset; must not wait.
    """

    __slots__ = ("_is_over", "_say", "_stream")

    def __init__(self, stream: Stream, say: Callable[[ErrorCode], None]) -> None:
        self._stream = stream
        self._say = say
        self._is_over = False

    @property
    def id(self) -> int:
        return self._stream.id

    @property
    def unsent(self) -> int:
        return self._stream.unsent

    @property
    def window(self) -> int:
        return self._stream.window

    async def read(self, limit: int = READ_SIZE) -> bytes:
        return await self._stream.read(limit)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.write(data)

    def finish(self) -> None:
        self._stream.finish()

    def reset(self, code: ErrorCode) -> None:
        if not self._is_over:
            self._is_over = True
            self._say(code)
        self._stream.reset(code)

    def stop(self, code: ErrorCode) -> None:
        self._stream.stop(code)

    def explain(self, code: ErrorCode) -> None:
        self._stream.explain(code)

    async def wait_finished(self) -> None:
        await self._stream.wait_finished()
        self._is_over = True
