"""What every test gets: the event loops, and a check that nothing is left behind.

An async test runs on asyncio's loop; one marked ``both_loops`` (usually a whole module:
``pytestmark = pytest.mark.both_loops``) runs once on asyncio's and once on uvloop's. One marked
``virtual_time`` runs on a loop whose time passes at once (``support.virtual_loop``).
Sockets and transports left open fail the run by their ResourceWarning. Hypothesis draws the
same examples in every run, and no example fails for being slow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator

import psutil
import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings

from tests.support.native import skip_without_native
from tests.support.virtual_loop import VirtualLoop

settings.register_profile("outrelay", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("outrelay")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the suite of faults, tests/integration/test_faults.py")
    group.addoption("--faults", type=int, default=210, help="how many there are, in all stages")
    group.addoption("--seed", default="1", help="makes it another schedule")
    group.addoption("--stage", default="", help="only these of its stages, a comma list")
    group = parser.getgroup("memory", "tests/lib/transport/quic/test_memory.py")
    group.addoption("--connections", type=int, default=1000, help="how many come and go")


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> dict[str, LoopFactory]:
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    loops: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if item.get_closest_marker("both_loops"):
        loops["uvloop"] = uvloop.new_event_loop
    return loops


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and pytest_asyncio.is_async_test(item):
            item.fixturenames.insert(0, "no_task_left")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    skip_without_native(item)


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fails a test that leaves a task behind; every async test uses it."""
    yield
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=1)  # those that are just ending may
        assert not left, f"tasks left running: {sorted(task.get_name() for task in left)}"


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fails a run that leaves a process behind."""
    yield
    left = psutil.Process().children(recursive=True)
    assert not left, f"processes left running: {[child.cmdline() for child in left]}"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undoes what a test that configures logging, or runs a program, leaves set."""
    loggers = [logging.getLogger(name) for name in (None, "outrelay")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    logging.captureWarnings(capture=False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
