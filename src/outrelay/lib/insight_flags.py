"""The flags by which a service lets itself be looked into, and the configuration it then shows.

    @command("relay", ...)
    @insight_flags(("127.0.0.1", 9100))
    def main(*, insight: Insight, ...) -> RelayOptions: ...

Invariant: of what people wrote into a value nothing is shown that stands between ``://`` and
``@``: that is where passwords are.

Source: commands.md, ``--debug-listen``, ``--health-listen`` and ``/debug/config``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from click.core import ParameterSource

from outrelay.lib.insight import DEBUG, HEALTH, INTERVAL, Insight, Setting
from outrelay.lib.observe.dump import FLAG
from outrelay.lib.options import (
    DURATION,
    FILE,
    OPTIONAL_ADDRESS,
    Address,
    Flag,
    address_text,
    flag,
    together,
    written,
)

OptionsT = TypeVar("OptionsT")

_SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}
_ACTS = {"only_check"}
"""Parameters that are no configuration."""

_CREDENTIALS = re.compile(r"://\S*@")


def insight_flags(
    debug_listen: Address,
) -> Callable[[Callable[..., OptionsT]], Callable[..., OptionsT]]:
    """The flags, passed on as one argument ``insight``.

    Args:
        debug_listen: Where the service's debug listener is by default.
    """
    flags = together(
        flag(
            DEBUG,
            type=OPTIONAL_ADDRESS,
            default=address_text(debug_listen),
            help="Where /metrics, /debug/status and the like are shown over HTTP; '' for nowhere.",
        ),
        flag(
            HEALTH,
            type=OPTIONAL_ADDRESS,
            default="",
            show_default="nowhere",
            help="Where /healthz and /readyz alone are answered, for probes from elsewhere.",
        ),
        flag(
            FLAG,
            type=FILE,
            help="File that gets the metrics as a line of JSON every --metrics-interval; FILE.1"
            " keeps the 64 MiB before.",
        ),
        flag(INTERVAL, type=DURATION, default="10s", help="How often --metrics-dump gets a line."),
    )

    def decorate(build: Callable[..., OptionsT]) -> Callable[..., OptionsT]:
        @functools.wraps(build)
        def gather(
            *,
            debug_listen: Address | None,
            health_listen: Address | None,
            metrics_dump: Path | None,
            metrics_interval: float,
            **others: object,
        ) -> OptionsT:
            insight = Insight(
                debug_listen=debug_listen,
                health_listen=health_listen,
                metrics_dump=metrics_dump,
                metrics_interval=metrics_interval,
                config=_effective(click.get_current_context()),
            )
            return build(insight=insight, **others)

        return flags(gather)

    return decorate


def _effective(ctx: click.Context) -> dict[str, Setting]:
    """What each flag has come to, by its key in the ``--config`` file."""
    names = [each.name for each in ctx.command.params if isinstance(each, Flag) and each.name]
    texts = written(ctx)
    return {
        name.replace("_", "-"): Setting(value=_shown(texts.get(name)), source=_source(ctx, name))
        for name in names
        if name not in _ACTS
    }


def _source(ctx: click.Context, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return _SOURCES.get(source, "default") if source else "default"


def _shown(value: str | list[str] | None) -> str | list[str] | None:
    if isinstance(value, list):
        return [_CREDENTIALS.sub("://***@", each) for each in value]
    return value and _CREDENTIALS.sub("://***@", value)
