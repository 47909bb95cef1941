"""The frames of ORP/1: their types, and the message each carries.

Numbers without a name here are unknown to us, whether they are reserved (0x005, 0x006,
0x030, 0x040, 0x100 to 0x103) or somebody else's extension: the decoder delivers their
frames, and who receives one decides (skip it on the control stream, reset a data stream).

Source: protocol.md sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.orp.v1 import orp_pb2 as orp


class FrameType(IntEnum):
    """What a frame is. From 0x700 on the types are ours, sent only to peers that know them."""

    HELLO = 0x001
    HELLO_ACK = 0x002
    REGISTER = 0x003
    REGISTER_ACK = 0x004
    OPEN_STREAM = 0x010
    INCOMING_STREAM = 0x011
    STREAM_ACCEPT = 0x012
    STREAM_REJECT = 0x013
    PING = 0x020
    PONG = 0x021
    GOAWAY = 0x0FF
    STREAM_CHECKPOINT = 0x110
    STREAM_RESUME = 0x111
    OBSERVED_ADDR_QUERY = 0x120
    OBSERVED_ADDR_RESP = 0x121
    CANDIDATE_OFFER = 0x122
    CANDIDATE_ANSWER = 0x123
    MIGRATE_TO_P2P = 0x124
    MIGRATE_TO_RELAY = 0x125
    FORWARD_STREAM = 0x140
    ALLOC_GRANTED = 0x151
    STREAM_READY = 0x152
    DEREGISTER = 0x700
    FORWARD_RESUME = 0x701
    STREAM_ENDED = 0x702
    RELAY_CONTROL = 0x703
    REGISTER_NACK = 0x704


MESSAGES: Final[Mapping[FrameType, type[Message]]] = MappingProxyType(
    {
        FrameType.HELLO: orp.Hello,
        FrameType.HELLO_ACK: orp.HelloAck,
        FrameType.REGISTER: orp.Register,
        FrameType.REGISTER_ACK: orp.RegisterAck,
        FrameType.OPEN_STREAM: orp.OpenStream,
        FrameType.INCOMING_STREAM: orp.IncomingStream,
        FrameType.STREAM_ACCEPT: orp.StreamAccept,
        FrameType.STREAM_REJECT: orp.StreamReject,
        FrameType.PING: Empty,
        FrameType.PONG: Empty,
        FrameType.GOAWAY: orp.Goaway,
        FrameType.STREAM_CHECKPOINT: orp.StreamCheckpoint,
        FrameType.STREAM_RESUME: orp.StreamResume,
        FrameType.OBSERVED_ADDR_QUERY: orp.ObservedAddrQuery,
        FrameType.OBSERVED_ADDR_RESP: orp.ObservedAddrResp,
        FrameType.CANDIDATE_OFFER: orp.CandidateOffer,
        FrameType.CANDIDATE_ANSWER: orp.CandidateAnswer,
        FrameType.MIGRATE_TO_P2P: orp.MigrateToP2P,
        FrameType.MIGRATE_TO_RELAY: orp.MigrateToRelay,
        FrameType.FORWARD_STREAM: orp.IncomingStream,
        FrameType.ALLOC_GRANTED: orp.AllocGranted,
        FrameType.STREAM_READY: orp.StreamReady,
        FrameType.DEREGISTER: orp.Register,
        FrameType.FORWARD_RESUME: orp.StreamResume,
        FrameType.STREAM_ENDED: orp.StreamEnded,
        FrameType.RELAY_CONTROL: Empty,
        FrameType.REGISTER_NACK: orp.StreamReject,
    }
)
"""What each type of frame carries: every type has its entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame as it was received.

    Args:
        type: A FrameType's number, or one unknown to us.
        payload: The message, still encoded.
    """

    type: int
    payload: bytes

    @property
    def name(self) -> str:
        """The type for people: ``HELLO``, or its number in hex."""
        return type_name(self.type)


def type_name(number: int) -> str:
    """The name of a frame type, or its number in hex where it has none."""
    try:
        return FrameType(number).name
    except ValueError:
        return f"0x{number:03x}"


def decode(frame: Frame) -> Message:
    """The message a frame carries; its fields that are unknown to us are kept.

    Returns:
        An instance of the class that ``MESSAGES`` has for the frame's type.

    Raises:
        RemoteProtocolError: The type is unknown to us, or the payload is no such message.
    """
    try:
        message = MESSAGES[FrameType(frame.type)]
    except ValueError:
        raise RemoteProtocolError(f"unknown frame type {frame.name}") from None
    try:
        return message.FromString(frame.payload)
    except DecodeError as error:
        raise RemoteProtocolError(f"malformed {frame.name} frame") from error
