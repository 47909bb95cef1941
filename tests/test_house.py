"""Rules of the house that no tool checks."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import click
import pytest

from outrelay.lib.options import ServiceCommand
from outrelay.tools.reference import programs

ROOT = Path(__file__).parent.parent
GENERATED = "_pb2"
MOST_LINES = 700


def modules(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if GENERATED not in path.name)


@pytest.mark.parametrize("path", modules("src", "tests"), ids=lambda path: path.name)
def test_a_module_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()

    assert len(text.splitlines()) <= MOST_LINES
    assert not text.strip() or text.startswith('"""')


def test_a_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in modules("tests")}

    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_console_scripts_are_files_of_cmd_or_tools_too() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    for name, target in scripts.items():
        path = ROOT / ("cmd" if name.startswith("outrelay-") else "tools") / name
        module, function = target.split(":")
        assert path.read_text().splitlines()[1:] == [
            f"from {module} import {function}",
            f"{function}()",
        ]
        assert os.access(path, os.X_OK)


def test_a_flag_its_variable_and_its_key_have_one_name() -> None:
    named = [
        (param.name, param.opts)
        for program in programs()
        if isinstance(program, ServiceCommand)
        for param in program.params
        if isinstance(param, click.Option) and "--check" not in param.opts
    ]

    assert len(named) > 50
    assert [opts for name, opts in named if f"--{name}".replace("_", "-") not in opts] == []
