"""aioquic's connection with our rules for sending, credit and path size.

What differs from aioquic, and why:

- Stream credit is raised as the reader takes bytes (``StreamRecord.consumed``), not as they
  arrive, and the number of streams a peer may open only when one of ours is *done with*:
  a reader that stops makes the far writer wait, and unread data of finished streams counts.
- Packets are filled from a queue of streams that have something to send, each one packet at
  a time. aioquic visits every stream for every packet.
- One call builds at most a burst; pacing allows what a millisecond timer can keep up with.
- The datagram size is raised by probes of our own and lowered when full-size packets vanish.

This module and ``tls`` are all that touches aioquic's private names; the version is pinned.

Source: RFC 9000 sections 4 and 14, RFC 9002 section 7.7; protocol.md section 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aioquic import tls as quic_tls
from aioquic.buffer import size_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    Limit,
    QuicConnection,
    QuicConnectionState,
    QuicNetworkPath,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import (
    QuicDeliveryState,
    QuicPacketBuilder,
    QuicPacketBuilderStop,
)
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream

from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.quic.engine import (
    CONNECTION_WINDOW,
    STREAM_WINDOW,
    STREAM_WINDOW_MAX,
    STREAMS,
)
from outrelay.lib.transport.quic.pathsize import PathSize
from outrelay.lib.transport.quic.tls import Judge, MutualContext

BURST = 64
"""Packets one call builds: about a millisecond of work, so that others get their turn."""

PACING_SLACK = 0.004
"""Seconds of sending a late timer may make up for."""

WRITE_AGAIN = WRITE_BUFFER // 2
"""Unsent bytes at which a waiting writer is woken."""

ACK_EVERY = 24
"""Packets received that are worth an ACK of their own before its delay is over."""

FORGOTTEN = "the peer has restarted"
"""Reason of the end of a connection that a stateless reset announced."""

_ONE_RTT = quic_tls.Epoch.ONE_RTT
_LOST = QuicDeliveryState.LOST
_STREAM_LEN = QuicFrameType.STREAM_BASE | 2


class StreamRecord:
    """What the engine keeps of a stream beside aioquic's own state."""

    __slots__ = (
        "buffer",
        "consumed",
        "fin",
        "finish_reported",
        "id",
        "local",
        "queued",
        "quic",
        "read_done",
        "reset_code",
        "stopped",
        "window",
        "window_time",
    )  # fmt: skip

    def __init__(self, quic: QuicStream, stream_id: int, *, local: bool) -> None:
        self.quic = quic
        self.id = stream_id
        self.local = local
        self.buffer = bytearray()
        self.consumed = 0
        self.window = STREAM_WINDOW
        self.window_time = 0.0
        self.fin = False  # everything has arrived
        self.read_done = False  # and the reader has been told
        self.stopped = False
        self.reset_code: int | None = None
        self.queued = False
        self.finish_reported = False

    @property
    def unsent(self) -> int:
        """Bytes written that no packet has carried yet."""
        sender = self.quic.sender
        return int(sender._buffer_stop - sender.highest_offset)


class _Granted(Limit):
    """A limit that only we raise: aioquic's own ``value += 1`` has no effect."""

    def __init__(self, frame_type: int, name: str, value: int) -> None:
        self._granted = value
        super().__init__(frame_type, name, value)

    @property
    def value(self) -> int:
        return self._granted

    @value.setter
    def value(self, value: int) -> None:
        pass

    def grant(self) -> None:
        self._granted += 1


