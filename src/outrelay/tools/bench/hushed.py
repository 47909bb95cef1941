"""A service that logs nothing but errors while it is told to: what logging costs is measured by it.

    python -m outrelay.tools.bench.hushed outrelay-relay --listen ...

``HUSH`` hushes it, ``SPEAK`` has it log from level info on, as it does at first.
"""

from __future__ import annotations

import signal
import sys
from functools import partial

from outrelay.agent.command import main as agent
from outrelay.controller.command import main as controller
from outrelay.lib.observe import logs
from outrelay.relay.command import main as relay

HUSH, SPEAK = signal.SIGUSR2, signal.SIGRTMIN
_PROGRAMS = {
    "outrelay-agent": agent,
    "outrelay-controller": controller,
    "outrelay-relay": relay,
}


def main() -> None:
    """Run the service that the command line begins with."""
    for number, level in ((HUSH, "error"), (SPEAK, "info")):
        signal.signal(number, partial(_change, level))
    script, *arguments = sys.argv[1:]
    _PROGRAMS[script].main(args=arguments, prog_name=script)


def _change(level: str, *_: object) -> None:
    logs.change_level(level, by="the benchmark")


if __name__ == "__main__":
    main()
