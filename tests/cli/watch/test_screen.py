"""The screen: it fits, and says what has to be said."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from outrelay.cli.watch.follow import Frame
from outrelay.cli.watch.rates import Rate, Rates
from outrelay.cli.watch.sample import Sample
from outrelay.cli.watch.screen import Shown, screen, share
from outrelay.lib.control.v1.registry_pb2 import RelayInfo
from tests.controller.fleet.scripted import agent, stream
from tests.controller.live import AGENT_A, AGENT_B

NOW = 1_800_000_000_000
HOUR = 3_600_000


def relay(number: int, **more: object) -> RelayInfo:
    fields: dict[str, object] = {
        "id": f"r{number}",
        "region": "eu",
        "alive": True,
        "attached_unix_ms": NOW - HOUR,
        "started_unix_ms": NOW - HOUR,
        "certificate_not_after_unix_ms": NOW + HOUR,
    }
    return RelayInfo(**{**fields, **more})  # type: ignore[arg-type]


def crowd() -> Sample:
    """More than there is room for."""
    return Sample(
        taken_ms=NOW,
        relays=[relay(number, endpoint="relay.example.net:7443") for number in range(30)],
        agents=[
            agent(services=["a-service-with-a-long-name"] * 5, services_count=5, relay_id="r1")
            for _ in range(50)
        ],
        streams=[
            stream(number, service="a-service-with-a-long-name " * 5, relay_id="r1")
            for number in range(900)
        ],
        truncated=["streams"],
    )


def drawn(frame: Frame, *, width: int = 80, height: int = 24, tenant: str = "acme") -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture:
        shown = Shown(controller="ctl:7444", tenant=tenant, width=width, height=height)
        console.print(screen(frame, shown, NOW))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("height", [10, 24, 60])
@pytest.mark.parametrize("tenant", ["acme", ""])
def test_it_is_no_larger_than_the_terminal(width: int, height: int, tenant: str) -> None:
    lines = drawn(Frame(sample=crowd()), width=width, height=height, tenant=tenant)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_what_has_no_room_is_counted_and_the_busiest_is_shown() -> None:
    busy = Rates(streams={("acme", f"{777:016x}"): Rate(3 * 2**20, 10)})
    lines = drawn(Frame(sample=crowd(), rates=busy))
    assert lines[1].split() == ["30", "relays", "50", "agents", "900+", "streams",
                                "up", "0", "B/s", "down", "0", "B/s"]  # fmt: skip
    head = next(number for number, line in enumerate(lines) if line.startswith("STREAM"))
    assert lines[head].startswith("STREAM 5/900")
    assert lines[head + 1].split()[0] == f"{777:016x}"
    assert "3.0 MiB" in lines[head + 1]
    assert "10 B" in lines[head + 1]


def test_names_and_numbers_stand_where_they_belong() -> None:
    sample = Sample(
        taken_ms=NOW,
        relays=[relay(1, agents=2, streams=3), relay(2, attached_unix_ms=0, alive=False)],
        agents=[
            agent(
                consuming=2,
                since_unix_ms=NOW - 65_000,
                relay_id="r1",
                certificate_not_after_unix_ms=NOW - 1,
            )
        ],
        streams=[stream(7, service="we\x1b[2Jb", opened_unix_ms=NOW - 5000)],
    )
    rates = Rates(relays={"r1": Rate(2048.0, 1.0)}, agents={(AGENT_A, "r1"): Rate(1.0, 2048.0)})
    lines = drawn(Frame(sample=sample, rates=rates))
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["2"][-5:] == ["2.0", "KiB/s", "down", "1", "B/s"]
    assert rows["r1"] == ["r1", "up", "2", "3", "2.0", "KiB", "1", "B", "1h00m", "1h00m"]
    assert rows["r2"][1] == "dead"
    name = AGENT_A.rpartition("/")[2].partition("-")[0]
    caller = ["quic", "0", "2", "1", "B", "2.0", "KiB", "1m05s", "expired"]
    assert [line.split() for line in lines if line.startswith(f"{name} ")] == [[name, *caller]]
    provider = AGENT_B.rpartition("/")[2].partition("-")[0]
    assert rows[f"{7:016x}"] == [f"{7:016x}", r"we\x1b[2Jb", name, provider, "5s"]


def test_of_all_tenants_it_says_whose() -> None:
    lines = drawn(Frame(sample=crowd()), tenant="")
    assert "all tenants" in lines[0]
    assert any("TENANT" in line for line in lines)


@pytest.mark.parametrize(
    ("frame", "note"),
    [
        (
            Frame(sample=Sample(taken_ms=NOW), away="nobody listens", away_ms=NOW - 5000),
            "the controller is away since ",
        ),
        (
            Frame(sample=Sample(taken_ms=NOW), away_ms=NOW - 5000, lasted=65.0),
            "the controller is back, it was away for 1m05s",
        ),
        (Frame(sample=Sample(taken_ms=NOW), away_ms=NOW - 15_000, lasted=65.0), ""),
        (
            Frame(sample=Sample(taken_ms=NOW, silent=["r1", "r2"])),
            "no answer in time, and missing here: r1, r2",
        ),
    ],
)
def test_what_one_has_to_know_stands_in_the_third_line(frame: Frame, note: str) -> None:
    line = drawn(frame)[2]
    assert line.startswith(note)
    assert bool(line.strip()) is bool(note)


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([1, 2, 3], 16, [1, 2, 3]),
        ([30, 50, 900], 16, [6, 5, 5]),
        ([1, 2, 900], 16, [1, 2, 13]),
        ([1, 2, 3], -4, [0, 0, 0]),
    ],
)
def test_rows_are_shared(wanted: list[int], room: int, given: list[int]) -> None:
    assert share(wanted, room) == given
