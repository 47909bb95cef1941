"""The engines that the tests of the engine port run on."""

from __future__ import annotations

import pytest

from outrelay.lib.transport.quic.engines import EngineChoice
from tests.lib.transport.quic import engines
from tests.support.native import needs_native

AIOQUIC, NATIVE = EngineChoice.AIOQUIC, EngineChoice.NATIVE


@pytest.fixture(
    params=[
        pytest.param((AIOQUIC, AIOQUIC), id="aioquic"),
        pytest.param((NATIVE, NATIVE), id="native", marks=needs_native),
    ]
)
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EngineChoice:
    """One engine at both ends, and which."""
    monkeypatch.setattr(engines, "dials", request.param[0])
    monkeypatch.setattr(engines, "listens", request.param[1])
    choice: EngineChoice = request.param[0]
    return choice


@pytest.fixture(
    params=[
        pytest.param((AIOQUIC, NATIVE), id="aioquic to native", marks=needs_native),
        pytest.param((NATIVE, AIOQUIC), id="native to aioquic", marks=needs_native),
    ]
)
def both_engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine at one end, and the other at the other."""
    monkeypatch.setattr(engines, "dials", request.param[0])
    monkeypatch.setattr(engines, "listens", request.param[1])
