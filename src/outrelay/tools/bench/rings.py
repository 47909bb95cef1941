"""What it costs to let streams outlive relays: throughput beside agents that cannot, and memory.

The two deployments that are compared are alike but for the agents' HELLO.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address
from outrelay.tools.bench import pairs, procfs, routes
from outrelay.tools.bench.pairs import Side
from outrelay.tools.deployment import Carrier, Deployment

_WITHOUT = "outrelay.tools.bench.without_resume"
_PATIENCE = 300.0
_SETTLE = 3.0


class RingsFailedError(OutRelayError):
    """The load broke off."""


def shares(
    directory: Path, *, carrier: Carrier, rounds: int, amount: int
) -> Mapping[str, Sequence[float]]:
    """Throughput with resuming as a share of that without, by direction (``up``, ``down``).

    Args:
        directory: An empty one.
        carrier: What the agents speak.
        rounds: Measurements of each, after one that warms up.
        amount: Bytes of each.
    """
    with ExitStack() as stack:
        sides = [stack.enter_context(_running(directory, name, carrier)) for name in _AGENTS]
        return pairs.shares(*sides, rounds=rounds, amount=amount)


_AGENTS = {"with": "outrelay-agent", "without": _WITHOUT}


@contextmanager
def _running(directory: Path, name: str, carrier: Carrier) -> Iterator[Side]:
    """One of the deployments."""
    (own := directory / name).mkdir()
    with (
        routes.backend() as (_, address),
        Deployment(own, carrier=carrier, agent=_AGENTS[name]) as deployment,
    ):
        yield Side(at=routes.start(deployment, {routes.SERVICE: address})[routes.SERVICE])


def idle(at: Address, pids: Mapping[str, int], streams: int) -> Mapping[str, int]:
    """Bytes of memory that so many idle streams cost each process, all together.

    Args:
        at: Leads to a backend that echoes.
        pids: The processes, by name.
        streams: How many; each has carried one byte each way.
    """
    before = {name: procfs.usage(pid).rss for name, pid in pids.items()}
    with ExitStack() as stack:
        for _ in range(streams):
            stream = stack.enter_context(socket.create_connection(at, _PATIENCE))
            stream.sendall(b"?")
            if stream.recv(1) != b"?":
                raise RingsFailedError("a stream was refused")
        time.sleep(_SETTLE)
        return {name: procfs.usage(pid).rss - before[name] for name, pid in pids.items()}
