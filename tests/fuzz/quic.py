"""``make fuzz``: damaged datagrams for a QUIC engine, guided by the code that they reach.

What is damaged, and what must hold all the same, is ``tests.support.mangling``; libFuzzer, through
atheris, makes up the string that decides. Of the native engine it sees the half in Python.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["outrelay.lib.transport.quic", "aioquic"]):
    from outrelay.lib.transport.quic.engines import EngineChoice, chosen, native_fault
    from tests.lib.transport.quic import engines
    from tests.support.mangling import converse

    native_fault()  # which imports that engine, if it can

ENGINE = "--engine="
LIBFUZZER = ["-timeout=30", "-max_len=2000", "-len_control=0"]
"""Seconds after which a run is a lock-up; how long strings are, from the beginning."""


def main() -> None:
    told = [each.removeprefix(ENGINE) for each in sys.argv if each.startswith(ENGINE)]
    engines.dials = engines.listens = chosen(EngineChoice(*told or ["auto"]))
    print(f"engine: {engines.dials}")
    arguments = [each for each in sys.argv if not each.startswith(ENGINE)]
    atheris.Setup([*arguments, *LIBFUZZER], converse_by)
    atheris.Fuzz()


def converse_by(text: bytes) -> None:
    """One run; an exception is a find."""
    converse(engines.agent(), engines.relay(), text)


if __name__ == "__main__":
    main()
