"""QUIC engines joined by a network that exists in memory and in virtual time.

Words: a *host* is one engine at one address, driven by the rules of the engine port as the
carrier's endpoint drives it; an *end* is a host's side of one connection. Nothing happens but
within ``run``, and hours pass in an instant. The fate of datagrams comes from a seed.

    network = Network(seed=7, path=Path(delay=0.02, loss=0.01))
    near, far = network.connect(network.host(agent_options), network.host(relay_options))
    assert network.transfer(near, far, data) == data

Invariants, checked all the time: events come in the order the port promises; what a host hands
over to be sent keeps the kernel's rules for batches; a host comes to rest.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count, groupby
from typing import NamedTuple

from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.engine import Engine, Event, EventKind, Transmit
from tests.support.virtual_events import EventOrder

START = 1000.0
"""When virtual time begins, seconds: monotonic clocks do not begin at zero either."""

GRANULARITY = 0.001
"""Seconds by which timers come late, as an event loop's do."""

RESTLESS = 1_000
"""Rounds or timers at one moment after which a host will never come to rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What the network does to datagrams, both ways; by default it only takes time.

    Args:
        delay: Seconds, each way.
        loss: Probability that a datagram is lost, 0 to 1.
        reorder: Probability that a datagram is held back by ``held``, 0 to 1.
        held: Seconds by which.
        duplicate: Probability that a datagram arrives twice, 0 to 1.
        mtu: Larger datagrams are dropped, and nobody is told.
    """

    delay: float = 0.01
    loss: float = 0.0
    reorder: float = 0.0
    held: float = 0.005
    duplicate: float = 0.0
    mtu: int = 65_535


class Datagram(NamedTuple):
    """One on its way."""

    source: Address
    target: Address
    data: bytes
    ecn: int = 0


class Host:
    """One engine at one address; made by ``Network.host``."""

    def __init__(self, network: Network, engine: Engine, address: Address) -> None:
        self.network = network
        self.engine = engine
        self.address = address
        self.log: list[Event] = []
        """Everything that happened here."""
        self.listeners: list[Callable[[Event], None]] = []
        self.largest_burst = 0
        """Most datagrams for one address that one call of ``transmits`` has returned."""
        self.sent_sizes: list[int] = []
        self._order = EventOrder()

    def events(self, kind: EventKind, connection: int | None = None) -> list[Event]:
        """What has happened of that kind."""
        return [
            event
            for event in self.log
            if event.kind is kind and connection in (None, event.connection)
        ]

    def dial(
        self,
        target: Host,
        *,
        roles: Iterable[Role] = (Role.RELAY,),
        server_name: str = "localhost",
    ) -> End:
        """Begin a handshake with ``target``."""
        number = self.engine.connect(
            target.address, roles=frozenset(roles), server_name=server_name, now=self.network.now
        )
        self.settle()
        return End(self, number)

    def receive(self, datagrams: list[Datagram]) -> None:
        """Take datagrams that arrive together, in batches of equal size as UDP_GRO makes them."""

        def alike(each: Datagram) -> tuple[Address, int, int]:
            return each.source, len(each.data), each.ecn

        for (source, size, ecn), batch in groupby(datagrams, alike):
            data = b"".join(each.data for each in batch)
            self.engine.receive(memoryview(data), size, source, self.network.now, ecn)
        self.settle()

    def wakes_at(self) -> float:
        """When its timer fires."""
        deadline = self.engine.next_deadline()
        if deadline is None:
            return math.inf
        late = math.ceil(deadline / GRANULARITY) * GRANULARITY
        return max(deadline, late, self.network.now)

    def wake(self) -> None:
        """Its timer has fired."""
        self.engine.handle_timeout(self.network.now)
        self.settle()

    def settle(self) -> None:
        """Handle events and send until there is nothing more to do at this moment."""
        for _ in range(RESTLESS):
            happened = self._dispatch()
            sent = self.transmit()
            if not (happened or sent):
                return
        raise AssertionError("the engine does not come to rest")

    def transmit(self) -> bool:
        """Send what is to be sent at once; whether there was anything."""
        return self._send(self.engine.transmits(self.network.now))

    def _dispatch(self) -> bool:
        events = self.engine.events()
        for event in events:
            self._order.check(event)
            self.log.append(event)
            for listener in list(self.listeners):
                listener(event)
        return bool(events)

    def _send(self, transmits: list[Transmit]) -> bool:
        bursts: dict[Address, int] = defaultdict(int)
        for transmit in transmits:
            sizes = [len(datagram) for datagram in transmit.datagrams()]
            assert set(sizes[:-1]) <= {transmit.segment_size}
            assert 0 < sizes[-1] <= transmit.segment_size
            bursts[transmit.address] += len(sizes)
            self.sent_sizes += sizes
            for datagram in transmit.datagrams():
                self.network.send(Datagram(self.address, transmit.address, datagram, transmit.ecn))
        self.largest_burst = max(self.largest_burst, *bursts.values(), 0)
        return bool(transmits)


