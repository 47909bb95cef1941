"""``bench``: measure OutRelay on this machine, beside what people would use without it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console

from outrelay.lib.errors import OutRelayError
from outrelay.tools import programs
from outrelay.tools.bench import plot, runner, summary, table
from outrelay.tools.bench.capacity import QUICK, TRIALS, Size, Trial
from outrelay.tools.bench.runner import Results
from outrelay.tools.bench.scenarios import Scenario, scenarios

_DISTURBED = 0.2
"""Cores kept busy by others above which the numbers say little."""


@click.command("bench", context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=5, help="Measurements of each kind.")
@click.option("--quick", is_flag=True, help="One round with little load: does it all work?")
@click.option("--only", default="", help="Only the scenarios whose names hold this text.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="bench-out",
    help="Folder for bench.json and bench.svg.",
)
def main(rounds: int, quick: bool, only: str, out: Path) -> None:
    """Measure throughput, latency, CPU, memory and capacity of a chain of agents and relay.

    Everything runs on this machine: a load, a consumer's agent, a relay, a provider's agent
    and a backend, over QUIC and over TCP; beside them stunnel, HAProxy and stunnel with TLS
    between them, where they are installed, and direct TCP from the load to the backend.

    \b
    Scenarios, each over all of these routes:
      upload, download        one stream, and 16 streams
      open to first byte, ping-pong 64 B, ping-pong beside upload
    Trials, over QUIC alone:
      idle agents, idle streams, opens a second, streams at once, policy decisions,
      large controller, audit, cost of resuming, outages
      impaired path           one stream with 100 ms round trip and lost packets, beside
                              plain TCP with Cubic through the same; needs root
    """
    chosen = [each for each in scenarios(quick=quick) if only in each.name]
    trials = [each for each in TRIALS if only in each.name]
    if not (chosen or trials):
        raise click.BadParameter(f"no scenario's name holds {only!r}", param_hint="--only")
    programs.stop_on_signals()
    rounds = 1 if quick else rounds
    started = datetime.now(UTC).isoformat(timespec="seconds")
    console = Console()
    console.width = max(console.width, table.WIDTH)
    results = _run(chosen, trials, rounds, QUICK if quick else Size(), console)
    found = summary.figures(chosen, results.measurements)
    written = summary.document(chosen, results, started=started, rounds=rounds)
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(written, indent=1) + "\n")
    (out / "bench.svg").write_text(
        plot.svg(found, results.readings, f"OutRelay {written['version']}, {started}")
    )
    if found:
        console.print(table.speed(found))
    if results.readings:
        console.print(table.capacity(results.readings))
    console.print(table.memory(summary.memory(results)))
    if results.others_cores > _DISTURBED:
        console.print(
            f"[yellow]Other programs kept {results.others_cores:.1f} cores busy meanwhile:"
            " measure again on a quiet machine.[/]"
        )
    console.print(f"written to {out}/bench.json and {out}/bench.svg")


def _run(
    chosen: Sequence[Scenario],
    trials: Sequence[Trial],
    rounds: int,
    size: Size,
    console: Console,
) -> Results:
    with tempfile.TemporaryDirectory(prefix="outrelay-bench-") as directory:
        try:
            with console.status("") as status:
                return runner.run(chosen, trials, rounds, size, Path(directory), status.update)
        except OutRelayError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted; everything is stopped and removed", code=130)


def _fail(fault: str, *, code: int = 1) -> NoReturn:
    print(f"bench: {fault}", file=sys.stderr)
    raise SystemExit(code)
