"""A yamux session as a state machine: plaintext in, events and plaintext out.

It owns streams, windows, pings and the rules of both; it never sees a socket, TLS, a clock
or a task. ``now`` is monotonic seconds of the caller's choice. The shell, after any call,
takes ``data_to_send`` until there is none (as far as the socket takes it), drains ``events``,
and calls ``handle_timeout`` at ``next_deadline``.

Words: a stream is a *channel*; it is *forgotten* when both directions have ended on the
wire. *Strays* are bytes for forgotten channels that were under way when we ended them. The
peer *takes notes* when it is one of ours: see yamux_frames.py. To others a code is lost, and
where yamux cannot end one direction alone, both end (our ``reset``), or the peer stands still
until it learns more (our ``stop``).

Invariants:

- Reading from the peer never waits: what it may make us hold is bounded by windows, and by
  HELD_MAX; what it may make us answer, by UNREAD_MAX.
- Channels with something to send take turns; a turn is a frame. What is said of the others is
  little, and does not wait for them.
- A channel's end is said once: one FIN or one RST.
- After LOST nothing more happens.

It is long, because nearly every frame touches a stream's windows, the turns and the events at
once; what can be told apart is in table.py, endings.py, pulse.py and yamux_parser.py.

Source: protocol.md section 9.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import NamedTuple

from outrelay.lib.errors import Closed, ErrorCode, RemoteProtocolError, Reset
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.tcp.channel import INITIAL_WINDOW, SMALL, Channel
from outrelay.lib.transport.tcp.endings import Endings, Parting
from outrelay.lib.transport.tcp.pulse import HELLO, Pulse
from outrelay.lib.transport.tcp.table import CONTROL, Table
from outrelay.lib.transport.tcp.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_SIZE,
    INTERNAL_ERROR,
    NORMAL,
    NOTE_MAX,
    PING,
    PROTOCOL_ERROR,
    RST,
    SESSION,
    SYN,
    UPDATE,
    Note,
    farewell,
    header,
    parse_note,
)
from outrelay.lib.transport.tcp.yamux_parser import Parser

HELD_MAX = 128 << 20
"""Bytes of a session that wait for readers."""

UNREAD_MAX = 256 * 1024
"""Bytes of our answers that a peer may leave unread."""

PAYLOAD_MAX = 256 * 1024 - HEADER_SIZE
"""Of a frame: with its header, a whole number of TLS records."""

BLOCK = 16 * 1024
"""What is worth a TLS record of its own: less is sent together."""

IDLE_TIMEOUT = 10.0

ACK_DELAY = 0.002
"""Seconds that we take to acknowledge a stream, unless we have something else to say before:
an answer of its own would wake the peer for nothing, in the middle of its opening."""

FRAMES_PER_SECOND = 50_000
FRAMES_AT_ONCE = 100_000
"""Frames without payload that a peer may send."""


class EventKind(IntEnum):
    """What happened, to the channel that comes with it."""

    OPENED = 0  # the peer opened it
    READABLE = 1  # a reader that found nothing finds bytes, the end or an error
    WRITABLE = 2  # a writer that found no room finds some, or an error
    FINISHED = 3  # the peer has everything up to our end, or there will be none
    AVAILABLE = 4  # ``open`` that had no channel has one, or an error; no channel
    CONFIRMED = 5  # the peer takes part: it has said something else than farewell; no channel
    LOST = 6  # ``closed`` says how; no channel


class Event(NamedTuple):
    """One thing that happened."""

    kind: EventKind
    channel: Channel | None = None


class Session:
    """One yamux session.

    Args:
        dialled: Whether we are the dialling side, yamux's client.
        now: Monotonic seconds.
        idle_timeout: Seconds without a sign of life after which the peer is dead.
    """

    def __init__(self, *, dialled: bool, now: float, idle_timeout: float = IDLE_TIMEOUT) -> None:
        self.closed: Closed | None = None
        """How it ended, once it has."""
        self.pings = 0
        """How many were sent."""
        self._idle_timeout = idle_timeout
        self._now = now
        self._pulse = Pulse[Channel](dialled=dialled, limit=idle_timeout, now=now)
        self._events: list[Event] = []
        self._table = Table(dialled=dialled)
        self._is_open_wanted = False
        self._is_peer_leaving = False
        self._is_confirmed = False
        self._takes_notes = False
        # sending
        self._control = bytearray()
        self._acks = bytearray()
        self._acks_at = 0.0
        self._turns: deque[Channel] = deque()
        self._endings = Endings()
        # receiving
        self._parser = Parser(self)
        self._ends = 0
        self._target: Channel | None = None
        self._note: bytearray | None = None
        self._touched: list[Channel] = []
        self._strays = 0
        self._frames = 0.0

    # ---- the shell's calls -----------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether ``data_to_send`` has something to say."""
        if self.closed is not None:
            return bool(self._control)
        return bool(self._control or self._turns or self._endings.is_due or self._pulse.due)

    @property
    def missing(self) -> int:
        """Bytes of the data frame that has begun to come."""
        return self._parser.left

    @property
    def is_ping_due(self) -> bool:
        """Whether a ping waits until something can be sent."""
        return self._pulse.due

    @property
    def takes_notes(self) -> bool:
        """Whether the peer learns the codes with which we give streams up."""
        return self._takes_notes

    @property
    def rtt(self) -> float:
        """The smallest round trip seen, seconds; 0 before the first."""
        return self._pulse.rtt

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def receive(self, data: memoryview, now: float) -> None:
        """Take what the peer sent.

        Args:
            data: Plaintext, cut anywhere; may be used again afterwards.
            now: Monotonic seconds.
        """
        if self.closed is not None:
            return
        self._frames = max(0.0, self._frames - (now - self._now) * FRAMES_PER_SECOND)
        self._now = now
        self._pulse.heard(now)
        try:
            self._parser.feed(data)
            self._settle()
            self._check_floods()
        except RemoteProtocolError as error:
            self.close(error.code, error.reason)

    def data_to_send(self, now: float) -> list[bytes | memoryview]:
        """The next bytes for the peer, about a TLS record or one frame; empty: none now."""
        if self._acks and self.has_output:
            self._control[:0] = self._acks
            self._acks.clear()
        if self._endings.is_due:
            self._part(self._endings.tell(now, takes_notes=self._takes_notes))
        value = self._pulse.ask(now) if self.closed is None else None
        if value is not None:
            self.pings += 1
            self._control += header(PING, SYN, SESSION, value)
        parts: list[bytes | memoryview] = [bytes(self._control)] if self._control else []
        size = len(self._control)
        self._control.clear()
        while size < BLOCK and self._turns:
            size += self._turn(self._turns.popleft(), parts, now)
        return parts

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` must be called, unless something else happens before."""
        if self.closed is not None:
            return None
        deadline = self._pulse.deadline(busy=self._busy)
        if self._endings.is_waiting:
            deadline = min(deadline, self._endings.next_deadline())
        return min(deadline, self._acks_at) if self._acks else deadline

    def handle_timeout(self, now: float) -> None:
        """Act on every deadline that has passed."""
        if self.closed is not None:
            return
        if self._pulse.is_dead(now):
            limit = f"{self._idle_timeout:g} s"
            self.lose(Closed(reason=f"no sign of life for {limit}", lost=True))
        self._pulse.handle_timeout(now, busy=self._busy)
        if self._acks and now >= self._acks_at:
            self._control[:0] = self._acks
            self._acks.clear()
        self._part(self._endings.overdue(now))

    def alive(self, now: float) -> None:
        """The peer's kernel has acknowledged something: a sign of life."""
        self._pulse.heard(now)

    def close(self, code: ErrorCode, reason: str) -> None:
        """Tell the peer and end; idempotent."""
        if self.closed is None:
            self.lose(Closed(code, reason))
            self._control += farewell(code, reason)

    def lose(self, closed: Closed) -> None:
        """The session has ended, however it did; idempotent."""
        if self.closed is not None:
            return
        self.closed = closed
        for channel in self._table:
            if not channel.incoming.over:
                channel.incoming.fail(closed)
                self._wake_reader(channel)
        for channel in (*self._table, *self._pulse.withdraw()):
            if not channel.outgoing.acknowledged:
                channel.outgoing.fail(closed)
                self._wake_writer(channel)
        self._parser.is_stopped = True
        self._table.clear()
        self._control.clear()
        self._acks.clear()
        self._turns.clear()
        self._endings.clear()
        self._events.append(Event(EventKind.LOST))

    # ---- streams ---------------------------------------------------------------------------

    def open(self) -> Channel | None:
        """A new stream, or None while there are too many; AVAILABLE follows then.

        Raises:
            Closed: The session has ended, or takes no new streams.
        """
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        if self._is_peer_leaving:
            raise Closed(reason="the peer takes no new streams", by_peer=True)
        if self._table.is_used_up:
            raise Closed(reason="all stream ids of the connection were used")
        if self._table.is_full:
            self._is_open_wanted = True
            return None
        channel = self._table.open()
        self._control += header(UPDATE, SYN, channel.number, self._table.grant(channel))
        return channel

    def read(self, channel: Channel, limit: int, now: float) -> bytes | None:
        """Up to ``limit`` bytes; ``b""`` at the end, None: nothing yet, READABLE follows.

        Raises:
            Reset: The peer gave its direction up, or we stopped it.
            Closed: The session has ended.
        """
        data = channel.incoming.read(limit)
        if data and channel in self._table:
            self._table.held -= len(data)
            credit = self._table.credit(channel, now, self._pulse.rtt)
            if credit:
                self._control += header(UPDATE, 0, channel.number, credit)
        return data

    def write(self, channel: Channel, data: bytes) -> bool:
        """Queue ``data``; False when the writer has to wait, and WRITABLE follows.

        Raises:
            Reset: The peer stopped reading, or we reset the stream.
            Closed: The session has ended.
            LocalProtocolError: The direction was finished.
        """
        outgoing = channel.outgoing
        outgoing.check()
        outgoing.add(data)
        self._schedule(channel)
        outgoing.blocked = outgoing.full
        return not outgoing.blocked

    def finish(self, channel: Channel) -> None:
        """End our direction after what was written; FINISHED follows. Idempotent."""
        if channel.outgoing.error is None:
            channel.outgoing.finishing = True
            self._schedule(channel)

    def reset(self, channel: Channel, code: ErrorCode) -> None:
        """Give our direction up, unless it was finished and everything is on its way."""
        outgoing = channel.outgoing
        if outgoing.settled or (outgoing.finishing and not outgoing.unsent):
            return
        outgoing.fail(Reset(code))
        self._wake_writer(channel)
        self._endings.reset(channel, code)

    def stop(self, channel: Channel, code: ErrorCode) -> None:
        """Drop what was not read and have the peer send no more."""
        incoming = channel.incoming
        if incoming.error is not None or incoming.drained:
            return
        self._fail_incoming(channel, Reset(code))
        if not incoming.over:
            self._endings.stop(channel, code)

    # ---- the parser's calls ----------------------------------------------------------------

    def frame(self, kind: int, flags: int, number: int, length: int) -> None:
        if kind == DATA:
            self._frames += not length
            self._begin_data(flags, number, length)
            return
        self._frames += 1
        if kind == UPDATE:
            self._update(flags, number, length)
        elif kind == PING:
            self._ping(flags, length)
        elif kind == GO_AWAY:
            self._go_away(length)
        else:
            raise RemoteProtocolError(f"a yamux frame of kind {kind}")

    def payload(self, part: memoryview) -> None:
        if self._note is not None:
            self._note += part
        elif self._target is not None and self._target.incoming.add(part):
            self._touched.append(self._target)

    def complete(self) -> None:
        said, self._note = self._note, None
        channel, self._target = self._target, None
        if said:
            self._noted(parse_note(bytes(said)))
        elif channel is not None and self._ends:
            self._ended(channel, self._ends)

    # ---- frames ----------------------------------------------------------------------------

    def _begin_data(self, flags: int, number: int, length: int) -> None:
        self._ends = flags & (FIN | RST)
        if number == SESSION:
            if length > NOTE_MAX:
                raise RemoteProtocolError(f"a note of {length} bytes")
            self._note = bytearray()
            return
        self._target = channel = self._channel(flags, number)
        if channel is not None:
            channel.incoming.announce(length)
        else:
            self._strays -= length
            if self._strays < 0:
                raise RemoteProtocolError("data for streams that have ended")

    def _settle(self) -> None:
        """Let readers have what has come."""
        for channel in self._touched:
            size = channel.incoming.settle()
            if size and channel in self._table:
                self._table.arrived(channel, size, self._now)
                if self._table.held > HELD_MAX:
                    self._refuse(channel)
            self._wake_reader(channel)
        self._touched.clear()

    def _refuse(self, channel: Channel) -> None:
        """More waits for readers than we have memory for: give the stream up."""
        self.reset(channel, ErrorCode.LIMIT)
        self.stop(channel, ErrorCode.LIMIT)

    def _check_floods(self) -> None:
        if self._frames > FRAMES_AT_ONCE:
            raise RemoteProtocolError("too many frames without payload", ErrorCode.LIMIT)
        if len(self._control) + len(self._acks) > UNREAD_MAX:
            raise RemoteProtocolError("our answers are not read", ErrorCode.LIMIT)

    def _channel(self, flags: int, number: int) -> Channel | None:
        """The channel a frame is about; None when it was forgotten, or is not welcome."""
        if flags & SYN:
            return self._opened(number)
        channel = self._table.find(number)
        if channel is not None and flags & ACK and not channel.acked:
            self._table.acknowledge(channel)
            self._tell_available()
        return channel

    def _opened(self, number: int) -> Channel | None:
        """The peer opens a stream: acknowledge it soon, or refuse it."""
        channel = self._table.accept(number)
        self._confirm()
        if channel is None:
            self._strays += INITIAL_WINDOW
            self._control += header(UPDATE, RST, number, 0)
            return None
        if not self._acks:
            self._acks_at = self._now + ACK_DELAY
        self._acks += header(UPDATE, ACK, number, self._table.grant(channel))
        self._events.append(Event(EventKind.OPENED, channel))
        return channel

    def _update(self, flags: int, number: int, credit: int) -> None:
        channel = self._channel(flags, number)
        if channel is None:
            return
        channel.outgoing.give(credit)
        self._schedule(channel)
        if flags & (FIN | RST):
            self._ended(channel, flags)

    def _ping(self, flags: int, value: int) -> None:
        self._confirm()
        if flags & SYN:
            self._takes_notes = self._takes_notes or value == HELLO
            self._control += header(PING, ACK, SESSION, value)
            return
        for channel in self._pulse.answered(value, self._now):
            if not channel.outgoing.settled:
                channel.outgoing.acknowledged = True
                self._events.append(Event(EventKind.FINISHED, channel))

    def _confirm(self) -> None:
        if not self._is_confirmed:
            self._is_confirmed = True
            self._events.append(Event(EventKind.CONFIRMED))

    def _go_away(self, why: int) -> None:
        if why == NORMAL:
            self._is_peer_leaving = True
            self._tell_available()
            return
        codes = {PROTOCOL_ERROR: ErrorCode.PROTOCOL, INTERNAL_ERROR: ErrorCode.INTERNAL}
        code = codes.get(why, ErrorCode.CANCELLED)
        self.lose(Closed(code, "the peer goes away", by_peer=True))

    def _noted(self, said: Note) -> None:
        if said.stream == SESSION:
            self.lose(Closed(said.code, said.reason, by_peer=True))
        else:
            channel = self._table.find(said.stream)
            if channel is not None:
                self._given_up(channel, said.code, said.direction)

    def _ended(self, channel: Channel, flags: int) -> None:
        if flags & RST:
            self._given_up(channel, channel.told, orp.BOTH, by_reset=True)
        elif not channel.incoming.over:
            channel.incoming.over = True
            self._wake_reader(channel)
            self._forget_if_over(channel)

    def _given_up(
        self,
        channel: Channel,
        code: ErrorCode,
        direction: orp.EndedDirection.ValueType,
        *,
        by_reset: bool = False,
    ) -> None:
        """The peer gives ``direction``, seen from itself, up."""
        incoming, outgoing = channel.incoming, channel.outgoing
        if direction != orp.RECEIVED and not incoming.over:
            self._fail_incoming(channel, Reset(code))
            incoming.over = True
        if direction != orp.SENT:
            if not outgoing.acknowledged:
                outgoing.fail(Reset(code))
                self._wake_writer(channel)
            if not outgoing.over:
                outgoing.over = True
                if not by_reset:
                    self._control += header(UPDATE, FIN, channel.number, 0)
        self._forget_if_over(channel)

    # ---- sending ---------------------------------------------------------------------------

    def _schedule(self, channel: Channel) -> None:
        """Let the channel have a turn if it has something to send."""
        outgoing = channel.outgoing
        if not outgoing.queued and outgoing.sendable and self.closed is None:
            outgoing.queued = True
            if channel.number == CONTROL and outgoing.unsent <= SMALL:
                self._turns.appendleft(channel)
            else:
                self._turns.append(channel)

    def _turn(self, channel: Channel, parts: list[bytes | memoryview], now: float) -> int:
        """Append one frame of the channel to ``parts``; its size."""
        outgoing = channel.outgoing
        outgoing.queued = False
        payload = outgoing.take(PAYLOAD_MAX)
        size = sum(map(len, payload))
        if size:
            parts.append(header(DATA, 0, channel.number, size))
            parts += payload
            if outgoing.blocked and not outgoing.full:
                self._wake_writer(channel)
        if outgoing.finishing and outgoing.error is None and not (outgoing.unsent or outgoing.over):
            # A frame of its own: a plain peer takes a FIN on data for the end of what came before.
            parts.append(header(UPDATE, FIN, channel.number, 0))
            size += HEADER_SIZE
            outgoing.over = True
            self._pulse.want(channel, now)
            self._forget_if_over(channel)
        else:
            self._schedule(channel)
        return size

    def _part(self, partings: list[Parting]) -> None:
        """Tell the peer which directions we have given up."""
        for channel, frames, reset in partings:
            self._control += frames
            if reset is not None:
                channel.outgoing.over = True
                if not channel.incoming.over:
                    self._fail_incoming(channel, Reset(reset))
                    channel.incoming.over = True
                    self._strays += channel.incoming.granted
            self._forget_if_over(channel)

    # ---- common ----------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        """Whether any stream lives: the control stream counts as none."""
        return len(self._table) > 1

    def _fail_incoming(self, channel: Channel, error: Reset) -> None:
        incoming = channel.incoming
        if channel in self._table:
            self._table.held -= incoming.held
        incoming.fail(error)
        self._wake_reader(channel)

    def _forget_if_over(self, channel: Channel) -> None:
        if self._table.forget(channel):
            self._tell_available()

    def _wake_reader(self, channel: Channel) -> None:
        if channel.incoming.hungry:
            channel.incoming.hungry = False
            self._events.append(Event(EventKind.READABLE, channel))

    def _wake_writer(self, channel: Channel) -> None:
        outgoing = channel.outgoing
        if outgoing.blocked:
            outgoing.blocked = False
            self._events.append(Event(EventKind.WRITABLE, channel))
        if outgoing.error is not None:
            self._events.append(Event(EventKind.FINISHED, channel))

    def _tell_available(self) -> None:
        if self._is_open_wanted:
            self._is_open_wanted = False
            self._events.append(Event(EventKind.AVAILABLE))
