"""The splice: two legs joined, byte for byte, until both directions have ended.

Words: a *leg* is one agent's data stream at the relay; bytes go *up* from the consumer's
leg to the provider's, *down* back. The *source* of a direction is read, its *sink* written.

Invariants:

- What waits in the relay is one chunk per direction and what the carriers' streams bound:
  a sink that is full stops its source.
- A direction ends by FIN only when its source ended by FIN; it is reset with the source's
  own code, and its source is stopped with the sink's own code. The other direction goes on.
- A leg whose connection is gone ends the other leg, both ways, with LEG_LOST.
- The splice lasts until the peers have acknowledged the last byte, not only until it was
  read: a relay that closes when nothing is spliced any more cuts nothing off.

Source: protocol.md sections 1 and 5; architecture.md, a byte's way.
"""

from __future__ import annotations

import time
from asyncio import CancelledError, TaskGroup
from collections.abc import Callable
from dataclasses import dataclass

from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.carrier import READ_SIZE, Stream

CONSUMER = "consumer"
PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a splice ended.

    Args:
        code: NONE when both directions ended by FIN, else what ended the first that did not.
        reason: The same for people.
    """

    code: ErrorCode
    reason: str


FINISHED = Ending(ErrorCode.NONE, "finished")


class Leg:
    """One agent's data stream.

    Args:
        stream: The carrier's.
        side: Whose it is: ``CONSUMER`` or ``PROVIDER``.
        early: Bytes that came behind the frames before the splice; they are passed on first.
        on_reset: Told the code before our direction is reset.
    """

    __slots__ = ("early", "on_reset", "side", "stream")

    def __init__(
        self,
        stream: Stream,
        side: str,
        early: bytes = b"",
        on_reset: Callable[[ErrorCode], None] | None = None,
    ) -> None:
        self.stream = stream
        self.side = side
        self.early = early
        self.on_reset = on_reset

    def reset(self, code: ErrorCode) -> None:
        """End our direction with ``code``."""
        if self.on_reset:
            self.on_reset(code)
        self.stream.reset(code)

    def abandon(self, code: ErrorCode) -> None:
        """End both directions with ``code``."""
        self.reset(code)
        self.stream.stop(code)


class Direction:
    """One direction of a splice.

    Args:
        source: The leg to read.
        sink: The leg to write.
        on_bytes: Told the number of bytes each time some were passed on.
    """

    __slots__ = ("bytes", "on_bytes", "sink", "source", "writing_since")

    def __init__(self, source: Leg, sink: Leg, on_bytes: Callable[[int], None]) -> None:
        self.source = source
        self.sink = sink
        self.on_bytes = on_bytes
        self.bytes = 0
        self.writing_since: float | None = None  # monotonic seconds; None: nothing to write


class Splice:
    """Two legs joined.

    Args:
        consumer: The consumer's leg.
        provider: The provider's leg.
        on_up: Told the number of bytes each time some were passed on to the provider.
        on_down: The same for the consumer.
    """

    __slots__ = ("_consumer", "_ending", "_provider", "down", "up")

    def __init__(
        self,
        consumer: Leg,
        provider: Leg,
        on_up: Callable[[int], None],
        on_down: Callable[[int], None],
    ) -> None:
        self._consumer = consumer
        self._provider = provider
        self._ending = FINISHED
        self.up = Direction(consumer, provider, on_up)
        self.down = Direction(provider, consumer, on_down)

    async def run(self, owner: str = CONSUMER) -> Ending:
        """Pass bytes until both directions have ended; how the first ended that was cut short.

        Cancelled, it ends both legs with LEG_LOST: the connection that owns it is gone.

        Args:
            owner: Whose connection that is, ``CONSUMER`` or ``PROVIDER``.
        """
        try:
            async with TaskGroup() as group:
                spawn(group, self._watch(self.up), name="relay: splice up, watch")
                spawn(group, self._watch(self.down), name="relay: splice down, watch")
                spawn(group, self._pump(self.up), name="relay: splice up")
                await self._pump(self.down)
        except CancelledError:
            self.abandon(ErrorCode.LEG_LOST, f"the {owner}'s connection is gone")
            raise
        return self._ending

    @property
    def ending(self) -> Ending:
        """How it ended, as far as it has."""
        return self._ending

    def explain(self, side: str, code: ErrorCode) -> None:
        """An agent has said with which code it will end its leg."""
        leg = self._consumer if side == CONSUMER else self._provider
        leg.stream.explain(code)

    def abandon(self, code: ErrorCode, reason: str) -> None:
        """End both legs, both ways, with ``code``; ``run`` returns then."""
        self._note(code, reason)
        self._consumer.abandon(code)
        self._provider.abandon(code)

    async def _pump(self, direction: Direction) -> None:
        """Pass bytes until the source ends, then its end."""
        source, sink = direction.source.stream, direction.sink.stream
        data, direction.source.early = direction.source.early, b""
        while True:
            if data:
                direction.writing_since = time.monotonic()
                try:
                    await sink.write(data)
                except Reset as error:
                    return self._stopped(direction, error.code)
                except Closed:
                    return self._lost(direction.sink)
                direction.writing_since = None
                direction.bytes += len(data)
                direction.on_bytes(len(data))
            try:
                data = await source.read(READ_SIZE)
            except Reset as error:
                self._note(error.code, f"reset by the {direction.source.side}")
                return direction.sink.reset(error.code)
            except Closed:
                return self._lost(direction.source)
            if not data:
                return sink.finish()

    async def _watch(self, direction: Direction) -> None:
        """Wait until the sink has everything, or wants no more.

        A sink that stops reading while the source is silent is noticed here, not at the
        next byte.
        """
        try:
            await direction.sink.stream.wait_finished()
        except Reset as error:
            self._stopped(direction, error.code)
        except Closed:
            self._lost(direction.sink)

    def _stopped(self, direction: Direction, code: ErrorCode) -> None:
        self._note(code, f"no longer read by the {direction.sink.side}")
        direction.source.stream.stop(code)

    def _lost(self, leg: Leg) -> None:
        self.abandon(ErrorCode.LEG_LOST, f"the {leg.side}'s connection is gone")

    def _note(self, code: ErrorCode, reason: str) -> None:
        if self._ending is FINISHED:
            self._ending = Ending(code, reason)
