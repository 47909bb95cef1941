"""The benchmark runs from end to end, and says so when it cannot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from outrelay.tools.bench import chain, command, runner
from outrelay.tools.bench.runner import BenchmarkError

ROOT = Path(__file__).parents[3]
PROGRAMS = ("controller", "relay", "provider", "consumer")


def run(*arguments: str) -> int:
    """Run the benchmark here; its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(args=list(arguments))
    return int(ended.value.code or 0)


def test_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of everything: ``make bench-smoke`` runs the rest."""
    assert run("--quick", "--only", "open", "--out", str(tmp_path)) == 0
    routes = {"quic", "tcp", "direct"} | ({"chain"} if not chain.missing() else set())
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {each["route"] for each in found["measurements"]} == routes
    assert [each["scenario"] for each in found["summary"]] == ["open to first byte"] * len(routes)
    (opens,) = found["capacity"]
    assert opens["name"] == "20 opens a second for 1 s"
    held = {(each["route"], each["process"]) for each in found["memory"]}
    assert held == {(route, name) for route in ("quic", "tcp") for name in PROGRAMS}
    assert (tmp_path / "bench.svg").read_text().startswith("<svg")
    shown = capsys.readouterr().out
    assert "open to first byte" in shown
    assert "opens a second" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    command_line = [sys.executable, str(ROOT / "tools" / "bench"), "--quick", "--only", "upload"]
    with subprocess.Popen(
        command_line, env={"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    ) as process:
        children: list[psutil.Process] = []
        while not any(map(_is_relay, children)):
            assert process.poll() is None
            children = psutil.Process(process.pid).children()
        process.send_signal(number)
        assert process.stderr is not None
        assert "bench: interrupted" in process.stderr.read()
    assert process.returncode == 130
    assert not [each for each in children if each.is_running()]
    assert not list(tmp_path.iterdir())


def _is_relay(process: psutil.Process) -> bool:
    try:
        return any("outrelay-relay" in each for each in process.cmdline())
    except psutil.Error:  # it has gone meanwhile
        return False


def test_only_what_exists_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", "teleport") == 2
    assert "no scenario's name holds 'teleport'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "word", "code"),
    [(BenchmarkError("upload: damaged"), "damaged", 1), (KeyboardInterrupt(), "int", 130)],
)
def test_a_run_that_breaks_off_leaves_no_results(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    word: str,
    code: int,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(runner, "run", fail)
    assert run("--out", str(tmp_path / "out")) == code
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
