"""aioquic's connection with our rules for sending, credit and path size.

What differs from aioquic, and why:

- Stream credit is raised as the reader takes bytes (``StreamRecord.consumed``), not as they
  arrive, and the number of streams a peer may open only when one of ours is *done with*:
  a reader that stops makes the far writer wait, and unread data of finished streams counts.
- Receiving and sending have short cuts for bulk data (``aioquic_receive``, ``aioquic_send``).
- One call builds at most a burst; pacing allows what a millisecond timer can keep up with.
- The datagram size is raised by probes of our own and lowered when full-size packets vanish.

The modules ``aioquic_*`` and ``tls`` are all that touches aioquic's private names; the
version is pinned.

Source: RFC 9000 sections 4 and 14, RFC 9002 section 7.7; protocol.md section 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from aioquic import tls as quic_tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import Limit, QuicConnectionState, QuicNetworkPath
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.stream import QuicStream

from outrelay.lib.transport.carrier import WRITE_BUFFER
from outrelay.lib.transport.quic.aioquic_send import SendingConnection
from outrelay.lib.transport.quic.aioquic_streams import GrantedLimit, Pacer, StreamRecord
from outrelay.lib.transport.quic.ends import FORGOTTEN, cut
from outrelay.lib.transport.quic.engine import CONNECTION_WINDOW, FLIGHT_MAX, STREAMS
from outrelay.lib.transport.quic.pathsize import PathSize
from outrelay.lib.transport.quic.tls import Judge, MutualContext

WRITE_AGAIN = WRITE_BUFFER // 2
"""Unsent bytes at which a waiting writer is woken."""

ACK_DELAY = 0.005
"""Seconds an acknowledgement may wait for a packet to travel with."""

KEY_LIFE = 1 << 22
"""Packets, in either direction, after which the dialling side has the keys changed."""

_ONE_RTT = quic_tls.Epoch.ONE_RTT
_LOST = QuicDeliveryState.LOST


class CoreConnection(SendingConnection):
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
        self.readable: set[StreamRecord] = set()  # to which something was delivered
        self.finished: list[StreamRecord] = []  # whose sending ended since the engine looked
        self.blocked: dict[int, StreamRecord] = {}  # whose writer waits for room
        self.waits_for_streams = False
        self.lacks_streams = False  # and has not said so
        self.more = False  # the last burst left something to send
        self._send_queue: deque[StreamRecord] = deque()
        self._loss._pacer = self._pacer = Pacer(max_datagram_size=self._max_datagram_size)
        self._local_max_data = Limit(QuicFrameType.MAX_DATA, "max_data", CONNECTION_WINDOW)
        self._stream_credit = GrantedLimit(
            QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", STREAMS
        )
        self._local_max_streams_bidi = self._stream_credit
        self._local_max_streams_uni = GrantedLimit(
            QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", 0
        )
        self._ack_delay = ACK_DELAY
        self.path_size = PathSize(sizes)
        self._keys_changed_at = 0

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
    def host_ids(self) -> list[bytes]:
        """The ids the peer may send to."""
        return [cid.cid for cid in self._host_cids]

    @property
    def peer_reset_tokens(self) -> list[bytes]:
        """Tokens of the ids we may be sending to."""
        ids = [self._peer_cid, *self._peer_cid_available]
        return [cid.stateless_reset_token for cid in ids if cid.stateless_reset_token]

    def forgotten(self) -> None:
        """The peer has sent a stateless reset: nothing is left to talk to."""
        if self._state is QuicConnectionState.TERMINATED:
            return  # every packet of a burst is answered with one
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

    def unblocked(self) -> list[StreamRecord]:
        """Take the streams whose waiting writer has room again."""
        ready = [record for record in self.blocked.values() if record.unsent <= WRITE_AGAIN]
        for record in ready:
            del self.blocked[record.id]
        return ready

    # Overrides

    def close(
        self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """Cut a reason that would not fit a packet: a close that cannot be sent never ends."""
        super().close(error_code, frame_type, cut(reason_phrase))

    def _on_path_challenge_delivery(
        self, delivery: QuicDeliveryState, network_path: QuicNetworkPath
    ) -> None:
        """Ask again, also when the question arrived: its answer may be lost, and is sent once."""
        super()._on_path_challenge_delivery(_LOST, network_path)

    def _replenish_connection_ids(self) -> None:
        known = len(self._host_cids)
        super()._replenish_connection_ids()
        for cid in self._host_cids[known:]:
            cid.stateless_reset_token = self._reset_token(cid.cid)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls = MutualContext.adopt(self.tls, self._judge)

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        if self.path_size.lowered_by(self._loss._pto_count):
            self._set_path_size(self.path_size.current)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        self.more = False
        if self._is_client and self._handshake_confirmed:
            self._change_old_keys()
        control = self._loss._cc  # aioquic's window grows also while nothing fills it
        control.congestion_window = min(control.congestion_window, FLIGHT_MAX)
        datagrams = super().datagrams_to_send(now)
        self._streams_queue.clear()  # aioquic's own queue: the records are ours
        if not self.more and self._handshake_confirmed and self._close_event is None:
            datagrams += self._probe_path_size(now)
        return datagrams

    def _change_old_keys(self) -> None:
        """Keep to the packets a key is good for (RFC 9001 section 6.6).

        One side alone does it: aioquic keeps no old keys, so that two changes at once, or one
        while the client's address changes, would leave the sides deaf to each other.
        """
        packets = max(self._packet_number, self._spaces[_ONE_RTT].largest_received_packet)
        if packets - self._keys_changed_at >= KEY_LIFE:
            self._keys_changed_at = packets
            self.request_key_update()

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
        self._pacer._max_datagram_size = size
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]

    def _record(self, stream: QuicStream, *, local: bool) -> StreamRecord:
        assert stream.stream_id is not None
        record = self.streams[stream.stream_id] = StreamRecord(
            stream, stream.stream_id, local=local
        )
        return record
