"""Receiving: aioquic's way, with a short cut for what nearly every packet is.

A packet of an established connection, on its usual path and under the current key, whose
frames are stream data in order, goes straight from decryption into the stream's buffer.
Everything else, and everything odd, takes aioquic's own way; both leave the same state.

What arrives out of order is kept until the gaps before it are filled. How many gaps there
may be, and how much of a handshake may lie behind one, is bounded: a peer chooses both.

Source: RFC 9000 sections 12 and 13, RFC 9001 section 5.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aioquic import tls as quic_tls
from aioquic._buffer import Buffer, BufferReadError
from aioquic._crypto import CryptoError
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicReceiveContext
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, decode_packet_number
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver

from outrelay.lib.transport.quic.aioquic_streams import GrantedLimit, StreamRecord
from outrelay.lib.transport.quic.header import CID_LENGTH
from outrelay.lib.transport.quic.ranges import Ranges

ACK_EVERY = 24
"""Packets received that are worth an ACK of their own before its delay is over."""

GAPS_MAX = 4096
"""Gaps in what arrived of one stream: 4 KiB for each where the window is the largest."""

CRYPTO_GAPS_MAX = 64
CRYPTO_AHEAD_MAX = 64 * 1024
"""Bytes of a handshake from those we wait for to the last that arrived; chains are short."""

_ONE_RTT = quic_tls.Epoch.ONE_RTT
_NUMBER_AT = 1 + CID_LENGTH
_SAMPLE_AT = _NUMBER_AT + 4
_SAMPLE_END = _SAMPLE_AT + 16
_STREAM_FRAMES = range(0x08, 0x10)
_IDLE_STEP = 0.25
"""Seconds by which the idle deadline may lag behind the last packet."""


class ReceivingConnection(QuicConnection):
    """The receiving half of ``CoreConnection``."""

    streams: dict[int, StreamRecord]
    readable: set[StreamRecord]
    blocked: dict[int, StreamRecord]
    _stream_credit: GrantedLimit
    _send_queue: deque[StreamRecord]
    _packets_unacked = 0
    _idle_marked = 0.0

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        if not (
            self._handshake_confirmed
            and data[0] & 0x80 == 0
            and len(data) >= _SAMPLE_END
            and self._receive_usual(data, addr, now)
        ):
            super().receive_datagram(data, addr, now)
        self._packets_unacked += 1
        if self._packets_unacked >= ACK_EVERY and self._handshake_confirmed:
            space = self._spaces[_ONE_RTT]
            if space.ack_at is not None:
                space.ack_at = now

    def _receive_usual(self, data: bytes, addr: Any, now: float) -> bool:
        """Take the short cut; False, with nothing changed, where it does not lead."""
        path = self._network_paths[0]
        if (
            addr != path.addr
            or data[1:_NUMBER_AT] != self.host_cid
            or not path.is_validated
            or self._close_event is not None
        ):
            return False
        space = self._spaces[_ONE_RTT]
        opened = self._open_packet(data, space)
        if opened is None:
            return False
        number, payload = opened
        if number not in space.received_packets:
            if number > space.expected_packet_number:
                space.expected_packet_number = number + 1
            self._take_payload(payload, number, space, now)
        return True

    def _open_packet(self, data: bytes, space: QuicPacketSpace) -> tuple[int, bytes] | None:
        """Number and plain payload; None for another key phase, damage, or reserved bits."""
        context = self._cryptos[_ONE_RTT].recv
        if context.hp is None or context.aead is None:
            return None
        mask = context.hp._mask(data[_SAMPLE_AT:_SAMPLE_END])
        first = data[0] ^ (mask[0] & 0x1F)
        if (first & 0x04) >> 2 != context.key_phase or first & 0x18:
            return None
        end = _NUMBER_AT + (first & 0x03) + 1
        width = end - _NUMBER_AT
        truncated = int.from_bytes(data[_NUMBER_AT:end], "big") ^ int.from_bytes(
            mask[1 : 1 + width], "big"
        )
        header = bytes((first,)) + data[1:_NUMBER_AT] + truncated.to_bytes(width, "big")
        number = decode_packet_number(truncated, width * 8, space.expected_packet_number)
        try:
            return number, context.aead.decrypt(data[end:], header, number)
        except CryptoError:
            return None

    def _take_payload(
        self, payload: bytes, number: int, space: QuicPacketSpace, now: float
    ) -> None:
        context = QuicReceiveContext(
            epoch=_ONE_RTT,
            host_cid=self.host_cid,
            network_path=self._network_paths[0],
            quic_logger_frames=None,
            time=now,
            version=None,
        )
        asks_for_ack = self._take_frames(context, payload)
        if self._close_event is not None:
            return
        if now - self._idle_marked > _IDLE_STEP:
            self._idle_marked = now
            self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if asks_for_ack and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    def _take_frames(self, context: QuicReceiveContext, payload: bytes) -> bool:
        """Handle the frames; True when one of them asks for an acknowledgement."""
        if payload and payload[0] in _STREAM_FRAMES and self._take_only_stream(payload):
            return True
        try:
            return bool(self._payload_received(context, payload)[0])
        except QuicConnectionError as error:
            self.close(
                error_code=error.error_code,
                frame_type=error.frame_type,
                reason_phrase=error.reason_phrase,
            )
            return False

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        _bound_gaps(stream.receiver, GAPS_MAX, frame_type)
        return stream

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        receiver = self._crypto_streams[context.epoch].receiver
        _bound_gaps(receiver, CRYPTO_GAPS_MAX, frame_type)
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        if end - receiver.starting_offset() > CRYPTO_AHEAD_MAX:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too much of the handshake is out of order",
            )
        super()._handle_crypto_frame(context, frame_type, buf)

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        queued = len(self._events)
        super()._handle_stream_frame(context, frame_type, buf)
        if len(self._events) == queued:
            return
        event = self._events[-1]
        assert isinstance(event, StreamDataReceived)
        record = self.streams.get(event.stream_id)
        if record is not None:  # else the engine makes one of the events, in their order
            self._events.pop()
            self.deliver(record, event.data, fin=event.end_stream)

    def deliver(self, record: StreamRecord, data: bytes | memoryview, *, fin: bool) -> None:
        """Next bytes of a stream, for its reader."""
        if record.stopped:
            self.release_if_done(record)
            return
        record.buffer += data
        record.fin = fin
        self.readable.add(record)

    def release_if_done(self, record: StreamRecord) -> None:
        """Forget the stream once both directions ended and the reader was told."""
        if not (record.read_done and record.quic.is_finished and record.id in self.streams):
            return
        del self.streams[record.id]
        self.blocked.pop(record.id, None)
        self._streams.pop(record.id, None)
        if not record.local:
            self._stream_credit.grant()

    def _take_only_stream(self, payload: bytes) -> bool:
        """Take a payload that is one frame of stream data, next in order; else change nothing."""
        kind = payload[0]
        buf = Buffer(data=payload)
        buf.pull_uint8()
        try:
            record = self.streams.get(buf.pull_uint_var())
            offset = buf.pull_uint_var() if kind & 0x04 else 0
            length = buf.pull_uint_var() if kind & 0x02 else buf.capacity - buf.tell()
        except BufferReadError:
            return False
        start = buf.tell()
        if record is None or record.stopped or not length or start + length != buf.capacity:
            return False
        stream = record.quic
        receiver = stream.receiver
        end = offset + length
        data_limit = self._local_max_data
        if (
            offset != receiver._buffer_start
            or offset != receiver.highest_offset
            or receiver._final_size is not None
            or end > stream.max_stream_data_local
            or data_limit.used + length > data_limit.value
        ):
            return False
        receiver._buffer_start = receiver.highest_offset = end
        data_limit.used += length
        fin = bool(kind & 0x01)
        if fin:
            receiver._final_size = end
            receiver.is_finished = True
        self.deliver(record, memoryview(payload)[start:], fin=fin)
        return True


def _bound_gaps(receiver: QuicStreamReceiver, most: int, frame_type: int) -> None:
    """See that the next frame finds its place quickly, or end the connection."""
    if not isinstance(receiver._ranges, Ranges):
        assert not len(receiver._ranges)
        receiver._ranges = Ranges()  # type: ignore[assignment]
    if len(receiver._ranges) > most:
        raise QuicConnectionError(
            error_code=QuicErrorCode.PROTOCOL_VIOLATION,
            frame_type=frame_type,
            reason_phrase="too many gaps in the data",
        )
