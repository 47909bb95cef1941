"""Where a stream stopped, by whose lines there are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.tools.correlate.logs import (
    CALLER,
    PROVIDER,
    Line,
    agent,
    audit,
    correlate,
    finished,
    line,
    relay,
    write,
)

BACKEND = {"code": 502, "reason": "the provider's backend cannot be reached: Connection refused"}
DENIED = {"code": 403, "reason": "no policy rule allows it"}
LOST = {"reason": "not resumed within 2 s: no relay is connected", "why": "window over"}


def told(folder: Path, files: dict[str, Iterable[Line | str]]) -> dict[str, Any]:
    """What is said of the one stream in files."""
    done = correlate("--output", "json", *write(folder, files))
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def verdict(folder: Path, files: dict[str, Iterable[Line | str]]) -> tuple[str, str, str]:
    """The result, where it stopped and why."""
    found = told(folder, files)
    return found["result"], found["stopped_at"], found["reason"]


def refused(*lines: Line, **fields: object) -> dict[str, Iterable[Line | str]]:
    """A refusal that consumer and relay tell of, and more lines of the provider's agent."""
    return {
        "a": [agent(3, "open refused", service="shop", hint="do", **fields)],
        "r": [relay(2, "stream refused", consumer=CALLER, service="shop", **fields)],
        "b": list(lines),
    }


def test_a_stream_that_went_well(tmp_path: Path) -> None:
    found = told(tmp_path, {name: list(lines) for name, lines in finished().items()})
    assert found["result"] == "finished"
    assert found["stopped_at"] == found["reason"] == ""
    assert (found["service"], found["consumer"], found["provider"]) == ("shop", CALLER, PROVIDER)
    assert found["seen_by"] == ["consumer", "relay", "provider"]
    assert found["events"] == len(found["lines"]) == 6


def test_the_providers_backend_is_down(tmp_path: Path) -> None:
    lines = (
        agent(
            1, "backend failed", service="shop", target="127.0.0.1:9", reason="cannot be reached"
        ),
        agent(1, "incoming stream refused", service="shop", peer=CALLER, **BACKEND),
    )
    expected = ("refused", "provider", f"502 {BACKEND['reason']}")
    assert verdict(tmp_path, refused(*lines, **BACKEND)) == expected


@pytest.mark.parametrize("missing", ["a", "r", "b"])
def test_the_same_without_one_of_the_logs(tmp_path: Path, missing: str) -> None:
    lines = [agent(1, "incoming stream refused", service="shop", peer=CALLER, **BACKEND)]
    files = refused(*lines, **BACKEND)
    del files[missing]
    assert verdict(tmp_path, files) == ("refused", "provider", f"502 {BACKEND['reason']}")


def test_policy_denies(tmp_path: Path) -> None:
    expected = ("refused", "relay", "403 no policy rule allows it")
    assert verdict(tmp_path, refused(**DENIED)) == expected


def test_the_audit_trail_alone_tells_it_too(tmp_path: Path) -> None:
    trail = [audit(1, "reject", "404 no agent offers the service shop")]
    expected = ("refused", "relay", "404 no agent offers the service shop")
    assert verdict(tmp_path, {"audit.json": trail}) == expected


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (
            [
                agent(9, "stream ended", side="consumer", reason="application: reset"),
                agent(9, "stream ended", side="provider", reason="reset from the far end (X)"),
                relay(9, "stream ended", reason="reset by the consumer (CANCELLED)"),
            ],
            "consumer",
        ),
        (
            [
                agent(9, "stream ended", side="consumer", reason="reset from the far end (X)"),
                agent(9, "stream ended", side="provider", reason="backend: reset"),
            ],
            "provider",
        ),
        (
            [agent(9, "stream ended", side="consumer", reason="reset from the far end (X)")],
            "provider",
        ),
        ([agent(9, "stream ended", side="consumer", **LOST)], "relay"),
        (
            [relay(9, "stream ended", reason="the provider's connection is gone (LEG_LOST)")],
            "provider",
        ),
        ([audit(9, "close", "no longer read by the consumer (CANCELLED)")], "consumer"),
        ([agent(9, "stream ended", side="provider", reason="the agent stops")], "provider"),
    ],
)
def test_who_ended_it(tmp_path: Path, lines: list[Line], where: str) -> None:
    kind, found, reason = verdict(tmp_path, {"all": lines})
    assert (kind, found) == ("ended", where)
    assert reason


