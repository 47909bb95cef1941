"""The UDP socket, over loopback: batches each way, and what happens where they are refused."""

from __future__ import annotations

import errno
import select
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic import udp
from outrelay.lib.transport.quic.engine import Transmit
from outrelay.lib.transport.quic.segments import split
from outrelay.lib.transport.quic.udp import UdpSocket

EVERYTHING = 1 << 24
FULL = 1200


class Sockets:
    """Opens sockets, and closes them at the end of the test."""

    def __init__(self) -> None:
        self._opened: list[UdpSocket] = []

    def open(self, host: str = "127.0.0.1") -> UdpSocket:
        self._opened.append(UdpSocket((host, 0)))
        return self._opened[-1]

    def close(self) -> None:
        for each in self._opened:
            each.close()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    opened = Sockets()
    yield opened
    opened.close()


def batch(address: Address, *sizes: int) -> Transmit:
    buffers = [bytes([number]) * size for number, size in enumerate(sizes)]
    return Transmit(address, buffers, sizes[0])


def arrived(receiver: UdpSocket, number: int) -> list[tuple[bytes, Address]]:
    """So many datagrams, as they come, with their senders."""
    datagrams: list[tuple[bytes, Address]] = []
    while len(datagrams) < number:
        assert select.select([receiver.fileno()], [], [], 1)[0], f"only {len(datagrams)} came"
        for view, size, sender, _ in receiver.receive(EVERYTHING):
            datagrams += [(datagram, sender) for datagram in split(view, size)]
    return datagrams


