"""The flags, and the configuration that a process shows: all of it, but no secrets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from outrelay.lib.insight import Insight, Setting
from outrelay.lib.insight_flags import insight_flags
from outrelay.lib.options import DURATION, command, flag

TOOK: list[Insight] = []


async def run(insight: Insight, stop: asyncio.Event) -> None:
    TOOK.append(insight)


@command("relay", run=run, check=lambda _: [], examples="outrelay-relay")
@flag("--drain", type=DURATION, default="10s", help="Time to finish.")
@flag("--relay", multiple=True, help="Relays.")
@flag("--proxy", help="Proxy.")
@flag("--db", default="relay.db", help="Database.")
@flag("--allow-all", is_flag=True, help="No policy.")
@insight_flags(("127.0.0.1", 9100))
def main(
    *,
    drain: float,
    relay: tuple[str, ...],
    proxy: str | None,
    db: str,
    allow_all: bool,
    insight: Insight,
) -> Insight:
    """Relay."""
    return insight


def built(*args: str, env: dict[str, str] | None = None) -> Insight:
    TOOK.clear()
    result = CliRunner().invoke(main, args, env=env)
    assert result.exit_code == 0, result.output
    return TOOK.pop()


def test_by_default_it_listens_on_loopback_and_dumps_nothing() -> None:
    assert built() == Insight(
        debug_listen=("127.0.0.1", 9100),
        health_listen=None,
        metrics_dump=None,
        metrics_interval=10.0,
    )


def test_every_flag_counts() -> None:
    insight = built(
        *("--debug-listen", "", "--health-listen", "0.0.0.0:1"),
        *("--metrics-dump", "m.jsonl", "--metrics-interval", "1m"),
    )

    assert insight == Insight(
        health_listen=("0.0.0.0", 1), metrics_dump=Path("m.jsonl"), metrics_interval=60.0
    )


def test_the_configuration_says_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('drain = "5s"\n')

    config = built(
        *("--relay", "a:1,b:2", "--config", str(file)), env={"OUTRELAY_RELAY_DB": "other.db"}
    ).config

    assert config["relay"] == Setting(value=["a:1", "b:2"], source="flag")
    assert config["drain"] == Setting(value="5s", source="file")
    assert config["db"] == Setting(value="other.db", source="environment")
    assert config["allow-all"] == Setting(value="false", source="default")
    assert config["proxy"] == Setting(value=None, source="default")
    assert config["config"] == Setting(value=str(file), source="flag")
    assert config["log-level"] == Setting(value="info", source="default")
    assert {"check", "only-check", "version"}.isdisjoint(config)


@pytest.mark.parametrize(
    ("flag", "value", "shown"),
    [
        ("--proxy", "http://ann:secret@proxy:3128", "http://***@proxy:3128"),
        ("--proxy", "http://ann:se/c@ret@proxy", "http://***@proxy"),
        ("--db", "postgresql://ann:secret@db/outrelay", "postgresql://***@db/outrelay"),
        ("--db", "postgresql://db/outrelay", "postgresql://db/outrelay"),
    ],
)
def test_passwords_are_not_shown(flag: str, value: str, shown: str) -> None:
    assert built(flag, value).config[flag.strip("-")].value == shown


def test_passwords_in_lists_are_not_shown_either() -> None:
    assert built("--relay", "x://a:b@c,d").config["relay"].value == ["x://***@c", "d"]
