"""What the kernel says of a process."""

from __future__ import annotations

import os
import time

from outrelay.tools.bench import procfs

MIB = 1 << 20


def test_time_that_is_spent_is_counted() -> None:
    ours, everybodys = procfs.usage(os.getpid()).cpu_seconds, procfs.machine_cpu_seconds()
    while time.process_time() < ours + 0.1:
        pass
    assert procfs.usage(os.getpid()).cpu_seconds > ours
    assert procfs.machine_cpu_seconds() > everybodys


def test_the_peak_starts_again_when_it_is_reset() -> None:
    procfs.reset_peak(os.getpid())
    low = procfs.usage(os.getpid())
    block = b"\1" * (64 * MIB)
    assert procfs.usage(os.getpid()).rss > low.rss + 60 * MIB
    del block
    assert procfs.usage(os.getpid()).peak_rss > low.peak_rss + 60 * MIB
    procfs.reset_peak(os.getpid())
    assert procfs.usage(os.getpid()).peak_rss < low.peak_rss + 30 * MIB