class _Pacer(QuicPacketPacer):
    """aioquic's pacer with a burst that outlasts asyncio's timer granularity."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, PACING_SLACK)


class CoreConnection(QuicConnection):
    """One QUIC connection; the engine feeds it and reads ``streams`` and its events.

    Args:
        configuration: aioquic's.
        judge: Verifies the peer's chain inside the handshake.
        sizes: Datagram sizes, ascending.
        reset_token: Makes the stateless reset token of a connection id of ours.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        judge: Judge,
        sizes: tuple[int, ...],
        reset_token: Callable[[bytes], bytes],
        **keywords: Any,
    ) -> None:
        super().__init__(configuration=configuration, **keywords)
        self._reset_token = reset_token
        if not self._is_client:  # a client's first id comes with no token
            self._host_cids[0].stateless_reset_token = reset_token(self._host_cids[0].cid)
        self._judge = judge
        self.streams: dict[int, StreamRecord] = {}
        self.finished: list[StreamRecord] = []  # whose sending ended since the engine looked
        self.blocked: dict[int, StreamRecord] = {}  # whose writer waits for room
        self.waits_for_streams = False
        self.more = False  # the last burst left something to send
        self._send_queue: deque[StreamRecord] = deque()
        self._loss._pacer = _Pacer(max_datagram_size=self._max_datagram_size)
        self._local_max_data = Limit(QuicFrameType.MAX_DATA, "max_data", CONNECTION_WINDOW)
        self._stream_credit = _Granted(QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", STREAMS)
        self._local_max_streams_bidi = self._stream_credit
        self._local_max_streams_uni = _Granted(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", 0)
        self.path_size = PathSize(sizes)
        self._packets_unacked = 0

    # What the engine asks

    @property
    def begun(self) -> bool:
        """Whether a packet of the peer's could be decrypted, or we dialled."""
        return self._is_client or self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def confirmed(self) -> bool:
        """Both sides have accepted each other's certificate."""
        return bool(self._handshake_confirmed)

    @property
    def closing(self) -> Any:
        """aioquic's ConnectionTerminated as soon as the end is decided, else None."""
        return self._close_event

    @property
    def closed_by_peer(self) -> bool:
        """Whether the end came in a CONNECTION_CLOSE of the peer's."""
        return self._state is QuicConnectionState.DRAINING

    @property
    def has_streams_credit(self) -> bool:
        """Whether the peer lets us open another stream."""
        return bool(self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi)

    @property
    def peer_reset_tokens(self) -> list[bytes]:
        """Tokens of the ids we may be sending to."""
        ids = [self._peer_cid, *self._peer_cid_available]
        return [cid.stateless_reset_token for cid in ids if cid.stateless_reset_token]

    def forgotten(self) -> None:
        """The peer has sent a stateless reset: nothing is left to talk to."""
        self._close_event = ConnectionTerminated(
            error_code=QuicErrorCode.NO_ERROR, frame_type=0, reason_phrase=FORGOTTEN
        )
        self._close_end()

    def open(self) -> StreamRecord:
        """Open the next bidirectional stream; the peer hears of it with its first frame."""
        stream_id = self.get_next_available_stream_id()
        return self._record(self._get_or_create_stream_for_send(stream_id), local=True)

    def record(self, stream_id: int) -> tuple[StreamRecord | None, bool]:
        """The record of a stream an event names, and whether it is new."""
        known = self.streams.get(stream_id)
        if known is not None:
            return known, False
        stream = self._streams.get(stream_id)
        if stream is None:
            return None, False
        return self._record(stream, local=False), True

    def enqueue(self, record: StreamRecord) -> None:
        """The stream has something to send: data, FIN, reset, stop or credit."""
        if not record.queued:
            record.queued = True
            self._send_queue.append(record)

    def unblocked(self) -> list[StreamRecord]:
        """Take the streams whose waiting writer has room again."""
        ready = [record for record in self.blocked.values() if record.unsent <= WRITE_AGAIN]
        for record in ready:
            del self.blocked[record.id]
        return ready

    def credit_due(self, record: StreamRecord) -> bool:
        """Whether enough was read since the last MAX_STREAM_DATA for another one."""
        given = record.quic.max_stream_data_local
        return bool(record.consumed + record.window - given >= record.window // 2)

    def release_if_done(self, record: StreamRecord) -> None:
        """Forget the stream once both directions ended and the reader was told."""
        if not (record.read_done and record.quic.is_finished and record.id in self.streams):
            return
        del self.streams[record.id]
        self.blocked.pop(record.id, None)
        self._streams.pop(record.id, None)
        if not record.local:
            self._stream_credit.grant()

    @property
    def limits_due(self) -> bool:
        """Whether a MAX_STREAMS or MAX_DATA frame is worth a packet."""
        streams, data = self._stream_credit, self._local_max_data
        return (
            streams.value - streams.sent > streams.sent - streams.used
            or data.value != data.sent
            or data.used * 2 > data.value
        )

    # Overrides

    def _replenish_connection_ids(self) -> None:
        known = len(self._host_cids)
        super()._replenish_connection_ids()
        for cid in self._host_cids[known:]:
            cid.stateless_reset_token = self._reset_token(cid.cid)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls = MutualContext.adopt(self.tls, self._judge)

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        super().receive_datagram(data, addr, now)
        self._packets_unacked += 1
        if self._packets_unacked >= ACK_EVERY and self._handshake_confirmed:
            space = self._spaces[_ONE_RTT]
            if space.ack_at is not None:
                space.ack_at = now

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        if self.path_size.lowered_by(self._loss._pto_count):
            self._set_path_size(self.path_size.current)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        self.more = False
        datagrams = super().datagrams_to_send(now)
        self._streams_queue.clear()  # aioquic's own queue: the records are ours
        if not datagrams and self._handshake_confirmed and self._close_event is None:
            datagrams += self._probe_path_size(now)
        return datagrams

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        crypto = self._cryptos[_ONE_RTT]
        if not crypto.send.is_valid():
            return
        space = self._spaces[_ONE_RTT]
        pacer = self._loss._pacer
        for _ in range(BURST):
            acks = space.ack_at is not None and space.ack_at <= now
            if not acks:
                if not self._anything_to_send(network_path):
                    return
                self._pacing_at = pacer.next_send_time(now=now)
                if self._pacing_at is not None:
                    return
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            if acks:
                self._write_ack_frame(builder=builder, space=space, now=now)
                self._packets_unacked = 0
            if self._handshake_complete:
                self._write_housekeeping(builder, network_path, space, now)
            with suppress(QuicPacketBuilderStop):  # then the frame goes into the next packet
                self._write_streams(builder, now)
            if builder.packet_is_empty:
                return
            pacer.update_after_send(now=now)
        self.more = True

    def _anything_to_send(self, path: QuicNetworkPath) -> bool:
        return bool(
            self._send_queue
            or self._ping_pending
            or self._probe_pending
            or self._handshake_done_pending
            or path.remote_challenges
            or not (path.is_validated or path.local_challenge_sent)
            or self._retire_connection_ids
            or self._streams_blocked_pending
            or self.limits_due
            or not self._crypto_streams[_ONE_RTT].sender.buffer_is_empty
            or not all(cid.was_sent for cid in self._host_cids)
        )

    def _write_housekeeping(
        self,
        builder: QuicPacketBuilder,
        path: QuicNetworkPath,
        space: QuicPacketSpace,
        now: float,
    ) -> None:
        """Everything of a packet that is neither ACK nor stream."""
        if not (path.is_validated or path.local_challenge_sent):
            self._write_path_challenge_frame(builder=builder, network_path=path)
            if path.validation_deadline is None:
                timeout = max(self._loss.get_probe_timeout(), 2 * self._configuration.initial_rtt)
                path.validation_deadline = now + 3 * timeout  # RFC 9000 section 8.2.4
        if self._handshake_done_pending:
            self._write_handshake_done_frame(builder=builder)
            self._handshake_done_pending = False
        while path.remote_challenges:
            self._write_path_response_frame(builder, path.remote_challenges[0])
            path.remote_challenges.popleft()
        for cid in self._host_cids:
            if not cid.was_sent:
                self._write_new_connection_id_frame(builder=builder, connection_id=cid)
        while self._retire_connection_ids:
            self._write_retire_connection_id_frame(builder, self._retire_connection_ids[0])
            self._retire_connection_ids.pop(0)
        self._write_connection_limits(builder=builder, space=space)
        self._streams_blocked_pending = False  # `open` waits for credit: never blocked
        if self._ping_pending:
            self._write_ping_frame(builder, self._ping_pending)
            self._ping_pending.clear()
        if self._probe_pending:
            self._write_ping_frame(builder)
            self._probe_pending = False
        crypto_stream = self._crypto_streams[_ONE_RTT]
        if not crypto_stream.sender.buffer_is_empty:
            self._write_crypto_frame(builder=builder, space=space, stream=crypto_stream)

    def _write_streams(self, builder: QuicPacketBuilder, now: float) -> None:
        """Fill the packet from the queue; a stream with more to send goes to the end."""
        queue = self._send_queue
        for _ in range(len(queue)):
            record = queue[0]
            wants_more = self._write_stream(builder, record, now)  # may raise: packet full
            queue.popleft()
            if wants_more:
                queue.append(record)
                return
            record.queued = False

    def _write_stream(self, builder: QuicPacketBuilder, record: StreamRecord, now: float) -> bool:
        """Write the stream's due frames; True when it has more that may be sent now."""
        self._write_credit(builder, record, now)
        stream = record.quic
        if stream.receiver.stop_pending:
            self._write_stop(builder, record)
        sender = stream.sender
        if sender.reset_pending:
            self._write_reset(builder, record)
            return False
        if sender.buffer_is_empty or sender._reset_error_code is not None:
            return False
        credit = sender.highest_offset + self._remote_max_data - self._remote_max_data_used
        limit = min(credit, stream.max_stream_data_remote)
        before = sender.highest_offset
        if not self._write_data(builder, record, limit):
            # Nothing fitted: out of space means the next packet, out of credit means wait.
            pending = sender._pending
            return pending[0].start < limit if len(pending) else bool(sender._pending_eof)
        self._remote_max_data_used += sender.highest_offset - before
        return bool(len(sender._pending) or sender._pending_eof)

    def _write_data(self, builder: QuicPacketBuilder, record: StreamRecord, limit: int) -> bool:
        sender = record.quic.sender
        offset = sender.next_offset
        overhead = 3 + size_uint_var(record.id) + (size_uint_var(offset) if offset else 0)
        frame = sender.get_frame(builder.remaining_flight_space - overhead, limit)
        if frame is None:
            return False
        size = len(frame.data)
        kind = _STREAM_LEN | (4 if frame.offset else 0) | (1 if frame.fin else 0)
        buf = builder.start_frame(
            kind,
            capacity=overhead,
            handler=self._on_data,
            handler_args=(record, frame.offset, frame.offset + size, frame.fin),
        )
        buf.push_uint_var(record.id)
        if frame.offset:
            buf.push_uint_var(frame.offset)
        buf.push_uint16(size | 0x4000)
        buf.push_bytes(frame.data)
        return True

    def _write_credit(self, builder: QuicPacketBuilder, record: StreamRecord, now: float) -> None:
        """Raise the stream's window once half of it was read; double it when that was quick."""
        stream = record.quic
        if record.fin or record.stopped:
            return
        if self.credit_due(record):
            if (
                now - record.window_time < 2 * self._loss._rtt_smoothed
                and record.window < STREAM_WINDOW_MAX
            ):
                record.window *= 2
            record.window_time = now
            stream.max_stream_data_local = record.consumed + record.window
        if stream.max_stream_data_local == stream.max_stream_data_local_sent:
            return
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=1 + 8 + 8,
            handler=self._on_credit,
            handler_args=(record,),
        )
        buf.push_uint_var(record.id)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _write_stop(self, builder: QuicPacketBuilder, record: StreamRecord) -> None:
        buf = builder.start_frame(
            QuicFrameType.STOP_SENDING,
            capacity=1 + 8 + 8,
            handler=self._on_stop,
            handler_args=(record,),
        )
        frame = record.quic.receiver.get_stop_frame()
        buf.push_uint_var(frame.stream_id)
        buf.push_uint_var(frame.error_code)

    def _write_reset(self, builder: QuicPacketBuilder, record: StreamRecord) -> None:
        buf = builder.start_frame(
            QuicFrameType.RESET_STREAM,
            capacity=1 + 8 + 8 + 8,
            handler=self._on_reset,
            handler_args=(record,),
        )
        frame = record.quic.sender.get_reset_frame()
        buf.push_uint_var(frame.stream_id)
        buf.push_uint_var(frame.error_code)
        buf.push_uint_var(frame.final_size)

    def _handle_max_stream_data_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        position = buf.tell()
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        end = buf.tell()
        buf.seek(position)
        record = self.streams.get(buf.pull_uint_var())
        buf.seek(end)
        if record is not None and not record.quic.sender.buffer_is_empty:
            self.enqueue(record)

    def _handle_max_data_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        for record in self.streams.values():
            if not record.quic.sender.buffer_is_empty:
                self.enqueue(record)

    # What became of a frame

    def _on_data(
        self, delivery: QuicDeliveryState, record: StreamRecord, start: int, stop: int, fin: bool
    ) -> None:
        record.quic.sender.on_data_delivery(delivery, start, stop, fin)
        self._after_delivery(delivery, record)

    def _on_reset(self, delivery: QuicDeliveryState, record: StreamRecord) -> None:
        record.quic.sender.on_reset_delivery(delivery)
        self._after_delivery(delivery, record)

    def _on_stop(self, delivery: QuicDeliveryState, record: StreamRecord) -> None:
        record.quic.receiver.on_stop_sending_delivery(delivery)
        self._after_delivery(delivery, record)

    def _on_credit(self, delivery: QuicDeliveryState, record: StreamRecord) -> None:
        self._on_max_stream_data_delivery(delivery, record.quic)
        self._after_delivery(delivery, record)

    def _after_delivery(self, delivery: QuicDeliveryState, record: StreamRecord) -> None:
        if delivery is _LOST:
            self.enqueue(record)
        elif record.quic.sender.is_finished:
            self._sender_finished(record)

    def _sender_finished(self, record: StreamRecord) -> None:
        if not record.finish_reported:
            record.finish_reported = True
            self.finished.append(record)
        self.release_if_done(record)

    # Path size

    def _probe_path_size(self, now: float) -> list[tuple[bytes, Any]]:
        """A padded PING of the next size to try, outside congestion control."""
        size = self.path_size.next_probe(now)
        if size is None:
            return []
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            version=self._version or 0,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[_ONE_RTT])
        builder.start_frame(QuicFrameType.PING, handler=self._on_probe, handler_args=(size, now))
        builder._datagram_needs_padding = True
        assert builder._packet is not None
        packet = builder._packet
        datagrams = self._flush_builder(
            builder=builder,
            network_path=self._network_paths[0],
            peer_cid=self._peer_cid.cid,
            now=now,
        )
        self._loss._cc.on_packets_expired(packets=[packet])
        packet.in_flight = False
        return datagrams

    def _on_probe(self, delivery: QuicDeliveryState, size: int, sent: float) -> None:
        if delivery is _LOST:
            self.path_size.probe_lost(size, sent)
        elif self.path_size.probe_arrived(size):
            self._set_path_size(size)

    def _set_path_size(self, size: int) -> None:
        self._max_datagram_size = size
        self._loss._pacer._max_datagram_size = size
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]

    def _record(self, stream: QuicStream, *, local: bool) -> StreamRecord:
        assert stream.stream_id is not None
        record = self.streams[stream.stream_id] = StreamRecord(
            stream, stream.stream_id, local=local
        )
        return record
