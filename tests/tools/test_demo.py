"""The demo tells its story to the end, and leaves nothing behind however it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from outrelay.tools import demo, deployment
from outrelay.tools.demo import DemoError, Story

ROOT = Path(__file__).parents[2]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo makes its directory; nothing may be left in it, nor a process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(psutil.Process().children())  # of worlds that tests share
    yield tmp_path
    assert not list(tmp_path.iterdir())
    assert set(psutil.Process().children()) <= before


def run() -> int:
    """Run the demo here; its exit code."""
    with pytest.raises(SystemExit) as ended:
        demo.main(args=[])
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("temporary")
def test_the_whole_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SIZE", 24 * demo.MIB)  # more than sockets hold: the kill must cut
    assert run() == 0
    out = capsys.readouterr().out
    steps = [int(number) for number in re.findall(rf"^\[(\d+)/{Story.STEPS}\]", out, re.MULTILINE)]
    assert steps == list(range(1, Story.STEPS + 1))
    assert "open refused: 403" in out
    assert "kill -KILL" in out
    assert demo.GREETING.decode() in out
    hashes = re.findall(r"(?:sent|received) +([0-9a-f]{64})", out)
    assert len(hashes) == 6
    assert len(set(hashes)) == 1
    assert "Nothing is left" in out


@pytest.mark.usefixtures("temporary")
def test_a_program_that_fails_is_named_with_its_last_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def credentials(name: str) -> list[str]:
        return real("agent-a" if name == "relay" else name)

    real = deployment._credentials
    monkeypatch.setattr(deployment, "_credentials", credentials)
    assert run() == 1
    err = capsys.readouterr().err
    assert "The demo failed: relay ended with exit code 78" in err
    assert "agent-a.pem" in err


@pytest.mark.usefixtures("temporary")
def test_what_goes_wrong_midway_is_told_with_everybodys_last_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DemoError("the bytes were damaged")

    monkeypatch.setattr(demo, "transfer", fail)
    assert run() == 1
    err = capsys.readouterr().err
    assert "The demo failed: the bytes were damaged" in err
    for name in ("controller", "relay", "provider", "consumer"):
        assert f"--- {name}" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, ROOT / "tools" / "demo"],
        env={"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "[4/" not in process.stdout.readline():
            pass
        children = psutil.Process(process.pid).children()
        process.send_signal(number)
        process.stdout.read()
        assert "Interrupted" in process.stderr.read()
    assert process.returncode == 130
    assert len(children) >= 3
    assert not _alive(children)
    assert not list(tmp_path.iterdir())


def _alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running()]
