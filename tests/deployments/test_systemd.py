"""The systemd units: what systemd takes, what the programs understand, how much is closed off."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outrelay.lib.values import parse_duration
from tests.deployments.command_lines import options, understood
from tests.deployments.manifests import DEPLOYMENTS

FOLDER = DEPLOYMENTS / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PERSONAL = FOLDER / "user" / "outrelay-agent.service"
PREFIX = "/opt/outrelay/bin"
GIVEN = {
    "STATE_DIRECTORY": "/var/lib/outrelay",
    "RUNTIME_DIRECTORY": "/run/outrelay",
    "CREDENTIALS_DIRECTORY": "/run/credentials/outrelay",
}
MOST_EXPOSED = 30
"""Tenths: 3.0 of 10."""
OLDEST = 250
"""The first systemd that judges units which are not installed."""


def version() -> int:
    """Which systemd there is; 0: none."""
    if shutil.which("systemd-analyze") is None:
        return 0
    said = subprocess.run(
        ["systemd-analyze", "--version"], check=True, capture_output=True, text=True, timeout=60
    )
    return int(re.findall(r"\d+", said.stdout)[0])


needs_systemd = pytest.mark.skipif(
    version() < OLDEST, reason=f"systemd-analyze of systemd {OLDEST} or newer is not installed"
)
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)


def settings(unit: Path) -> dict[str, list[str]]:
    """The values of each key of a unit, in their order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().replace("\\\n", " ").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def environment(unit: Path) -> dict[str, str]:
    """What the example of the unit's environment file sets, comments too."""
    (name,) = settings(unit)["EnvironmentFile"]
    path = FOLDER / Path(name.removeprefix("-").replace("-%i", "")).name
    lines = [line.removeprefix("# ") for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if line.startswith("OUTRELAY_"))


def read(unit: Path) -> Any:
    """The options that the unit's program runs with."""
    (line,) = settings(unit)["ExecStart"]
    for name, value in GIVEN.items():
        line = line.replace(f"${{{name}}}", value)
    return options(shlex.split(line), environment(unit))


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_everybody_is_there() -> None:
    names = ["outrelay-agent@.service", "outrelay-controller.service", "outrelay-relay.service"]
    assert [unit.name for unit in UNITS] == names


@needs_systemd
@each_unit
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    there = tmp_path / unit.name  # systemd looks for the programs, too
    there.write_text(unit.read_text().replace(PREFIX, str(Path(sys.executable).parent)))

    done = analyze("verify", "--man=no", there)

    assert (done.returncode, done.stderr) == (0, "")


def test_an_agent_of_one_person_is_told_by_a_file() -> None:
    line = settings(PERSONAL)["ExecStart"][0].split()

    assert line[0] == "%h/.local/bin/outrelay-agent"  # where pipx puts it
    assert line[1:3] == ["--config", "%E/outrelay/agent.toml"]
    understood(["outrelay-agent", "--cert=c", "--key=k", "--ca=a", *line[3:]])


@needs_systemd
def test_systemd_takes_the_unit_of_one_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    there = tmp_path / PERSONAL.name
    there.write_text(
        PERSONAL.read_text().replace("%h/.local/bin", str(Path(sys.executable).parent))
    )

    done = analyze("--user", "verify", "--man=no", there)

    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_takes_no_invention(tmp_path: Path) -> None:
    there = tmp_path / "invented.service"
    there.write_text("[Service]\nExecStart=/bin/true\nInvented=yes\n")

    assert "Invented" in analyze("verify", "--man=no", there).stderr


@needs_systemd
@each_unit
def test_little_is_left_open(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)

    assert done.returncode == 0, done.stdout


@each_unit
def test_credentials_are_those_that_systemd_loads(unit: Path) -> None:
    run = read(unit)

    loaded = dict(each.split(":") for each in settings(unit)["LoadCredential"])
    for path in (run.cert, run.key, run.ca):
        assert str(path.parent) == GIVEN["CREDENTIALS_DIRECTORY"]
        assert Path(loaded[path.name]).name == path.name
    assert len(loaded) == 3


@each_unit
def test_what_is_written_to_is_given_by_systemd(unit: Path) -> None:
    run, keys = read(unit), settings(unit)

    places = {
        "StateDirectory": [getattr(run, key, None) for key in ("db", "audit_spool", "state_dir")],
        "RuntimeDirectory": [getattr(run, "admin_socket", None)],
    }
    for key, paths in places.items():
        written = [Path(path) for path in paths if path]
        assert bool(written) == (key in keys)
        variable = {"StateDirectory": "STATE_DIRECTORY", "RuntimeDirectory": "RUNTIME_DIRECTORY"}
        assert all(path.is_relative_to(GIVEN[variable[key]]) for path in written)


@each_unit
def test_there_is_time_to_drain(unit: Path) -> None:
    (stop,) = settings(unit)["TimeoutStopSec"]

    assert parse_duration(stop) >= getattr(read(unit), "drain", 0.0) + 10


@each_unit
def test_a_fault_of_the_configuration_is_not_tried_again(unit: Path) -> None:
    assert settings(unit)["RestartPreventExitStatus"] == ["2 78"]
    assert settings(unit)["Restart"] == ["always"]


@each_unit
def test_programs_are_where_the_installer_puts_them(unit: Path) -> None:
    (line,) = settings(unit)["ExecStart"]
    program = unit.name.partition("@")[0].removesuffix(".service")

    assert line.split()[0] == f"{PREFIX}/{program}"


def test_low_ports_are_for_who_has_the_right() -> None:
    for unit in UNITS:
        run = read(unit)
        addresses = [run.listen_tcp] if getattr(run, "listen_tcp", None) else []
        needed = any(port < 1024 for _, port in addresses)
        rights = "CAP_NET_BIND_SERVICE" if needed else ""
        assert settings(unit)["CapabilityBoundingSet"] == [rights]
        assert settings(unit)["AmbientCapabilities"] == [rights]
        assert ("PrivateUsers" in settings(unit)) is not needed
