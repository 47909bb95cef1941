"""Runs a service as a process: logs, event loop, signals and exit codes.

SIGTERM or SIGINT set the ``stop`` event, and the service winds down within the bounds of
its options; a second one cancels it where it stands. SIGUSR1 has everything logged, down to
debug, and a second one what is logged usually. An error an operator can act on is
one line on standard error (its trace is for ``--log-level debug``); any other error is a
bug and is reported with its trace.

Exit codes: 0 stopped as asked, 1 failed while running, 78 bad configuration.

Source: commands.md; style.md, errors.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import NoReturn

from outrelay.lib.errors import ConfigError, OutRelayError
from outrelay.lib.observe import logs

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with suppress(ImportError):  # an extra
    from uvloop import new_event_loop

log = logs.get_logger(__name__)

MOST_FILES = 65_536
"""Files and sockets a process may have open, where the system lets it."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFIG = os.EX_CONFIG

Run = Callable[[asyncio.Event], Awaitable[None]]
Work = Callable[[], Awaitable[int]]


def serve(component: str, run: Run, *, log_format: str, log_level: str) -> NoReturn:
    """Run ``run`` until it returns and exit the process with the code that fits.

    Args:
        component: What this process is: ``relay``, ``agent``, ``controller``.
        run: The service. It gets the event that asks it to stop and returns when it has.
        log_format: ``text`` or ``json``.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
    """

    async def work() -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, _toggle_debug, log_level)
        await _until_stopped(run)
        log.info("stopped")
        return 0

    act(component, work, log_format=log_format, log_level=log_level)


def act(component: str, work: Work, *, log_format: str, log_level: str) -> NoReturn:
    """Run ``work`` to its end and exit the process with the code it returns.

    Args:
        component: What this process is.
        work: What it does.
        log_format: ``text`` or ``json``.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    logs.configure(component, log_format, log_level)
    _allow_many_files()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            code = runner.run(_result_of(work))
    except asyncio.CancelledError:
        sys.exit(EXIT_FAILED)
    except Exception as error:
        cause = cause_of(error)
        if not isinstance(cause, OutRelayError):
            log.exception("crashed", error=repr(cause))
            sys.exit(EXIT_FAILED)
        _report(component, cause, log_format=log_format, log_level=log_level)
        sys.exit(EXIT_CONFIG if isinstance(cause, ConfigError) else EXIT_FAILED)
    sys.exit(code)


async def _result_of(work: Work) -> int:
    return await work()


def _allow_many_files() -> None:
    """Ask for room for MOST_FILES: a thousand idle callers fill up what a process usually has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _toggle_debug(usual: str) -> None:
    """Log down to debug, or if that is so what is logged usually."""
    less = "info" if usual == "debug" else usual
    logs.change_level(less if logs.level() == "debug" else "debug", by="SIGUSR1")


async def _until_stopped(run: Run) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    this.set_name("service")

    asked = False  # by a signal; an operator may have had ``stop`` set before

    def on_signal(number: signal.Signals) -> None:
        nonlocal asked
        if asked:
            log.warning("stopping at once", signal=number.name)
            this.cancel()
        else:
            log.info("stopping", signal=number.name)
            asked = True
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await run(stop)


def _report(component: str, error: OutRelayError, *, log_format: str, log_level: str) -> None:
    """Tell the operator: one line, in the format of the logs; the trace only on request."""
    if log_level == "debug":
        log.error("failed", error=str(error), exc_info=error)
    elif log_format == "json":
        log.error("failed", error=str(error))
    else:
        print_fault(component, str(error))


def print_fault(component: str, fault: str) -> None:
    """One line on standard error that names the program."""
    sys.stderr.write(f"outrelay-{component}: {fault}\n")


def cause_of(error: Exception) -> BaseException:
    """The error inside exception groups that a person should hear of.

    That is the first which is not ours (a bug must not hide behind a fault), else the
    first ConfigError, else the first.
    """
    errors = list(_leaves(error))
    bugs = [each for each in errors if not isinstance(each, OutRelayError)]
    faults = [each for each in errors if isinstance(each, ConfigError)]
    return (bugs + faults + errors)[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
