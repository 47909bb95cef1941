"""A service that logs nothing but errors once it is told to: what logging costs is measured by it.

    python -m outrelay.tools.bench.hushed outrelay-relay --listen ...

It logs as it is told to until SIGUSR2, so that whoever started it hears when it is ready, and where
it listens.
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
    signal.signal(SIGNAL, lambda *_: logs.change_level("error", by="the benchmark"))
    script, *arguments = sys.argv[1:]
    _PROGRAMS[script].main(args=arguments, prog_name=script)


if __name__ == "__main__":
    main()
