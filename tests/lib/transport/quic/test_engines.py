"""Which packet engine an endpoint runs on."""

from __future__ import annotations

import sys

import pytest

from outrelay.lib.errors import ConfigError
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.quic.engines import EngineChoice, chosen, native_fault, runs_on
from tests.lib.transport.quic.engines import PKI, RELAY
from tests.support.native import needs_native

LOOPBACK = ("127.0.0.1", 0)
VARIABLE = "OUTRELAY_TEST_QUIC_ENGINE"
NATIVE = "outrelay.lib.transport.quic.engine_native"


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extension is not installed."""
    monkeypatch.delitem(sys.modules, NATIVE, raising=False)
    monkeypatch.setitem(sys.modules, "outrelay_native", None)


@pytest.mark.usefixtures("without_native")
def test_without_the_extension_auto_is_aioquic() -> None:
    assert "outrelay_native" in native_fault()
    assert chosen(EngineChoice.AUTO) is EngineChoice.AIOQUIC
    assert runs_on(VARIABLE).startswith("QUIC engine: aioquic, aioquic ")


@pytest.mark.usefixtures("without_native")
async def test_who_asks_for_what_is_not_there_is_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"--quic-engine native.*outrelay\[native\]"):
        await QuicEndpoint.bind(
            LOOPBACK, credentials=RELAY, trust=PKI.trust, engine=EngineChoice.NATIVE
        )


@needs_native
def test_with_the_extension_auto_is_native() -> None:
    assert native_fault() == ""
    assert chosen(EngineChoice.AUTO) is EngineChoice.NATIVE
    assert runs_on(VARIABLE).startswith("QUIC engine: native, outrelay-native ")


@pytest.mark.usefixtures("without_native")
@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("aioquic", "aioquic, aioquic "),
        ("native", "native, which is not"),
        ("x", "x, which is not"),
    ],
)
def test_what_the_environment_says_is_shown(
    told: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, told)
    assert runs_on(VARIABLE).startswith(f"QUIC engine: {shown}")


@needs_native
def test_an_extension_of_another_interface_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, NATIVE, raising=False)
    monkeypatch.setattr("outrelay_native.INTERFACE", 0)

    assert "interface 0" in native_fault()
    assert chosen(EngineChoice.AUTO) is EngineChoice.AIOQUIC


@pytest.mark.parametrize(
    "choice", [EngineChoice.AIOQUIC, pytest.param(EngineChoice.NATIVE, marks=needs_native)]
)
async def test_an_endpoint_runs_on_the_engine_it_is_told(choice: EngineChoice) -> None:
    endpoint = await QuicEndpoint.bind(LOOPBACK, credentials=RELAY, trust=PKI.trust, engine=choice)
    assert endpoint.engine == choice
    await endpoint.close()
