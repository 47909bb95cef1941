"""Numbers of every service: which build, whether it is ready, how long its certificate lasts.

Words: the *lag* of the event loop is how much later than it should a task gets its turn.
"""

from __future__ import annotations

import asyncio
from typing import Never

from prometheus_client import CollectorRegistry

from outrelay import __version__
from outrelay.lib.observe.metrics.declare import gauge, histogram

LOOK = 1.0
"""Seconds between two looks at the event loop."""


class ProcessMetrics:
    """What holds for every service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge(
            registry,
            "outrelay_build_info",
            "Always 1.",
            {"version": "the release that runs"},
            todo="Compare versions during an upgrade.",
        ).labels(__version__).set(1)
        self.ready = gauge(
            registry,
            "outrelay_ready",
            "1 while `/readyz` says so, else 0.",
            todo="`/readyz` tells the reasons. A relay waits for its controller, an agent for a"
            " relay that has its services, a controller for its database.",
        )
        self.certificate_not_after = gauge(
            registry,
            "outrelay_certificate_not_after_timestamp_seconds",
            "When the certificate of this process ends, seconds since the epoch; 0: it has none.",
            todo="Put a new certificate into the files of `--cert` and `--key` before that time, it"
            " is taken within seconds. Afterwards nobody takes its connections.",
        )
        self.loop_lag = histogram(
            registry,
            "outrelay_event_loop_lag_seconds",
            "How much later than it should a task gets its turn, looked at once a second.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
            todo="Above 0.1 s the process has more to do than one core can, or does not get the"
            " core: give it CPU, move agents to another relay. `/debug/tasks` tells of what"
            " there is much.",
        )

    async def watch_loop(self) -> Never:
        """Look at the event loop, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK
            await asyncio.sleep(LOOK)
            self.loop_lag.observe(max(0.0, loop.time() - due))
