"""Profiles: named settings in a file of the user's own, one of them in use.

The file is ``outrelay/cli.toml`` below ``$XDG_CONFIG_HOME`` (``~/.config``), mode 0600. It
holds paths of keys, never keys.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from outrelay.lib import advice
from outrelay.lib.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line, the environment or a profile says; None: nothing."""

    controller: str | None = None
    tenant: str | None = None
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    plaintext: bool | None = None

    def over(self, other: Settings) -> Settings:
        """These settings, and ``other`` where they say nothing."""
        mine = {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return replace(other, **mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """The contents of the file; change it with ``dataclasses.replace`` and ``save``."""

    current: str = ""
    settings: Mapping[str, Settings]

    def get(self, name: str) -> Settings:
        """The settings of a profile, or of the current one for an empty name.

        Raises:
            ConfigError: There is none of that name.
        """
        if not name and not self.current:
            return Settings()
        name = name or self.current
        if name not in self.settings:
            known = ", ".join(self.settings) or "none"
            raise ConfigError(f"profile {name}", "does not exist", f"there are: {known}")
        return self.settings[name]


def profiles_path() -> Path:
    """Where this user's profiles are."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "outrelay" / "cli.toml"


def check_name(name: str) -> str:
    """A name that a profile may have.

    Raises:
        ValueError: It may not.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name; use letters, digits, - and _")
    return name


def load(path: Path) -> Profiles:
    """The profiles of a file; none when there is no file.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Profiles(settings={})
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
        raise ConfigError(str(path), fault, advice.on_file(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}") from error
    current, tables = document.get("current", ""), document.get("profiles", {})
    if not isinstance(current, str) or not isinstance(tables, dict):
        raise ConfigError(str(path), "does not hold profiles", "remove it and add them again")
    return Profiles(
        current=current,
        settings={name: _settings(f"{path}: {name}", table) for name, table in tables.items()},
    )


def save(path: Path, profiles: Profiles) -> None:
    """Write the file as a whole, or not at all.

    Raises:
        ConfigError: It cannot be written.
    """
    lines = [f"current = {json.dumps(profiles.current)}"] if profiles.current else []
    for name, settings in profiles.settings.items():
        lines += ["", f"[profiles.{name}]", *_lines(settings)]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write("\n".join(lines).lstrip() + "\n")  # the file is made with mode 0600
        Path(file.name).replace(path)
    except OSError as error:
        fault = f"cannot be written: {error.strerror}"
        raise ConfigError(str(path), fault, advice.on_file(error)) from error


def _lines(settings: Settings) -> list[str]:
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return [
        f"{name} = {json.dumps(value if isinstance(value, bool) else str(value))}"
        for name, value in values.items()
        if value is not None
    ]


def _settings(subject: str, table: object) -> Settings:
    kinds = {field.name: str for field in fields(Settings)} | {"plaintext": bool}
    if not isinstance(table, dict) or not table.keys() <= kinds.keys():
        raise ConfigError(subject, f"is no profile; its keys are {', '.join(kinds)}")
    for name, value in table.items():
        if not isinstance(value, kinds[name]):
            raise ConfigError(f"{subject}: {name}", f"must not be {value!r}")
    paths = {name: Path(table[name]) for name in ("cert", "key", "ca") if name in table}
    return Settings(**{**table, **paths})
