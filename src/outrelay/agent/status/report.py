"""What an agent shows of itself, for people. Pure, but for the printing.

The agent may be older or newer than this program: what it does not tell is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import click

from outrelay.agent.status.asking import Status
from outrelay.lib.tables import WIDE, Column, age, left, moment, print_table, printable, size

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Bytes a second, of all streams together."""

    up: float
    down: float

    @classmethod
    def between(cls, before: Status, now: Status) -> Rates:
        """The rates from one status to a later one of the same agent."""
        seconds = (_number(now, "ts_unix_ms") - _number(before, "ts_unix_ms")) / 1000
        if seconds <= 0:
            return cls(up=0.0, down=0.0)
        return cls(
            up=max(0, _number(now, "bytes_up") - _number(before, "bytes_up")) / seconds,
            down=max(0, _number(now, "bytes_down") - _number(before, "bytes_down")) / seconds,
        )


def is_connected(status: Status) -> bool:
    """Whether a session with a relay takes new streams."""
    return any(each.get("current") for each in _rows(status, "sessions"))


def show(status: Status, rates: Rates) -> None:
    """Print all of it."""
    for line in head_of(status, rates):
        click.echo(printable(line))
    now_ms = _number(status, "ts_unix_ms")
    _table(_sessions(now_ms), _rows(status, "sessions"))
    _table(EXPOSED, _rows(status, "exposed"))
    _table(CONSUMED, _rows(status, "consumed"))


def head_of(status: Status, rates: Rates) -> Iterator[str]:
    """Who it is, how it is and what it does."""
    now_ms = _number(status, "ts_unix_ms")
    state = "connected" if is_connected(status) else "NOT CONNECTED"
    yield f"{_text(status, 'identity')}: {state}"
    yield from (f"not ready: {each}" for each in _texts(status, "unready"))
    up = age((now_ms - _number(status, "started_unix_ms")) / 1000)
    ends_ms = _number(status, "certificate_not_after_unix_ms")
    engine = _text(status, "quic_engine")
    runs_on = f", QUIC engine {engine}" if engine else ""
    process = f"process {_number(status, 'pid')}, up for {up}"
    yield f"version {_text(status, 'version')}{runs_on}, {process}"
    rest = left(ends_ms, now_ms)
    told = "has EXPIRED" if rest == "expired" else f"ends in {rest}"
    yield f"certificate {told} ({moment(ends_ms)})"
    count = _number(status, "streams")
    moved = f"{size(_number(status, 'bytes_up'))} up, {size(_number(status, 'bytes_down'))} down"
    now = f"{size(int(rates.up))}/s up, {size(int(rates.down))}/s down"
    yield f"{count} stream{'' if count == 1 else 's'}; {moved} since the start; now {now}"


def _sessions(now_ms: int) -> Sequence[Column[Row]]:
    return (
        Column(title="RELAY", text=lambda row: _text(row, "relay").removeprefix("outrelay://")),
        Column(title="ADDRESS", text=lambda row: _text(row, "address"), whole=True),
        Column(title="CARRIER", text=lambda row: _text(row, "carrier"), whole=True),
        Column(title="ENGINE", text=lambda row: _text(row, "engine"), least=WIDE),
        Column(title="STATE", text=_state, whole=True),
        Column(
            title="SINCE",
            text=lambda row: age((now_ms - _number(row, "since_unix_ms")) / 1000),
            whole=True,
        ),
        Column(title="STREAMS", text=lambda row: str(_number(row, "streams")), whole=True),
        Column(title="RTT", text=_round_trip, whole=True, least=WIDE),
        Column(
            title="CERTIFICATE",
            text=lambda row: left(_number(row, "certificate_not_after_unix_ms"), now_ms),
            whole=True,
        ),
    )


EXPOSED: Sequence[Column[Row]] = (
    Column(title="EXPOSES", text=lambda row: _text(row, "service")),
    Column(title="BACKEND", text=lambda row: _text(row, "target"), whole=True),
    Column(
        title="STATE",
        text=lambda row: (
            "registered" if row.get("registered") else _text(row, "refused") or "not registered yet"
        ),
    ),
)

CONSUMED: Sequence[Column[Row]] = (
    Column(title="CONSUMES", text=lambda row: _text(row, "service")),
    Column(title="METHOD", text=lambda row: _text(row, "method")),
    Column(title="AT", text=lambda row: _text(row, "address"), whole=True),
)


def _state(row: Row) -> str:
    if row.get("leaving"):
        return "leaving"
    return "current" if row.get("current") else "old"


def _round_trip(row: Row) -> str:
    milliseconds = row.get("rtt_ms")
    return f"{milliseconds:.1f} ms" if isinstance(milliseconds, int | float) else ""


def _table(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
    if rows:
        click.echo()
        print_table(columns, rows)


def _number(fields: Row, name: str) -> int:
    value = fields.get(name)
    return int(value) if isinstance(value, int | float) else 0


def _text(fields: Row, name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _list(fields: Row, name: str) -> Sequence[object]:
    value = fields.get(name)
    return value if isinstance(value, list) else []


def _texts(fields: Row, name: str) -> list[str]:
    return [each for each in _list(fields, name) if isinstance(each, str)]


def _rows(fields: Row, name: str) -> list[Row]:
    return [each for each in _list(fields, name) if isinstance(each, dict)]
