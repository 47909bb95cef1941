"""The package that pipx installs: all of ours is in it, and nothing else."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from outrelay import __version__
from tests.deployments.manifests import ROOT
from tests.deployments.sources import copy_sources

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INFO = f"outrelay-{__version__}.dist-info"
DATA = (".py", ".pyi", ".sql", "py.typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(folder / "sources")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--wheel-dir", str(folder), str(sources)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    assert path.name == f"outrelay-{__version__}-py3-none-any.whl"
    with ZipFile(path) as opened:
        yield opened


def test_the_programs_are_entry_points(wheel: ZipFile) -> None:
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read_string(wheel.read(f"{INFO}/entry_points.txt").decode())

    assert dict(parser["console_scripts"]) == PROJECT["scripts"]


def test_all_of_the_package_is_there_and_nothing_else(wheel: ZipFile) -> None:
    source = ROOT / "src"
    ours = {
        str(path.relative_to(source))
        for path in (source / "outrelay").rglob("*")
        if path.name.endswith(DATA)
    }

    there = {name for name in wheel.namelist() if not name.startswith(INFO)}
    assert there == ours


def test_it_says_what_it_is_and_needs(wheel: ZipFile) -> None:
    said = Parser().parsestr(wheel.read(f"{INFO}/METADATA").decode())

    assert (said["Name"], said["Version"]) == ("outrelay", __version__)
    assert said["License-Expression"] == PROJECT["license"]
    assert said["Requires-Python"] == PROJECT["requires-python"]
    needed = [each for each in said.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert len(needed) == len(PROJECT["dependencies"])
    assert "uvloop" in said.get_all("Provides-Extra", [])


def test_the_licence_comes_with_it(wheel: ZipFile) -> None:
    licence = wheel.read(f"{INFO}/licenses/LICENSE")

    assert licence == Path(ROOT / "LICENSE").read_bytes()
