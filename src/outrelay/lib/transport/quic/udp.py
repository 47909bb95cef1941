"""A non-blocking UDP socket that moves batches: UDP_GRO in, UDP_SEGMENT out.

Where the kernel lacks either, one datagram a system call does the same.

Source: Linux udp(7), ip(7) (IP_MTU_DISCOVER, IP_RECVERR).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.engine import Transmit
from outrelay.lib.transport.sockets import MAPPED, bind, try_option, unmapped

_log = get_logger(__name__)

BUFFER_SIZE = 4 << 20
"""Kernel buffers asked for, each way, bytes."""

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_NO_SEGMENTS = (errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
_TOO_LARGE = (errno.EMSGSIZE, errno.EINVAL)  # kernels before 6.14 say EINVAL
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_IP_TOS, _IP_RECVTOS, _IPV6_TCLASS, _IPV6_RECVTCLASS = 1, 13, 67, 66
_ECN = 0b11
_ANCILLARY = 128  # bytes: more than a segment size and a codepoint of each family take
_EXTENDED_ERROR = struct.Struct("=IB")  # errno and origin, the beginning of sock_extended_err
_BY_ICMP = (2, 3)
_GONE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
_OF_EARLIER_ONES = (*_GONE, errno.EMSGSIZE)  # what ICMP said of them, the next one is told
_ERRORS_AT_ONCE = 64
_COST_OF_ERROR = 4096  # of the receive budget: an error that stays must not hold up the loop


Ancillary = tuple[int, int, bytes]
"""Level, kind and data of a control message."""


class UdpSocket:
    """One bound socket.

    Args:
        address: Numeric host and port; host ``::`` means every address of both families,
            or of IPv4 alone where there is no IPv6.

    Raises:
        OSError: It cannot be bound.
    """

    def __init__(self, address: Address) -> None:
        self._socket = bind(address, socket.SOCK_DGRAM, _prepare)
        self._is_v6 = self._socket.family == socket.AF_INET6
        self._receives_batches = try_option(self._socket, _SOL_UDP, _UDP_GRO, 1)
        self._sends_batches = True
        self.has_errors = False
        """Whether there may be errors to take: a call has failed since the last ``refusals``, or
        the socket was readable and nothing came."""
        self._buffer = bytearray(65536)
        self._view = memoryview(self._buffer)
        host, port = self._socket.getsockname()[:2]
        self.address: Address = (host, port)

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def receive(self, budget: int) -> Iterator[tuple[memoryview, int, Address, int]]:
        """What has arrived: (bytes, segment size or 0, sender, ECN codepoint), until there is
        none or ``budget`` bytes were taken.

        The bytes are valid until the next step of the iteration; the codepoint is 0 unless
        ``watch_ecn`` has asked for it.
        """
        is_empty = True
        while budget > 0:
            try:
                size, ancillary, _, sender = self._socket.recvmsg_into([self._buffer], _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                self.has_errors = self.has_errors or is_empty
                return
            except OSError:  # an ICMP error an earlier send brought
                self.has_errors = True
                budget -= _COST_OF_ERROR
                continue
            is_empty = False
            segment_size, ecn = _told(ancillary) if ancillary else (0, 0)
            budget -= size
            yield self._view[:size], segment_size, unmapped(sender), ecn

    def watch_ecn(self) -> None:
        """Have the kernel tell the ECN codepoint of what arrives; it batches by it."""
        if self._is_v6:
            try_option(self._socket, socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
        try_option(self._socket, socket.IPPROTO_IP, _IP_RECVTOS, 1)

    def watch_refusals(self) -> None:
        """Have the kernel keep what hosts say of datagrams that nobody takes; idempotent."""
        if self._is_v6:
            try_option(self._socket, socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        try_option(self._socket, socket.IPPROTO_IP, _IP_RECVERR, 1)

    def refusals(self) -> set[Address]:
        """Where datagrams went that nobody took, as ICMP has told since the last call."""
        self.has_errors = False
        found: set[Address] = set()
        with suppress(OSError):  # no more of them
            for _ in range(_ERRORS_AT_ONCE):
                _, ancillary, _, target = self._socket.recvmsg(0, 512, socket.MSG_ERRQUEUE)
                if any(_is_refusal(*each) for each in ancillary):
                    found.add(unmapped(target))
        return found

    def send(self, transmit: Transmit) -> bool:
        """Hand one batch to the kernel; False when it would block.

        Anything else that keeps a datagram from leaving counts as its loss.
        """
        target = self._target(transmit.address)
        if transmit.is_batch and self._sends_batches:
            sent = self._send_batch(transmit, target)
            if sent is not None:
                return sent
        ancillary = [_mark(transmit)] if transmit.ecn else []
        return all(self._send(each, ancillary, target) for each in transmit.datagrams())

    def _send_batch(self, transmit: Transmit, target: Address) -> bool | None:
        """True or False as ``send``; None when the kernel wants them one by one."""
        ancillary = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", transmit.segment_size))]
        if transmit.ecn:
            ancillary.append(_mark(transmit))
        try:
            self._hand_over(transmit.buffers, ancillary, target)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _NO_SEGMENTS:
                _log.info("the kernel takes no datagram batches", error=str(error))
                self._sends_batches = False
                return None
            if error.errno in _TOO_LARGE:  # for this path; each learns its own fate
                return None
            _log.debug("datagram not sent", error=str(error))
        return True

    def _send(self, datagram: bytes, ancillary: list[Ancillary], target: Address) -> bool:
        try:
            self._hand_over([datagram], ancillary, target)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # which a path size probe may bring
                _log.debug("datagram not sent", error=str(error))
        return True

    def _hand_over(
        self, buffers: Sequence[bytes], ancillary: list[Ancillary], target: Address
    ) -> None:
        try:
            self._socket.sendmsg(buffers, ancillary, 0, target)
        except OSError as error:
            if error.errno not in _OF_EARLIER_ONES:
                raise
            self.has_errors = True
            self._socket.sendmsg(buffers, ancillary, 0, target)

    def _target(self, address: Address) -> tuple[str, int]:
        host, port = address
        return (MAPPED + host, port) if self._is_v6 and ":" not in host else address

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


def _prepare(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        try_option(sock, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    try_option(sock, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    _enlarge(sock, socket.SO_RCVBUF, 33)
    _enlarge(sock, socket.SO_SNDBUF, 32)


def _enlarge(sock: socket.socket, option: int, forced: int) -> None:
    """Ask for BUFFER_SIZE; past the system's limit only with the privilege to force it."""
    if not try_option(sock, socket.SOL_SOCKET, forced, BUFFER_SIZE):
        try_option(sock, socket.SOL_SOCKET, option, BUFFER_SIZE)


