"""What it costs to be seen: throughput while logs are written and metrics scraped, beside neither.

The processes are the same, so that nothing else differs. While they are seen they log at level
info, and all are scraped once a second, fifteen times as often as Prometheus usually does; while
they are not, they log errors alone, and nobody asks for their metrics.
"""

from __future__ import annotations

import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from outrelay.tools.bench import hushed, routes
from outrelay.tools.bench.pairs import PairFailedError, Side, shares
from outrelay.tools.deployment import Carrier, Deployment
from outrelay.tools.programs import Program

_EVERY = 1.0
_PATIENCE = 10.0
_SETTLE = 0.2


def measure(
    directory: Path, *, carrier: Carrier, rounds: int, amount: int
) -> Mapping[str, Sequence[float]]:
    """What is seen, as a share of what is not: throughput by direction, and CPU; see ``pairs``.

    Args:
        directory: An empty one.
        carrier: What the agents speak.
        rounds: Measurements of each, after one that warms up.
        amount: Bytes of each.

    Raises:
        PairFailedError: The load broke off, or a process could not be scraped.
    """
    with (
        routes.backend() as (_, backend),
        Deployment(directory, carrier=carrier, through=hushed.__name__) as deployment,
    ):
        at = routes.start(deployment, {routes.SERVICE: backend})[routes.SERVICE]
        with _Scraper(deployment.running) as scraper:
            pids = [program.pid for program in deployment.running]
            seen = Side(at=at, meanwhile=scraper.at_work, pids=pids)
            unseen = Side(at=at, meanwhile=partial(_hushed, deployment.running), pids=pids)
            return shares(seen, unseen, rounds=rounds, amount=amount)


@contextmanager
def _hushed(running: Sequence[Program]) -> Iterator[None]:
    """Let them log errors alone for the length of the ``with``."""
    _tell(running, hushed.HUSH)
    try:
        yield
    finally:
        _tell(running, hushed.SPEAK)


def _tell(running: Sequence[Program], number: signal.Signals) -> None:
    for program in running:
        program.send_signal(number)
    time.sleep(_SETTLE)  # what is sent before it was heard might be heard in another order


class _Scraper:
    """Asks every process for its metrics once a second, while it is at work; a context manager.

    Its seconds are those of the clock: where they fall in a measurement is left to chance, as with
    Prometheus, so that many measurements together are scraped for their length.
    """

    def __init__(self, running: Sequence[Program]) -> None:
        self._urls = [f"http://{_debug(program)}/metrics" for program in running]
        self._wanted, self._enough = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._faults: list[OSError] = []

    def __enter__(self) -> _Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Scrape for the length of the ``with``."""
        self._wanted.set()
        try:
            yield
        finally:
            self._wanted.clear()
        if self._faults:
            raise PairFailedError(f"scraping failed: {self._faults[0]}")

    def _run(self) -> None:
        while not self._enough.wait(_EVERY - time.monotonic() % _EVERY):
            if self._wanted.is_set():
                self._scrape()

    def _scrape(self) -> None:
        try:
            for url in self._urls:
                urllib.request.urlopen(url, timeout=_PATIENCE).read()
        except OSError as error:
            self._faults.append(error)


def _debug(program: Program) -> str:
    return str(program.wait_for("listening", fields={"service": "debug"})["address"])
