"""Tables that fit, times and sizes as people read them."""

from __future__ import annotations

from datetime import datetime

import pytest
from rich.text import Text

from outrelay.lib.tables import (
    MEDIUM,
    SPARE,
    Column,
    age,
    left,
    moment,
    print_table,
    printable,
    size,
)

Row = tuple[str, str, str]
COLUMNS: tuple[Column[Row], ...] = (
    Column(title="ID", text=lambda row: row[0], whole=True),
    Column(title="TEXT", text=lambda row: row[1]),
    Column(title="MORE", text=lambda row: row[2], least=MEDIUM),
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


@pytest.mark.usefixtures("terminal")
def test_a_table_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("12345678901234567890", "word " * 20, "extra")])
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert any("12345678901234567890" in line for line in lines)
    assert "MORE" not in lines[0]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("width", "shown"), [(99, False), (100, True)])
def test_more_columns_are_shown_where_there_is_room(
    width: int, shown: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, [("1", "text", "more")])
    head, _ = capsys.readouterr().out.splitlines()
    assert ("MORE" in head) is shown


FITTED: tuple[Column[Row], ...] = (
    Column(title="ID", text=lambda row: row[0], short=lambda row: row[0][:4], whole=True),
    Column(title="TEXT", text=lambda row: row[1], least=SPARE),
    Column(title="MORE", text=lambda row: row[2], least=SPARE),
    Column(title="MOST", text=lambda row: row[2], least=SPARE + 1),
)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (42, "ID TEXT MORE MOST 1234567890123456 text more more"),
        (34, "ID TEXT MORE MOST 1234567890123456 text more more"),
        (33, "ID TEXT MORE MOST 1234 text more more"),
        (22, "ID TEXT MORE MOST 1234 text more more"),
        (21, "ID TEXT MORE 1234 text more"),
        (15, "ID TEXT 1234 text"),
        (9, "ID 1234"),
    ],
)
def test_where_it_does_not_fit_names_are_short_and_then_columns_go(
    width: int,
    shown: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(FITTED, [("1234567890123456", "text", "more")])
    assert Text.from_ansi(capsys.readouterr().out).plain.split() == shown.split()


@pytest.mark.usefixtures("terminal")
def test_a_text_that_wraps_costs_no_other_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(FITTED, [("1", "word " * 20, "more")])
    head, first, *_ = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert head.split() == ["ID", "TEXT", "MORE", "MOST"]
    assert first.split()[-1] == "more"


def test_elsewhere_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("1", "word " * 100, "extra"), ("2", "[red]not markup", "")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "[red]not markup" in lines[2]


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [])
    assert capsys.readouterr().out.split() == ["ID", "TEXT", "MORE"]


def test_printable_escapes_what_is_not() -> None:
    assert printable("plain ü") == "plain ü"
    assert printable("a\x1b[2J\n") == r"a\x1b[2J\n"


def test_a_time_is_told_to_the_second_with_its_year_or_without() -> None:
    noon = int(datetime(2026, 7, 1, 12, 0, 5).astimezone().timestamp() * 1000)
    assert moment(noon) == "2026-07-01 12:00:05"
    assert moment(noon, year=False) == "07-01 12:00:05"


def test_a_time_too_far_away_for_a_calendar_is_its_number() -> None:
    assert moment(2**62) == str(2**62)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (7500, "2h05m"),
        (86400 * 4 + 3 * 3600, "4d03h"),
    ],
)
def test_an_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**51, "2048.0 TiB"),
    ],
)
def test_a_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("until_ms", "text"), [(0, ""), (1000, "expired"), (61_000, "1m00s"), (3_601_000, "1h00m")]
)
def test_what_is_left(until_ms: int, text: str) -> None:
    assert left(until_ms, 1000) == text