@dataclass(frozen=True, slots=True)
class End:
    """A host's side of one connection; each call is followed by what the host would send."""

    host: Host
    number: int

    def open(self) -> int | None:
        """A new stream, if there is credit."""
        stream = self.host.engine.open_stream(self.number)
        self.host.settle()
        return stream

    def must_open(self) -> int:
        """A new stream; there must be credit."""
        stream = self.open()
        assert stream is not None
        return stream

    def write(self, stream: int, data: bytes) -> int:
        """How many bytes of ``data`` the engine took."""
        taken = self.host.engine.write(self.number, stream, memoryview(data))
        self.host.settle()
        return taken

    def unsent(self, stream: int) -> int:
        """Bytes of the stream that no packet has carried yet."""
        return self.host.engine.unsent(self.number, stream)

    def read(self, stream: int, limit: int = 1 << 30) -> tuple[bytes, bool]:
        """What has arrived, and whether it is the last."""
        answer = self.host.engine.read(self.number, stream, limit)
        self.host.settle()
        return answer

    def finish(self, stream: int) -> None:
        """End our direction."""
        self.host.engine.finish(self.number, stream)
        self.host.settle()

    def reset(self, stream: int, code: int) -> None:
        """Abandon our direction."""
        self.host.engine.reset(self.number, stream, code)
        self.host.settle()

    def stop(self, stream: int, code: int) -> None:
        """Ask the peer to abandon its direction."""
        self.host.engine.stop_sending(self.number, stream, code)
        self.host.settle()

    def ping(self) -> None:
        """Have the peer answer."""
        self.host.engine.ping(self.number)
        self.host.settle()

    def close(self, code: int = 0, reason: str = "") -> None:
        """End the connection."""
        self.host.engine.close(self.number, code, reason)
        self.host.settle()

    def events(self, kind: EventKind, stream: int | None = None) -> list[Event]:
        """What has happened of that kind to the connection, or to one stream of it."""
        events = self.host.events(kind, self.number)
        return [event for event in events if stream in (None, event.stream)]

    def event(self, kind: EventKind) -> Event:
        """The only event of that kind."""
        (event,) = self.events(kind)
        return event


class Source:
    """Writes all of ``data`` to a stream as there is room, then finishes it."""

    def __init__(self, end: End, stream: int, data: bytes, *, finish: bool = True) -> None:
        self.stream = stream
        self.written = 0
        """Bytes that the engine has taken."""
        self._end = end
        self._data = data
        self._finish = finish
        end.host.listeners.append(self._on_event)
        self._pump()
        end.host.settle()

    def _on_event(self, event: Event) -> None:
        if (event.kind, event.connection, event.stream) == (
            EventKind.WRITABLE,
            self._end.number,
            self.stream,
        ):
            self._pump()

    def _pump(self) -> None:
        engine, number = self._end.host.engine, self._end.number
        rest = memoryview(self._data)[self.written :]
        self.written += engine.write(number, self.stream, rest)
        if self._finish and self.written == len(self._data):
            engine.finish(number, self.stream)


class Sink:
    """Reads a stream while ``reading`` is set."""

    def __init__(self, end: End, stream: int, *, reading: bool = True) -> None:
        self.data = bytearray()
        self.finished = False
        self.reading = reading
        self._end = end
        self._stream = stream
        end.host.listeners.append(self._on_event)

    def resume(self, limit: int | None = None) -> None:
        """Read what has come, at most ``limit`` bytes; without one, read on from now."""
        self.reading = limit is None
        self._take(limit or 1 << 30)
        self._end.host.settle()

    def _on_event(self, event: Event) -> None:
        if self.reading and (event.kind, event.connection, event.stream) == (
            EventKind.READABLE,
            self._end.number,
            self._stream,
        ):
            self._take(1 << 30)

    def _take(self, limit: int) -> None:
        data, self.finished = self._end.host.engine.read(self._end.number, self._stream, limit)
        self.data += data