class Kernel:
    """A socket whose calls fail as a test wants, and work otherwise."""

    def __init__(
        self,
        sock: UdpSocket,
        *,
        sendmsg: Callable[[Sequence[bytes], list[Any]], None] = lambda *_: None,
        recvmsg_into: Callable[[], None] = lambda: None,
    ) -> None:
        self._real = sock._socket
        self._before_send = sendmsg
        self._before_receive = recvmsg_into
        self.sends = 0
        self.receives = 0
        sock._socket = cast("socket.socket", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sendmsg(self, buffers: Sequence[bytes], ancillary: list[Any], *rest: Any) -> int:
        self.sends += 1
        self._before_send(buffers, ancillary)
        return self._real.sendmsg(buffers, ancillary, *rest)

    def recvmsg_into(self, *arguments: Any) -> Any:
        self.receives += 1
        self._before_receive()
        return self._real.recvmsg_into(*arguments)


def raising(error: int) -> OSError:
    return OSError(error, "as a test wants")


# Batches


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("sizes", [[300], [FULL] * 10, [FULL] * 53 + [7], [900] * 64])
def test_datagrams_arrive_as_they_were_batched(
    sockets: Sockets, host: str, sizes: list[int]
) -> None:
    sender, receiver = sockets.open(host), sockets.open(host)
    transmit = batch(receiver.address, *sizes)

    assert sender.send(transmit)
    expected = [(bytes(buffer), sender.address) for buffer in transmit.buffers]
    assert arrived(receiver, len(sizes)) == expected

    joined = Transmit(receiver.address, [b"".join(transmit.buffers)], transmit.segment_size)
    assert sender.send(joined)
    assert arrived(receiver, len(sizes)) == expected


def test_a_batch_is_one_system_call_each_way(sockets: Sockets) -> None:
    sender, receiver = sockets.open(), sockets.open()
    if not receiver._receives_batches:
        pytest.skip("this kernel has no UDP_GRO")
    out, into = Kernel(sender), Kernel(receiver)
    sender.send(batch(receiver.address, *[FULL] * 50))

    assert len(arrived(receiver, 50)) == 50
    assert out.sends == 1
    assert into.receives == 2  # the second finds nothing


def test_a_budget_ends_the_reading(sockets: Sockets) -> None:
    sender, receiver = sockets.open(), sockets.open()
    for number in range(6):
        sender.send(Transmit(receiver.address, [bytes([number]) * 1000], 1000))
    taken = [len(view) for view, _, _, _ in receiver.receive(2_500)]

    assert taken == [1000, 1000, 1000]
    assert len(arrived(receiver, 3)) == 3


def test_what_else_the_kernel_says_is_no_segment_size() -> None:
    timestamp = (socket.SOL_SOCKET, 29, bytes(16))
    size = (socket.IPPROTO_UDP, 104, FULL.to_bytes(4, sys.byteorder))

    assert udp._told([timestamp]) == (0, 0)
    assert udp._told([timestamp, size]) == (FULL, 0)


def test_there_may_be_nothing_to_read(sockets: Sockets) -> None:
    assert list(sockets.open().receive(EVERYTHING)) == []


@pytest.mark.parametrize(
    "refusal",
    [errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP],
    ids=errno.errorcode.get,
)
def test_where_batches_are_refused_their_datagrams_go_one_by_one(
    sockets: Sockets, refusal: int
) -> None:
    def refuse(buffers: Sequence[bytes], ancillary: list[Any]) -> None:
        if ancillary:
            raise raising(refusal)

    sender, receiver = sockets.open(), sockets.open()
    kernel = Kernel(sender, sendmsg=refuse)
    for _ in range(2):
        transmit = batch(receiver.address, FULL, FULL, 10)
        joined = Transmit(transmit.address, [b"".join(transmit.buffers)], FULL)
        for each in (transmit, joined):
            assert sender.send(each)
            assert [data for data, _ in arrived(receiver, 3)] == list(transmit.buffers)

    assert kernel.sends <= 4 * (1 + 3)


def test_without_batches_from_the_kernel_datagrams_are_read_one_by_one(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "_UDP_GRO", 9999)  # no such option
    sender, receiver = sockets.open(), sockets.open()
    sender.send(batch(receiver.address, FULL, FULL, 10))

    assert not receiver._receives_batches
    assert [len(data) for data, _ in arrived(receiver, 3)] == [FULL, FULL, 10]


# Faults


@pytest.mark.parametrize("sizes", [[FULL], [FULL, FULL]])
def test_a_full_socket_takes_the_batch_later(sockets: Sockets, sizes: list[int]) -> None:
    def block(*_: object) -> None:
        raise BlockingIOError

    sender, receiver = sockets.open(), sockets.open()
    kernel = Kernel(sender, sendmsg=block)
    transmit = batch(receiver.address, *sizes)
    assert not sender.send(transmit)

    kernel._before_send = lambda *_: None
    assert sender.send(transmit)
    assert len(arrived(receiver, len(sizes))) == len(sizes)


def test_a_datagram_too_large_for_the_path_is_lost_quietly(
    sockets: Sockets, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    sender, receiver = sockets.open(), sockets.open()

    assert sender.send(Transmit(receiver.address, [bytes(66_000)], 66_000))
    assert sender.send(batch(receiver.address, FULL))
    assert len(arrived(receiver, 1)) == 1
    assert not caplog.records


@pytest.mark.parametrize("fault", [errno.ENETUNREACH, errno.EPERM, errno.ENOBUFS])
def test_a_datagram_that_cannot_leave_counts_as_lost(
    sockets: Sockets, caplog: pytest.LogCaptureFixture, fault: int
) -> None:
    caplog.set_level("DEBUG")

    def fail(*_: object) -> None:
        raise raising(fault)

    sender, receiver = sockets.open(), sockets.open()
    kernel = Kernel(sender, sendmsg=fail)
    assert sender.send(batch(receiver.address, FULL, FULL))
    assert "datagram not sent" in caplog.text
    assert kernel.sends <= 2  # what may be about an earlier datagram is tried once more

    kernel._before_send, kernel.sends = lambda *_: None, 0
    assert sender.send(batch(receiver.address, FULL, FULL))
    assert len(arrived(receiver, 2)) == 2
    assert kernel.sends == 1  # batches are not given up for that


def test_an_error_of_an_earlier_send_does_not_end_the_reading(sockets: Sockets) -> None:
    errors = [errno.ECONNREFUSED, errno.EHOSTUNREACH]

    def fail() -> None:
        if errors:
            raise raising(errors.pop())

    sender, receiver = sockets.open(), sockets.open()
    sender.send(batch(receiver.address, FULL))
    assert select.select([receiver.fileno()], [], [], 5)[0]
    Kernel(receiver, recvmsg_into=fail)

    assert len(list(receiver.receive(EVERYTHING))) == 1


def test_an_error_that_stays_does_not_hold_up_the_loop(sockets: Sockets) -> None:
    """A closed socket, or a kernel out of memory, answers every read with the same error."""
    receiver = sockets.open()

    def fail() -> None:
        assert kernel.receives < 1_000, "reads for ever"
        raise raising(errno.ENOBUFS)

    kernel = Kernel(receiver, recvmsg_into=fail)

    assert list(receiver.receive(96 * 1024)) == []


@pytest.mark.parametrize(
    ("host", "target"), [("127.0.0.1",) * 2, ("::1",) * 2, ("::", "127.0.0.1"), ("::", "::1")]
)
def test_who_takes_nothing_is_known_where_it_is_asked_for(
    sockets: Sockets, host: str, target: str
) -> None:
    sender, there = sockets.open(host), sockets.open(target)
    closed = sockets.open(target)
    gone = closed.address
    closed.close()
    sender.send(batch(gone, FULL))
    assert sender.refusals() == set()  # nobody has asked
    sender.watch_refusals()
    sender.send(batch(gone, FULL, FULL))
    sender.send(batch(there.address, FULL))
    assert select.select([], [sender.fileno()], [], 5)[1]
    assert sender.refusals() == {gone}
    assert sender.refusals() == set()
    assert list(sender.receive(EVERYTHING)) == []
    assert len(arrived(there, 1)) == 1


# Addresses


def test_a_wildcard_socket_hears_both_families(sockets: Sockets) -> None:
    server = sockets.open("::")
    port = server.address[1]
    for host in ("127.0.0.1", "::1"):
        client = sockets.open(host)
        client.send(batch((host, port), FULL, FULL))
        datagrams = arrived(server, 2)
        assert {sender for _, sender in datagrams} == {client.address}

        server.send(batch(client.address, FULL, 20))
        answers = arrived(client, 2)
        assert {sender for _, sender in answers} == {(host, port)}


def test_a_socket_of_one_address_hears_its_family_only(sockets: Sockets) -> None:
    with pytest.raises(OSError, match=r"."):
        sockets.open("127.0.0.1")._socket.sendto(b"", ("::1", 9))
    server = sockets.open("::1")
    client = sockets.open("127.0.0.1")
    client.send(batch(("127.0.0.1", server.address[1]), FULL))

    assert not select.select([server.fileno()], [], [], 0.05)[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_an_address_is_bound_once(sockets: Sockets, host: str) -> None:
    taken = sockets.open(host).address

    with pytest.raises(OSError, match="in use"):
        UdpSocket(taken)


def test_an_address_that_is_not_ours_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="assign"):
        UdpSocket(("192.0.2.1", 0))


@pytest.mark.parametrize(
    ("option", "limit"), [(socket.SO_RCVBUF, "rmem_max"), (socket.SO_SNDBUF, "wmem_max")]
)
def test_the_kernels_buffers_are_large(sockets: Sockets, option: int, limit: str) -> None:
    with open(f"/proc/sys/net/core/{limit}") as file:  # noqa: PTH123 - not a real file
        allowed = int(file.read())
    size = sockets.open()._socket.getsockopt(socket.SOL_SOCKET, option)

    assert size >= min(udp.BUFFER_SIZE, allowed)


def test_a_kernel_that_refuses_an_option_is_served_without(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "try_option", lambda *_: False)
    sender, receiver = sockets.open("::1"), sockets.open("::1")
    sender.send(batch(receiver.address, FULL, 10))

    assert len(arrived(receiver, 2)) == 2


# ECN


def codepoints(receiver: UdpSocket, number: int) -> list[int]:
    """Those of so many datagrams, as they come."""
    told: list[int] = []
    while len(told) < number:
        assert select.select([receiver.fileno()], [], [], 1)[0], f"only {len(told)} came"
        for view, size, _, ecn in receiver.receive(EVERYTHING):
            told += [ecn] * len(list(split(view, size)))
    return told


@pytest.mark.parametrize(
    ("listens", "sends"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")]
)
@pytest.mark.parametrize("batches", [True, False])
def test_a_codepoint_arrives_as_it_was_sent(
    sockets: Sockets, listens: str, sends: str, batches: bool
) -> None:
    receiver, sender = sockets.open(listens), sockets.open(sends)
    receiver.watch_ecn()
    target = (sends, receiver.address[1])
    sender._sends_batches = batches
    for ecn in (2, 0, 1, 3):
        assert sender.send(batch(target, FULL, FULL, 100)._replace(ecn=ecn))
        assert sender.send(batch(target, 100)._replace(ecn=ecn))

    assert codepoints(receiver, 16) == [2] * 4 + [0] * 4 + [1] * 4 + [3] * 4


def test_a_socket_of_both_families_marks_for_the_one_on_the_wire(sockets: Sockets) -> None:
    receiver, sender = sockets.open("127.0.0.1"), sockets.open("::")
    receiver.watch_ecn()
    assert sender.send(batch(receiver.address, FULL, FULL)._replace(ecn=2))

    assert codepoints(receiver, 2) == [2, 2]


def test_no_codepoint_is_told_to_who_has_not_asked(sockets: Sockets) -> None:
    receiver, sender = sockets.open(), sockets.open()
    assert sender.send(batch(receiver.address, FULL)._replace(ecn=2))

    assert codepoints(receiver, 1) == [0]
