"""A service that logs nothing but errors while it is told to: what logging costs is measured by it.

    python -m outrelay.tools.bench.hushed outrelay-relay --listen ...

SIGUSR2 hushes it, and again has it log from level info on, as it does at first.
"""

from __future__ import annotations

import signal
import sys

from outrelay.agent.command import main as agent
from outrelay.controller.command import main as controller
from outrelay.lib.observe import logs
from outrelay.relay.command import main as relay

SIGNAL = signal.SIGUSR2
_PROGRAMS = {
    "outrelay-agent": agent,
    "outrelay-controller": controller,
    "outrelay-relay": relay,
}


def main() -> None:
    """Run the service that the command line begins with."""
    signal.signal(SIGNAL, _toggle)
    script, *arguments = sys.argv[1:]
    _PROGRAMS[script].main(args=arguments, prog_name=script)


def _toggle(*_: object) -> None:
    logs.change_level("error" if logs.level() == "info" else "info", by="the benchmark")


if __name__ == "__main__":
    main()