class Network:
    """Hosts, the datagrams between them, and the time.

    Args:
        seed: Of every random choice.
        path: What happens to datagrams; assign to ``path`` to change it.
    """

    def __init__(self, *, seed: int = 1, path: Path | None = None) -> None:
        self.now = START
        self.path = path or Path()
        self.passes: Callable[[Datagram], bool] = lambda _: True
        """A test's own choice of what is lost."""
        self._random = random.Random(seed)
        self._hosts: dict[Address, Host] = {}
        self._on_the_way: list[tuple[float, int, Datagram]] = []
        self._numbers = count(1)
        self._addresses = count(1)
        self._standing_still = 0
        self._watchers: list[list[Datagram]] = []

    def watch(self) -> list[Datagram]:
        """A list that every datagram sent from now on is added to, whatever becomes of it."""
        self._watchers.append([])
        return self._watchers[-1]

    def host(self, engine: Engine, *, behind: str = "") -> Host:
        """An engine at an address of its own; behind an IP address: at a port of that."""
        address = (behind, next(self._addresses)) if behind else self._new_address()
        host = Host(self, engine, address)
        self._hosts[host.address] = host
        return host

    def move(self, host: Host) -> None:
        """Give the host another address; what is on its way to the old one is lost."""
        self.remove(host)
        host.address = self._new_address()
        self._hosts[host.address] = host

    def replace(self, host: Host, engine: Engine) -> Host:
        """Another engine at the same address: the process there has restarted."""
        self._hosts[host.address] = Host(self, engine, host.address)
        return self._hosts[host.address]

    def remove(self, host: Host) -> None:
        """Nobody is at its address any more."""
        del self._hosts[host.address]

    def connect(self, near: Host, far: Host, *, within: float = 10.0) -> tuple[End, End]:
        """Both ends of a connection that ``near`` has dialled."""
        before = len(far.events(EventKind.CONNECTED))
        end = near.dial(far)
        self.run(
            lambda: bool(
                end.events(EventKind.CONNECTED) and far.events(EventKind.CONNECTED)[before:]
            ),
            within=within,
        )
        return end, End(far, far.events(EventKind.CONNECTED)[before].connection)

    def transfer(self, source: End, target: End, data: bytes, *, within: float = 60.0) -> bytes:
        """Send ``data`` over a new stream; what arrived when everything is acknowledged."""
        stream = source.must_open()
        sink = Sink(target, stream)
        Source(source, stream, data)
        self.run(
            lambda: sink.finished and bool(source.events(EventKind.FINISHED, stream)),
            within=within,
        )
        return bytes(sink.data)

    def open(self, end: End, number: int, *, within: float = 1.0) -> list[int]:
        """So many new streams, each with a byte: an engine may give credit as it is used."""
        streams: list[int] = []
        while len(streams) < number:
            told = len(end.events(EventKind.STREAMS_AVAILABLE))
            stream = end.open()
            if stream is None:
                self.run(
                    lambda told=told: len(end.events(EventKind.STREAMS_AVAILABLE)) > told,  # type: ignore[misc]
                    within=within,
                )
            else:
                end.write(stream, b"x")
                streams.append(stream)
        return streams

    def run(self, until: Callable[[], bool], *, within: float = 10.0) -> None:
        """Let time pass until something is so; it must be within ``within`` seconds."""
        limit = self.now + within
        while not until():
            assert self._step(limit), f"not so within {within} s"

    def run_for(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self._step(end):
            pass
        self.now = end

    def send(self, datagram: Datagram) -> None:
        """Put a datagram on its way, or lose it."""
        for watcher in self._watchers:
            watcher.append(datagram)
        if not self.passes(datagram) or len(datagram.data) > self.path.mtu:
            return
        if self._happens(self.path.loss):
            return
        for _ in range(2 if self._happens(self.path.duplicate) else 1):
            held = self.path.held if self._happens(self.path.reorder) else 0.0
            arrival = self.now + self.path.delay + held
            heapq.heappush(self._on_the_way, (arrival, next(self._numbers), datagram))

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability

    def _step(self, limit: float) -> bool:
        """Do what happens next; False when that is not before ``limit``."""
        arrival = self._on_the_way[0][0] if self._on_the_way else math.inf
        wakes = {host: host.wakes_at() for host in self._hosts.values()}
        moment = min(arrival, *wakes.values())
        if moment > limit or moment == math.inf:
            return False
        self._standing_still = self._standing_still + 1 if moment <= self.now else 0
        assert self._standing_still < RESTLESS, "a timer fires again and again"
        self.now = max(self.now, moment)
        for host, datagrams in self._arrivals().items():
            host.receive(datagrams)
        for host, wakes_at in wakes.items():
            if wakes_at <= self.now:
                host.wake()
        return True

    def _arrivals(self) -> dict[Host, list[Datagram]]:
        arrivals: dict[Host, list[Datagram]] = defaultdict(list)
        while self._on_the_way and self._on_the_way[0][0] <= self.now:
            datagram = heapq.heappop(self._on_the_way)[2]
            host = self._hosts.get(datagram.target)
            if host is not None:  # else nobody is there (any more)
                arrivals[host].append(datagram)
        return arrivals

    def _new_address(self) -> Address:
        third, fourth = divmod(next(self._addresses), 256)
        return (f"10.0.{third}.{fourth}", 7443)
