"""Carries IP packets between two TUN devices: late, and not all of them.

    python -m outrelay.tools.bench.wire NEAR FAR

It makes both devices, says so, and carries what their networks send each other. Each line on
its standard input, an ``Impairment`` in JSON, begins a *period* in which it does that to the
packets; the answer is what became of those of the period before. The kernel has cut
everything into packets by then, also what TCP or UDP handed over in one piece.

Invariants: the n-th packet of a direction in a period has the same fate whenever the seed is
the same; packets never overtake each other; what is under way is bounded.

Source: Linux tuntap.txt.
"""

from __future__ import annotations

import json
import os
import random
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fcntl import ioctl

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET = 65_535
_AT_ONCE = 64
"""Packets of one direction before the other has its turn."""
_HASTE = -10
_UNDER_WAY = 128 << 20
"""Bytes of a direction that may be under way; more are dropped, and counted as overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What is done to packets, each way alike.

    Args:
        delay: Seconds, each way.
        loss: Probability that a packet is lost, 0 to 1.
        rate: Bytes a second; 0 is as fast as they come.
        queue: Bytes that may wait for their turn at that rate; more are dropped.
        seed: Of which packets are lost.
    """

    delay: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    queue: int = _UNDER_WAY
    seed: int = 1


@dataclass(slots=True)
class Count:
    """What became of the packets of one direction."""

    passed: int = 0
    size: int = 0
    """Bytes of those that passed."""
    lost: int = 0
    overflowed: int = 0
    largest: int = 0
    latest: float = 0.0
    """Seconds that one left after its time, at most."""


class Direction:
    """Packets one way: decides the fate of each, and when it leaves.

    Args:
        path: What is done to them.
        seed: Of which are lost.
    """

    def __init__(self, path: Impairment, seed: int) -> None:
        self.count = Count()
        self._path = path
        self._chance = random.Random(seed)
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._free_at = 0.0
        """When the last one has left at the path's rate."""

    @property
    def next_at(self) -> float | None:
        """When the next packet is to leave."""
        return self._queue[0][0] if self._queue else None

    def take(self, packet: bytes, now: float) -> None:
        """A packet has come."""
        path, size = self._path, len(packet)
        self.count.largest = max(self.count.largest, size)
        if self._chance.random() < path.loss:
            self.count.lost += 1
            return
        start = max(now, self._free_at) if path.rate else now
        if (start - now) * path.rate > path.queue or self._size + size > _UNDER_WAY:
            self.count.overflowed += 1
            return
        if path.rate:
            start = self._free_at = start + size / path.rate
        self._queue.append((start + path.delay, packet))
        self._size += size

    def due(self, now: float) -> bytes | None:
        """A packet whose time has come, until there is none."""
        if not self._queue or self._queue[0][0] > now:
            return None
        at, packet = self._queue.popleft()
        self._size -= len(packet)
        self.count.passed += 1
        self.count.size += len(packet)
        self.count.latest = max(self.count.latest, now - at)
        return packet


class _Wire:
    """Both directions of a period, between the devices' file descriptors."""

    def __init__(self, near: int, far: int, path: Impairment) -> None:
        up, down = Direction(path, path.seed), Direction(path, path.seed + 1)
        self.ways = {"up": (far, near, up), "down": (near, far, down)}

    def wait(self) -> float | None:
        """Seconds until the next packet is to leave; None: there is none."""
        at = [way.next_at for _, _, way in self.ways.values() if way.next_at is not None]
        return max(0.0, min(at) - time.monotonic()) if at else None

    def carry(self) -> None:
        """Take what has come, and let go what is due."""
        for source, sink, way in self.ways.values():
            with suppress(BlockingIOError):
                for _ in range(_AT_ONCE):
                    way.take(os.read(source, _PACKET), time.monotonic())
            while packet := way.due(time.monotonic()):
                with suppress(OSError):  # a device that is down loses it
                    os.write(sink, packet)

    def counts(self) -> Mapping[str, Mapping[str, float]]:
        """What became of the packets, by direction."""
        return {name: asdict(way.count) for name, (_, _, way) in self.ways.items()}


def _device(name: str) -> int:
    """A new TUN device, gone when its file descriptor is closed."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def main(names: Sequence[str]) -> None:
    """Carry packets until standard input ends."""
    with suppress(PermissionError):
        os.nice(_HASTE)  # whoever is busy must not make the path longer
    near, far = map(_device, names)
    print("ready", flush=True)
    wire = _Wire(near, far, Impairment())
    while True:
        readable, _, _ = select.select([near, far, sys.stdin], [], [], wire.wait())
        wire.carry()
        if sys.stdin in readable:
            line = sys.stdin.readline()
            if not line:
                return
            print(json.dumps(wire.counts()), flush=True)
            wire = _Wire(near, far, Impairment(**json.loads(line)))


if __name__ == "__main__":
    main(sys.argv[1:])
