"""Which packet engine the QUIC carrier runs on.

The native one needs an extension that not everybody has built; aioquic is always there.
"""

from __future__ import annotations

import os
from enum import StrEnum
from importlib import import_module
from importlib.metadata import version

from outrelay.lib.errors import ConfigError
from outrelay.lib.transport.quic.engine import Engine, EngineOptions
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine

_NATIVE = "outrelay.lib.transport.quic.engine_native"


class EngineChoice(StrEnum):
    """What an operator may ask for."""

    AUTO = "auto"  # native where it can be imported
    AIOQUIC = "aioquic"
    NATIVE = "native"


def native_fault() -> str:
    """Why the native engine cannot be used here; empty: it can."""
    try:
        import_module(_NATIVE)
    except ImportError as error:
        return str(error)
    return ""


def chosen(choice: EngineChoice) -> EngineChoice:
    """AIOQUIC or NATIVE, whichever ``choice`` comes to here.

    Raises:
        ConfigError: The native engine was asked for and is not there.
    """
    if choice is EngineChoice.AIOQUIC:
        return choice
    if not (fault := native_fault()):
        return EngineChoice.NATIVE
    if choice is EngineChoice.AUTO:
        return EngineChoice.AIOQUIC
    raise ConfigError(
        "--quic-engine native", f"is not installed ({fault})", "install outrelay[native]"
    )


def runs_on(variable: str) -> str:
    """The engine that a program would run on here, in words.

    Args:
        variable: What its environment says of ``--quic-engine`` by.
    """
    told = os.environ.get(variable) or EngineChoice.AUTO
    try:
        choice = chosen(EngineChoice(told))
    except (ValueError, ConfigError):
        return f"QUIC engine: {told}, which is not there"
    package = {EngineChoice.AIOQUIC: "aioquic", EngineChoice.NATIVE: "outrelay-native"}[choice]
    return f"QUIC engine: {choice}, {package} {version(package)}"


def make_engine(options: EngineOptions, choice: EngineChoice = EngineChoice.AUTO) -> Engine:
    """An engine for one socket.

    Args:
        options: What it is made with.
        choice: Which one.

    Raises:
        ConfigError: The native engine was asked for and is not there, or cannot use the
            credentials.
    """
    if chosen(choice) is EngineChoice.AIOQUIC:
        return AioquicEngine(options)
    made: Engine = import_module(_NATIVE).NativeEngine(options)
    return made
