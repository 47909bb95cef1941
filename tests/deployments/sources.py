"""A copy of what packages and images are built from: building leaves nothing in the tree."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.deployments.manifests import ROOT


def ignored() -> list[str]:
    """The lines of .dockerignore that mean something."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def let_through() -> list[str]:
    """What .dockerignore leaves of the tree."""
    return [line.removeprefix("!") for line in ignored() if line.startswith("!")]


def copy_sources(target: Path) -> Path:
    """Copy that to a new folder, and give the folder back."""
    for name in let_through():
        _copy(ROOT / name, target / name)
    return target


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        shutil.copy(source, target)
