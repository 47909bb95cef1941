"""Sending: packets filled from a queue of streams that have something to send.

aioquic visits every stream for every packet; here a stream is in the queue once while it
has data, FIN, a reset, a stop or credit to send, and gives others their turn after a few
packets. A run of full packets of one stream is built without the general packet builder.

Source: RFC 9000 sections 13 and 17.3, RFC 9002 section 7.7.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aioquic import tls as quic_tls
from aioquic.buffer import encode_uint_var, size_uint_var
from aioquic.quic.connection import QuicNetworkPath
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import (
    QuicDeliveryState,
    QuicPacketBuilder,
    QuicPacketBuilderStop,
    QuicSentPacket,
)
from aioquic.quic.recovery import QuicPacketSpace

from outrelay.lib.transport.quic.aioquic_receive import ReceivingConnection
from outrelay.lib.transport.quic.aioquic_streams import BURST, Pacer, StreamRecord
from outrelay.lib.transport.quic.engine import GROWTH_MAX, STREAM_WINDOW, STREAM_WINDOW_MAX

TURN = 16
"""Packets in a row a stream may fill while others wait."""

ROUND = 128
"""Packets after which each has had its turn, where many wait: who says little waits as little."""

_ONE_RTT = quic_tls.Epoch.ONE_RTT
_LOST = QuicDeliveryState.LOST
_STREAM_LEN = QuicFrameType.STREAM_BASE | 2
_SHORT_HEADER = 0x41  # fixed bit, two bytes of packet number
_DATA_FRAME = bytes((_STREAM_LEN | 4,))
_STREAM_OVERHEAD = 1 + 2 + 1 + 8 + 2 + 16
"""Bytes of a full packet beside its data and ids: header, number, frame, offset, length, tag."""


def _offset(value: int) -> bytes:
    """A stream offset in the eight-byte form, so that all packets of a run are alike."""
    return (value | 0xC000000000000000).to_bytes(8, "big")


class SendingConnection(ReceivingConnection):
    """The sending half of ``CoreConnection``."""

    finished: list[StreamRecord]
    lacks_streams: bool
    more: bool
    _pacer: Pacer

    def enqueue(self, record: StreamRecord) -> None:
        """The stream has something to send: data, FIN, reset, stop or credit."""
        if not record.queued:
            record.queued = True
            self._send_queue.append(record)

    def credit_due(self, record: StreamRecord) -> bool:
        """Whether enough was read since the last MAX_STREAM_DATA for another one."""
        if record.fin or record.stopped:
            return False
        given = record.quic.max_stream_data_local
        return bool(record.consumed + record.window - given >= record.window // 2)

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        crypto = self._cryptos[_ONE_RTT]
        if not crypto.send.is_valid():
            return
        space = self._spaces[_ONE_RTT]
        left = BURST
        while left > 0:
            acks = space.ack_at is not None and space.ack_at <= now
            errands = self._has_errands(network_path)
            if not acks:
                if not (errands or self._send_queue):
                    return
                self._pacing_at = self._pacer.blocked_until(now)
                if self._pacing_at is not None:
                    return
                built = 0 if errands else self._write_run(builder, network_path, now, left)
                if built:
                    left -= built
                    continue
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            if space.ack_at is not None:  # due, or on the way of something that is
                self._write_ack_frame(builder=builder, space=space, now=now)
                self._packets_unacked = 0
            if errands and self._handshake_complete:
                self._write_errands(builder, network_path, space, now)
            with suppress(QuicPacketBuilderStop):  # then the frame goes into the next packet
                self._write_streams(builder, now)
            if builder.packet_is_empty:
                return
            self._pacer.update_after_send(now=now)
            left -= 1
        self.more = True

    # Everything of a packet that is neither ACK nor stream

    def _has_errands(self, path: QuicNetworkPath) -> bool:
        return bool(
            self._ping_pending
            or self._probe_pending
            or self._handshake_done_pending
            or path.remote_challenges
            or not (path.is_validated or path.local_challenge_sent)
            or self._retire_connection_ids
            or self._limits_due
            or self.lacks_streams
            or not self._crypto_streams[_ONE_RTT].sender.buffer_is_empty
            or not self._host_cids[-1].was_sent
            or not all(cid.was_sent for cid in self._host_cids)
        )

    @property
    def _limits_due(self) -> bool:
        """Whether a MAX_STREAMS or MAX_DATA frame is worth a packet."""
        streams, data = self._stream_credit, self._local_max_data
        return (
            streams.value - streams.sent > streams.sent - streams.used
            or data.value != data.sent
            or data.used * 2 > data.value
        )

    def _write_errands(
        self,
        builder: QuicPacketBuilder,
        path: QuicNetworkPath,
        space: QuicPacketSpace,
        now: float,
    ) -> None:
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
        self._streams_blocked_pending = False  # no stream is, for `open` waits for credit
        if self.lacks_streams:
            self._write_lack(builder)
        if self._ping_pending:
            self._write_ping_frame(builder, self._ping_pending)
            self._ping_pending.clear()
        if self._probe_pending:
            self._write_ping_frame(builder)
            self._probe_pending = False
        crypto_stream = self._crypto_streams[_ONE_RTT]
        if not crypto_stream.sender.buffer_is_empty:
            self._write_crypto_frame(builder=builder, space=space, stream=crypto_stream)

    # Streams

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
        limit = self._credit(record)
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
        if self.credit_due(record):
            if (
                now - record.window_time < 2 * self._loss._rtt_smoothed
                and record.window < STREAM_WINDOW_MAX
                and self._growth + record.window <= GROWTH_MAX
            ):
                record.window *= 2
            record.window_time = now
            stream.max_stream_data_local = record.consumed + record.window
        if not self._credit_unsent(record):
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

    @property
    def _growth(self) -> int:
        """What the windows of all streams have grown by."""
        return sum(record.window - STREAM_WINDOW for record in self.streams.values())

    @staticmethod
    def _credit_unsent(record: StreamRecord) -> bool:
        """Whether the peer does not know the window, of a stream it still sends on."""
        stream = record.quic
        differs = stream.max_stream_data_local != stream.max_stream_data_local_sent
        return differs and not (record.fin or record.stopped)

    def _write_lack(self, builder: QuicPacketBuilder) -> None:
        """Say that we would open another stream: there are peers who give leave only then."""
        buf = builder.start_frame(
            QuicFrameType.STREAMS_BLOCKED_BIDI, capacity=1 + 8, handler=self._on_lack
        )
        buf.push_uint_var(self._remote_max_streams_bidi)
        self.lacks_streams = False

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

    def _write_run(
        self, builder: QuicPacketBuilder, path: QuicNetworkPath, now: float, most: int
    ) -> int:
        """Full packets of the stream whose turn it is; how many, 0 where the builder must."""
        record = self._send_queue[0]
        sender = record.quic.sender
        crypto = self._cryptos[_ONE_RTT]
        if (
            not len(sender._pending)
            or sender._reset_error_code is not None
            or record.quic.receiver.stop_pending
            or self.credit_due(record)
            or self._credit_unsent(record)
            or not path.is_validated
            or not self._handshake_confirmed
            or crypto._update_key_requested
        ):
            return 0
        pending = sender._pending[0]
        overhead = _STREAM_OVERHEAD + size_uint_var(record.id) + len(self._peer_cid.cid)
        size = self._max_datagram_size - overhead
        room = self._credit(record) - pending.start
        flight = (builder.max_flight_bytes or 0) - builder._flight_bytes
        packets = min(
            most,
            max(2, min(TURN, ROUND // len(self._send_queue))),
            self._pacer.allowance(now),
            (min(pending.stop, pending.start + room) - pending.start - 1) // size,
            flight // self._max_datagram_size,
        )
        if packets < 1:
            return 0
        if builder._packet is not None:
            builder._end_packet()
        stop = self._build_run(builder, record, pending.start, size, packets)
        sender._pending.subtract(pending.start, stop)
        if stop > sender.highest_offset:
            self._remote_max_data_used += stop - sender.highest_offset
            sender.highest_offset = stop
        self._pacer.spend(packets)
        self._send_queue.rotate(-1)
        return int(packets)

    def _build_run(
        self, builder: QuicPacketBuilder, record: StreamRecord, start: int, size: int, packets: int
    ) -> int:
        """Append ``packets`` packets of ``size`` bytes of the stream; returns where they end."""
        crypto = self._cryptos[_ONE_RTT]
        context = crypto.send
        assert context.aead is not None
        assert context.hp is not None
        first = bytes((_SHORT_HEADER | crypto.key_phase << 2,)) + self._peer_cid.cid
        stream_id = encode_uint_var(record.id)
        length = (size | 0x4000).to_bytes(2, "big")
        sender = record.quic.sender
        with memoryview(sender._buffer) as buffer:
            for _ in range(packets):
                number = builder._packet_number
                header = first + (number & 0xFFFF).to_bytes(2, "big")
                at = start - sender._buffer_start
                plain = b"".join(
                    (_DATA_FRAME, stream_id, _offset(start), length, buffer[at : at + size])
                )
                sealed = context.aead.encrypt(plain, header, number)
                datagram = context.hp.apply(header, sealed)
                sent = len(datagram)
                builder._datagrams.append(datagram)
                builder._packets.append(
                    QuicSentPacket(
                        epoch=_ONE_RTT,
                        in_flight=True,
                        is_ack_eliciting=True,
                        is_crypto_packet=False,
                        packet_number=number,
                        packet_type=QuicPacketType.ONE_RTT,
                        sent_bytes=sent,
                        delivery_handlers=[(self._on_data, (record, start, start + size, False))],
                    )
                )
                builder._packet_number = number + 1
                builder._flight_bytes += sent
                builder._total_bytes += sent
                start += size
        return start

    def _credit(self, record: StreamRecord) -> int:
        """The offset up to which the peer lets us send."""
        stream = record.quic
        by_connection = (
            stream.sender.highest_offset + self._remote_max_data - self._remote_max_data_used
        )
        return int(min(by_connection, stream.max_stream_data_remote))

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

    def _on_lack(self, delivery: QuicDeliveryState) -> None:
        self.lacks_streams = self.lacks_streams or delivery is _LOST

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
