"""How a process lets itself be looked into while it runs: its flags, and what they open.

    async with opened(options.insight, views):
        ...  # /metrics and the rest can be asked for

Source: commands.md, ``--debug-listen``, ``--health-listen``, ``--metrics-dump``.
"""

from __future__ import annotations

import ipaddress
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from outrelay.lib.checks import faults_of, try_bind
from outrelay.lib.errors import ConfigError
from outrelay.lib.observe.debug import Routes, debug_routes, listen, probe_routes
from outrelay.lib.observe.dump import Dump, try_dump
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.observe.metrics.process import ProcessMetrics
from outrelay.lib.observe.views import Views
from outrelay.lib.tasks import spawn
from outrelay.lib.values import Address, address_text

log = get_logger(__name__)

DEBUG = "--debug-listen"
HEALTH = "--health-listen"
INTERVAL = "--metrics-interval"
SHORTEST = 0.1
"""Seconds between two lines, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one flag has come to.

    Args:
        value: As people write it, without secrets.
        source: Where it comes from: flag, environment, file, default.
    """

    value: str | list[str] | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """Where a process can be looked into.

    Args:
        debug_listen: Where everything is shown; None: nowhere.
        health_listen: Where only probes are answered; None: nowhere.
        metrics_dump: The file that numbers are written to; None: none.
        metrics_interval: Seconds between two lines of it.
        config: The effective configuration, by key; it is shown, and means nothing here.
    """

    debug_listen: Address | None = None
    health_listen: Address | None = None
    metrics_dump: Path | None = None
    metrics_interval: float = 10.0
    config: Mapping[str, Setting] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse what would keep the process busy with itself.

        Raises:
            ConfigError: The interval is too short.
        """
        if self.metrics_interval < SHORTEST:
            raise ConfigError(INTERVAL, f"is less than {SHORTEST:g}s")


UNSEEN = Insight()
"""Nowhere: the default of a process that is no program."""


def insight_faults(insight: Insight) -> list[str]:
    """What keeps the listeners from being opened, one line each."""
    steps: list[Callable[[], object]] = [
        partial(try_bind, flag, address, udp=False)
        for flag, address in ((DEBUG, insight.debug_listen), (HEALTH, insight.health_listen))
        if address is not None
    ]
    if insight.metrics_dump:
        steps.append(partial(try_dump, insight.metrics_dump))
    return faults_of(*steps)


@asynccontextmanager
async def opened(insight: Insight, views: Views) -> AsyncIterator[None]:
    """Let a process be looked into for the time of the body.

    Args:
        insight: Where.
        views: What there is to see.

    Raises:
        ConfigError: An address cannot be listened on, or the file not be written.
    """
    config = {
        key: {"value": setting.value, "source": setting.source}
        for key, setting in sorted(insight.config.items())
    }
    async with AsyncExitStack() as stack:
        if insight.health_listen:
            await _listen(stack, HEALTH, insight.health_listen, "health", probe_routes(views))
        if insight.debug_listen:
            routes = debug_routes(views, config)
            host, _ = await _listen(stack, DEBUG, insight.debug_listen, "debug", routes)
            if not ipaddress.ip_address(host).is_loopback:
                log.warning(
                    "debug listener on a network",
                    address=address_text(insight.debug_listen),
                    hint="whoever reaches it sees who is connected with whom, but no secrets",
                )
        if insight.metrics_dump:
            try_dump(insight.metrics_dump)
        await stack.enter_async_context(_counting(insight, views))
        yield


@asynccontextmanager
async def _counting(insight: Insight, views: Views) -> AsyncIterator[None]:
    """Have counted what is counted of every service, and written; for who can see it."""
    if not (insight.debug_listen or insight.metrics_dump):
        yield
        return
    process = ProcessMetrics(views.registry)
    process.certificate_not_after.set_function(lambda: views.expires() or 0)
    process.ready.set_function(lambda: not views.unready())
    dump = Dump(insight.metrics_dump, views) if insight.metrics_dump else None
    try:
        async with TaskGroup() as group:
            tasks = [spawn(group, process.watch_loop(), name="event loop lag")]
            if dump:
                tasks.append(spawn(group, dump.run(insight.metrics_interval), name="metrics dump"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        if dump:
            dump.finish()


async def _listen(
    stack: AsyncExitStack, flag: str, address: Address, name: str, routes: Routes
) -> Address:
    bound = await stack.enter_async_context(listen(flag, address, routes))
    log.info("listening", service=name, address=address_text(bound))
    return bound