def _is_refusal(level: int, kind: int, data: bytes) -> bool:
    if (level, kind) not in (
        (socket.IPPROTO_IP, _IP_RECVERR),
        (socket.IPPROTO_IPV6, _IPV6_RECVERR),
    ):
        return False
    fault, origin = _EXTENDED_ERROR.unpack_from(data)
    return fault in _GONE and origin in _BY_ICMP


def _mark(transmit: Transmit) -> Ancillary:
    """What has the kernel send it with its ECN codepoint; the family is the one on the wire."""
    if ":" in transmit.address[0]:
        return (socket.IPPROTO_IPV6, _IPV6_TCLASS, struct.pack("=i", transmit.ecn))
    return (socket.IPPROTO_IP, _IP_TOS, struct.pack("=i", transmit.ecn))


def _told(ancillary: list[Ancillary]) -> tuple[int, int]:
    """The segment size and the ECN codepoint, 0 where there is none."""
    segment_size = ecn = 0
    for level, kind, data in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO:
            segment_size = int.from_bytes(data[:4], sys.byteorder)
        elif (level, kind) == (socket.IPPROTO_IP, _IP_TOS):
            ecn = data[0] & _ECN
        elif (level, kind) == (socket.IPPROTO_IPV6, _IPV6_TCLASS):
            ecn = int.from_bytes(data[:4], sys.byteorder) & _ECN
    return segment_size, ecn
