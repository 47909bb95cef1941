"""Log lines of a stream as the programs write them, and correlate run on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from click.testing import CliRunner, Result

from outrelay.tools.correlate.command import main

T0 = 1_790_000_000_000
"""When everything begins, milliseconds since the epoch."""
ID = "3f2a9c0d11e45b67"
CALLER = "outrelay://acme/agent/1b2c3d4e-0000-4000-8000-000000000001"
PROVIDER = "outrelay://acme/agent/9f8e7d6c-0000-4000-8000-000000000002"

Line = Mapping[str, object]


def line(at: int, component: str, event: str, stream_id: object = ID, **fields: object) -> Line:
    """A line of a program, ``at`` milliseconds after the beginning."""
    named = {"stream_id": stream_id} if stream_id else {}
    head = {"ts_unix_ms": T0 + at, "level": "info", "component": component, "event": event}
    return {**head, **named, **fields}


def audit(at: int, event: str, reason: str, stream_id: object = ID, **fields: object) -> Line:
    """An audit event as ``audit query --output json`` writes it."""
    return {
        "ts_unix_ms": T0 + at,
        "tenant": "acme",
        "caller": CALLER,
        "target": "shop",
        "decision": "deny" if event == "reject" else "allow",
        "reason": reason,
        "stream_id": stream_id,
        "event": event,
        "relay_id": "r1",
        **fields,
    }


def relay(at: int, event: str, stream_id: object = ID, **fields: object) -> Line:
    """A line of a relay."""
    return line(at, "relay", event, stream_id, **fields)


def agent(at: int, event: str, stream_id: object = ID, **fields: object) -> Line:
    """A line of an agent."""
    return line(at, "agent", event, stream_id, **fields)


def finished(stream_id: object = ID, at: int = 0, consumer: int = 0) -> dict[str, list[Line]]:
    """The lines of a stream that went well.

    Args:
        stream_id: Its id.
        at: When it begins.
        consumer: By how much the clock of the consumer's agent is ahead.
    """
    mine = {"service": "shop", "peer": PROVIDER, "side": "consumer"}
    theirs = {"service": "shop", "peer": CALLER, "side": "provider"}
    ends = {"reason": "finished", "bytes_up": 5, "bytes_down": 2048}
    both = {"consumer": CALLER, "provider": PROVIDER, "service": "shop", "carrier": "quic"}
    return {
        "agent-a.log": [
            agent(at + consumer + 3, "stream opened", stream_id, **mine),
            agent(at + consumer + 61, "stream ended", stream_id, **mine, **ends),
        ],
        "relay.log": [
            relay(at + 2, "stream opened", stream_id, **both),
            relay(at + 60, "stream ended", stream_id, **ends, seconds=0.058),
        ],
        "agent-b.log": [
            agent(at + 4, "stream opened", stream_id, **theirs),
            agent(at + 62, "stream ended", stream_id, **theirs, **ends),
        ],
    }


def write(folder: Path, files: Mapping[str, Iterable[Line | str]]) -> list[str]:
    """Write files of lines; their paths."""
    for name, lines in files.items():
        texts = (each if isinstance(each, str) else json.dumps(each) for each in lines)
        with (folder / name).open("a") as file:
            file.writelines(f"{text}\n" for text in texts)
    return [str(folder / name) for name in files]


def correlate(*arguments: str | Path, columns: int = 80) -> Result:
    """Run the command; an exception that is none of its own is raised."""
    runner = CliRunner(env={"COLUMNS": str(columns)})
    return runner.invoke(main, [str(each) for each in arguments], catch_exceptions=False)
