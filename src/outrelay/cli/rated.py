"""How fast what a list shows is, for those who ask with ``--rates``: two looks are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import click
import grpc.aio
from google.protobuf.message import Message

from outrelay.cli.output import record_of
from outrelay.cli.session import note
from outrelay.cli.watch.rates import Rate, RateOf, Rates, between
from outrelay.cli.watch.sample import take

BETWEEN = 1.0
"""Seconds from one look to the other."""

MOST = 10_000
"""Streams that are looked at."""

MessageT = TypeVar("MessageT", bound=Message)

Record = Callable[[MessageT], dict[str, object]]

rates_flag = click.option(
    "--rates", is_flag=True, help="Also show bytes a second; that takes a second."
)


async def measured(channel: grpc.aio.Channel, tenant: str, *, wanted: bool) -> Rates | None:
    """What moves within ``BETWEEN``; None: nobody wants to know.

    Raises:
        grpc.aio.AioRpcError: A call failed.
    """
    if not wanted:
        return None
    before = await take(channel, tenant, MOST)
    await asyncio.sleep(BETWEEN)
    now = await take(channel, tenant, MOST)
    if "streams" in now.truncated:
        note(f"there are more than {MOST} streams: the rates are made of the newest")
    return between(before, now)


def recorded(rate_of: RateOf[MessageT] | None) -> Record[MessageT]:
    """How a message is written as a record, with its rate where that was asked for."""
    if rate_of is None:
        return record_of
    return lambda message: rated(message, rate_of(message))


def rated(message: Message, rate: Rate | None) -> dict[str, object]:
    """A message and its rate as people write them; None: it has none."""
    return {
        **record_of(message),
        "rate_up": rate and round(rate.up),
        "rate_down": rate and round(rate.down),
    }
