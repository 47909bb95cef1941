"""What it costs to let streams outlive relays: throughput beside agents that cannot, and memory.

Two deployments, alike but for the agents' HELLO, move the same bytes in turn; each pair of
measurements gives a *share*, so that a slow moment of the machine meets both.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address
from outrelay.tools.bench import procfs, routes
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
        at = {name: stack.enter_context(_running(directory, name, carrier)) for name in _AGENTS}
        found: dict[str, list[float]] = {"up": [], "down": []}
        for number in range(rounds + 1):
            for direction, values in found.items():
                rate = {
                    name: _rate(at[name], direction, amount)
                    for name in (_AGENTS if number % 2 else reversed(_AGENTS))
                }
                if number:
                    values.append(rate["with"] / rate["without"])
    return found


_AGENTS = {"with": "outrelay-agent", "without": _WITHOUT}


@contextmanager
def _running(directory: Path, name: str, carrier: Carrier) -> Iterator[Address]:
    """Where the consumer of one deployment listens."""
    (own := directory / name).mkdir()
    with (
        routes.backend() as (_, address),
        Deployment(own, carrier=carrier, agent=_AGENTS[name]) as deployment,
    ):
        yield routes.start(deployment, {routes.SERVICE: address})[routes.SERVICE]


def _rate(at: Address, direction: str, amount: int) -> float:
    """Bytes a second."""
    done = subprocess.run(
        [*routes.LOAD, direction, str(at[1]), "1", str(amount)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise RingsFailedError(done.stderr.strip().splitlines()[-1])
    return float(json.loads(done.stdout)["values"][0])


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
