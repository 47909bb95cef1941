"""``correlate``: the command.

Exit codes: 0 streams were shown, 1 a file could not be read to its end (the rest is shown) or
there is no room for temporary files, 2 bad usage, 3 there is no such stream.

Source: commands.md, "correlate".
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import click

from outrelay import __version__
from outrelay.lib.options import ParsedType
from outrelay.lib.usage import OneLine
from outrelay.lib.values import parse_duration
from outrelay.tools.correlate.groups import MOST_FILES
from outrelay.tools.correlate.intake import Intake
from outrelay.tools.correlate.outputs import FORMATS, LINES, Filter, Output, any_fault
from outrelay.tools.correlate.sorting import Sorter

EXIT_FAILED: Final = 1
EXIT_NOT_FOUND: Final = 3


def _parse_id(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{16}", text):
        raise ValueError(f"{text!r} is no stream id, which is 16 hex digits")
    return text.lower()


def _parse_since(text: str) -> int:
    """Milliseconds since the epoch of a time, or of so long ago."""
    try:
        return round((time.time() - parse_duration(text)) * 1000)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a duration (15m) nor a time (2026-11-30T02:50:00Z)"
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


_EPILOG: Final = """\
\b
Examples:
  correlate agent-a.log relay.log agent-b.log
  correlate --id 3f2a9c0d11e45b67 --output timeline *.log
  correlate --output table --since 15m relay.log*
  kubectl logs deploy/outrelay-relay | correlate --output timeline -
  outrelay-cli audit query --since 1h --limit 0 --output json > audit.json
  correlate --output timeline agent-a.log audit.json
"""


@click.command("correlate", cls=OneLine, context_settings={"show_default": True}, epilog=_EPILOG)
@click.option(
    "--id", "-id", "stream_id", type=ParsedType("id", _parse_id), help="This stream, 16 hex digits."
)
@click.option(
    "--output",
    type=click.Choice(FORMATS),
    default=LINES,
    help="lines: a heading for each stream, then its lines; table: a row for each stream, in order"
    " of time; json: an object for each stream, one a line; timeline: drawn.",
)
@click.option(
    "--since",
    type=ParsedType("time", _parse_since),
    help="Streams to which something happened since: so long ago (15m), or a time (ISO 8601; UTC"
    " where it names no zone).",
)
@click.option(
    "--agent",
    default="",
    show_default="any",
    help="Streams of an agent: its URI, or a part of that.",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.version_option(__version__)
def main(
    stream_id: str | None, output: str, since: int | None, agent: str, files: Sequence[str]
) -> None:
    """Put the log lines of agents, relays and controllers together by stream.

    FILEs hold JSON lines (--log-format json), or audit events as `outrelay-cli audit query
    --output json` writes them; they may be compressed by gzip; - is standard input. They may be
    larger than memory: what does not fit is sorted in temporary files, in the folder of TMPDIR.

    Lines without both stream_id and ts_unix_ms are skipped, broken ones too; how many is told on
    standard error, and how far the clocks of the files are apart, as far as the events show
    that. Only timelines are corrected by it.
    """
    if len(files) > MOST_FILES:
        raise click.UsageError(f"more than {MOST_FILES} files")
    with _ended_by_signals(), Sorter() as sorter, _room():
        intake = Intake(sorter, stream_id or "")
        for name in files:
            intake.read(name)
        shown = Output(intake, Filter(since=since or 0, agent=agent), sys.stdout.buffer)
        shown.write(output)
    for note in shown.notes():
        click.echo(f"correlate: {note}", err=True)
    if any_fault(intake):
        sys.exit(EXIT_FAILED)
    if not shown.found:
        click.echo(f"correlate: {_nothing(stream_id, intake)}", err=True)
        sys.exit(EXIT_NOT_FOUND)


def _nothing(stream_id: str | None, intake: Intake) -> str:
    if stream_id:
        return f"no line of stream {stream_id}"
    if any(counts.entries for counts in intake.files):
        return "no such stream; see --since and --agent"
    return "no line of a stream; the programs write JSON lines with --log-format json"


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals end the process as they end others, quietly; temporary files have no names."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS: Final = (signal.SIGINT, signal.SIGPIPE)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fault = f"cannot write: {error.strerror}; is there room for temporary files? set TMPDIR"
        click.echo(f"correlate: {fault}", err=True)
        sys.exit(EXIT_FAILED)