def test_policy_changed_its_mind(tmp_path: Path) -> None:
    files = {name: list(lines) for name, lines in finished().items()}
    files["relay.log"].insert(1, relay(30, "stream revoked", reason="denied by rule 7"))
    assert verdict(tmp_path, dict(files)) == ("revoked", "relay", "denied by rule 7")


def test_an_operator_killed_it(tmp_path: Path) -> None:
    lines = [
        relay(30, "stream revoked", reason="killed by admin: night"),
        line(31, "controller", "stream killed", tenant="acme", by="admin"),
    ]
    assert verdict(tmp_path, {"all": lines}) == ("revoked", "controller", "killed by admin")


def test_it_is_open_still(tmp_path: Path) -> None:
    lines = [each[0] for each in finished().values()]
    assert verdict(tmp_path, {"all": lines}) == ("open", "", "")


def test_nobody_answered(tmp_path: Path) -> None:
    lines = [agent(0, "opening stream", service="shop"), relay(1, "asking a provider")]
    assert verdict(tmp_path, {"all": lines}) == ("asked", "relay", "")


def test_an_application_that_did_not_wait(tmp_path: Path) -> None:
    lines = [
        agent(5, "open given up", service="shop", reason="the application is gone"),
        relay(6, "stream dropped", reason="given up by the consumer"),
    ]
    assert verdict(tmp_path, {"all": lines}) == ("refused", "consumer", "the application is gone")


# ---- what is missing -----------------------------------------------------------------------


def missing(folder: Path, files: dict[str, Iterable[Line | str]]) -> str:
    """What a timeline says is missing, as one line."""
    done = correlate("--output", "timeline", *write(folder, files), columns=200)
    assert done.exit_code == 0
    return " ".join(
        row.removeprefix("  missing").strip().replace(f"{folder}/", "")
        for row in done.stdout.splitlines()
        if row.startswith("  missing")
    )


def test_a_relay_that_was_killed(tmp_path: Path) -> None:
    files = {name: list(lines) for name, lines in finished().items()}
    for name, side in (("agent-a.log", "consumer"), ("agent-b.log", "provider")):
        files[name][1] = agent(3000, "stream ended", side=side, **LOST)
    files["relay.log"][1:] = []
    said = missing(tmp_path, dict(files))
    assert said == (
        "relay.log has no end of it, and no line after that:"
        " the relay was killed, or its log is cut off there"
    )


def test_a_relay_that_was_killed_and_started_again(tmp_path: Path) -> None:
    files = {name: list(lines) for name, lines in finished().items()}
    files["relay.log"][1:] = [relay(30, "ready", "", relay_id="r1")]
    said = missing(tmp_path, dict(files))
    assert said == "relay.log has no end of it; the program was killed, and started again"


def test_a_relay_that_stopped(tmp_path: Path) -> None:
    files = {name: list(lines) for name, lines in finished().items()}
    files["relay.log"][1:] = [relay(5, "stopped", "")]
    files["agent-a.log"][1] = agent(3000, "stream ended", side="consumer", **LOST)
    assert "no line after that: the relay stopped" in missing(tmp_path, dict(files))


def test_a_log_that_goes_on(tmp_path: Path) -> None:
    files = {name: list(lines) for name, lines in finished().items()}
    files["relay.log"][1:] = [relay(9000, "heartbeat taken", "")]
    assert missing(tmp_path, dict(files)) == "relay.log has no end of it, although the log goes on"


def test_logs_that_are_not_there(tmp_path: Path) -> None:
    lines = finished()["agent-a.log"]
    said = missing(tmp_path, {"agent-a.log": lines})
    assert said.count("its log is not among these files") == 2
    trail = [audit(2, "open", "allowed"), audit(60, "close", "finished")]
    assert "the audit trail tells for it" in missing(tmp_path, {"agent-a.log": [], "t": trail})


def test_nobody_misses_a_provider_that_was_not_asked(tmp_path: Path) -> None:
    files = refused(**DENIED)
    assert missing(tmp_path, files) == "provider has no line, as it should: none was asked"


def test_a_resumed_stream_is_over_at_its_second_relay(tmp_path: Path) -> None:
    files = {name: list(lines) for name, lines in finished().items()}
    end = files["relay.log"].pop()
    files["relay.log"].append(relay(20, "stream ended", reason="the consumer's connection is gone"))
    files["relay-2.log"] = [relay(25, "stream resumed"), end]
    assert missing(tmp_path, dict(files)) == ""
    done = correlate("--output", "timeline", *[str(tmp_path / name) for name in files])
    assert "↻ │  stream resumed" in done.stdout
