"""What a process, or the whole machine, has used so far, as the kernel counts it (Linux)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU time in seconds, user and system; memory in bytes."""

    cpu_seconds: float
    rss: int
    peak_rss: int


def usage(pid: int) -> Usage:
    """What the process has used until now.

    Raises:
        OSError: There is no such process.
    """
    proc = Path("/proc", str(pid))
    # The name, in parentheses, may hold anything: the numbers start behind the last one.
    numbers = proc.joinpath("stat").read_text().rpartition(")")[2].split()
    fields = dict(line.split(":", 1) for line in proc.joinpath("status").read_text().splitlines())
    return Usage(
        cpu_seconds=(int(numbers[11]) + int(numbers[12])) / _TICKS,
        rss=_kib(fields["VmRSS"]),
        peak_rss=_kib(fields["VmHWM"]),
    )


def reset_peak(pid: int) -> None:
    """Let the peak start again at what the process has now."""
    Path("/proc", str(pid), "clear_refs").write_text("5")


def machine_cpu_seconds() -> float:
    """CPU time that everything on this machine has used, all cores together."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _kib(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * 1024
