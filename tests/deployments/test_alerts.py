"""Each alert fires in the case it is for, and none does while all is well."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.deployments.exported import faults
from tests.deployments.test_observability import FOLDER, RULES

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)

RELAY, AGENT, CONTROLLER = (f'job="outrelay-{name}"' for name in ("relay", "agent", "controller"))
AGENTS = f'outrelay_connections{{{RELAY}, role="agent", carrier="quic"}}'
CLOSED = f'outrelay_streams_ended_total{{{RELAY}, instance="r", result="closed"}}'
DENIED = f'outrelay_policy_decisions_total{{{RELAY}, instance="r", decision="deny"}}'
FAILED = f'outrelay_rpc_calls_total{{{CONTROLLER}, method="Append", code="UNAVAILABLE"}}'
READY = f"outrelay_ready{{{AGENT}}}"
CERTIFICATE = f"outrelay_certificate_not_after_timestamp_seconds{{{AGENT}}}"
LAGS = f'outrelay_event_loop_lag_seconds_bucket{{{{{RELAY}, le="{{}}"}}}}'
OPENS = f'outrelay_stream_open_duration_seconds_bucket{{{{{RELAY}, le="{{}}"}}}}'
RESUMED = f'outrelay_resumes_total{{{AGENT}, result="resumed"}}'
LOST = f"outrelay_uplink_losses_total{{{AGENT}}}"
ATTACHED = f"outrelay_relays_attached{{{CONTROLLER}}}"
WATCHED = f'outrelay_watch_lag_seconds{{{RELAY}, watch="policy"}}'

FINE = {
    f"up{{{RELAY}}}": "1x3000",
    f"up{{{AGENT}}}": "1x3000",
    f"up{{{CONTROLLER}}}": "1x3000",
    f"process_open_fds{{{RELAY}}}": "100x3000",
    f"process_max_fds{{{RELAY}}}": "65536x3000",
    'outrelay_build_info{version="1"}': "1x3000",
    AGENTS: "5x3000",
    CLOSED: "0+600x3000",
    CLOSED.replace("closed", "502"): "0+6x3000",
    CLOSED.replace("closed", "404"): "0+1x3000",
    f'outrelay_limits_reached_total{{{RELAY}, limit="opens_per_agent"}}': "7x3000",
    f'outrelay_handshakes_refused_total{{{RELAY}, reason="certificate"}}': "0+2x3000",
    DENIED: "0+600x3000",
    DENIED.replace("deny", "allow"): "0+1200x3000",
    f"outrelay_policy_rules{{{RELAY}}}": "12x3000",
    f"outrelay_audit_events_dropped_total{{{RELAY}}}": "3x3000",
    f"outrelay_audit_queue_events{{{RELAY}}}": "100x3000",
    f"outrelay_audit_spool_events{{{RELAY}}}": "100x3000",
    ATTACHED: "1x3000",
    WATCHED: "0x3000",
    READY: "1x3000",
    CERTIFICATE: "9000000x3000",
    LAGS.format("0.1"): "0+60x3000",
    LAGS.format("1.0"): "0+60x3000",
    LAGS.format("+Inf"): "0+60x3000",
    OPENS.format("1.0"): "0+60x3000",
    OPENS.format("5.0"): "0+60x3000",
    OPENS.format("+Inf"): "0+60x3000",
    RESUMED: "0+60x3000",
    RESUMED.replace("resumed", "window over"): "0+1x3000",
    RESUMED.replace("resumed", "left"): "0+60x3000",
    LOST: "2x3000",
    FAILED.replace("UNAVAILABLE", "OK"): "0+600x3000",
    FAILED: "0+1x3000",
}
"""Series a minute apart, for two days: what is, in the way promtool writes it."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is the case at a time, beside what is fine."""

    series: Mapping[str, str]
    minute: int
    also: tuple[str, ...] = ()


CASES = {
    "OutRelayRelayDown": Case({f"up{{{RELAY}}}": "1x10 0x10"}, 14),
    "OutRelayControllerDown": Case({f"up{{{CONTROLLER}}}": "1x10 0x10"}, 18),
    "OutRelayAgentDown": Case({f"up{{{AGENT}}}": "1x10 0x10"}, 18),
    "OutRelayNotReady": Case({READY: "1x10 0x20"}, 20),
    "OutRelayCertificateEnds": Case({CERTIFICATE: "1000000x60"}, 30),
    "OutRelayCertificateEndsToday": Case(
        {CERTIFICATE: "2000x60"}, 30, also=("OutRelayCertificateEnds",)
    ),
    "OutRelayEventLoopLags": Case({LAGS.format("0.1"): "0+1x60"}, 30),
    "OutRelayFilesRunOut": Case({f"process_open_fds{{{RELAY}}}": "60000x20"}, 10),
    "OutRelayVersionsDiffer": Case({'outrelay_build_info{version="2"}': "1x3000"}, 1500),
    "OutRelayNoAgents": Case({AGENTS: "5x10 0x20"}, 20),
    "OutRelayStreamsFail": Case({CLOSED.replace("closed", "502"): "0+60x60"}, 30),
    "OutRelayOpensAreSlow": Case({OPENS.format("1.0"): "0+1x60"}, 30),
    "OutRelayStreamsDoNotResume": Case({RESUMED.replace("resumed", "window over"): "0+60x60"}, 30),
    "OutRelayAgentUnsteady": Case({LOST: "0+1x60"}, 60),
    "OutRelayServiceMissing": Case({CLOSED.replace("closed", "404"): "0+60x60"}, 30),
    "OutRelayLimitsReached": Case(
        {f'outrelay_limits_reached_total{{{RELAY}, limit="opens_per_agent"}}': "0+1x60"}, 30
    ),
    "OutRelayHandshakesRefused": Case(
        {f'outrelay_handshakes_refused_total{{{RELAY}, reason="certificate"}}': "0+120x60"}, 30
    ),
    "OutRelayMuchIsDenied": Case({DENIED: "0+6000x60"}, 30),
    "OutRelayNoRules": Case({f"outrelay_policy_rules{{{RELAY}}}": "0x60"}, 30),
    "OutRelayAuditEventsLost": Case(
        {f"outrelay_audit_events_dropped_total{{{RELAY}}}": "0x10 5x10"}, 15
    ),
    "OutRelayAuditWaits": Case({f"outrelay_audit_spool_events{{{RELAY}}}": "200000x60"}, 30),
    "OutRelayNoRelays": Case({ATTACHED: "0x60"}, 30),
    "OutRelayRulesAreOld": Case({WATCHED: "0+60x60"}, 30),
    "OutRelayControllerFails": Case({FAILED: "0+60x60"}, 30),
}


def test_there_is_a_case_for_each() -> None:
    assert [rule["alert"] for rule in RULES] == list(CASES)


@pytest.mark.parametrize("series", sorted({*FINE, *(s for c in CASES.values() for s in c.series)}))
def test_cases_are_of_series_that_are_exported(series: str) -> None:
    assert faults(series) == []


@pytest.mark.parametrize("minute", [30, 1500])
def test_none_fires_while_all_is_well(minute: int, tmp_path: Path) -> None:
    assert_firing(Case({}, minute), [], tmp_path)


@pytest.mark.parametrize("alert", CASES)
def test_it_fires(alert: str, tmp_path: Path) -> None:
    assert_firing(CASES[alert], [alert, *CASES[alert].also], tmp_path)


def assert_firing(case: Case, alerts: list[str], tmp_path: Path) -> None:
    """Fail unless exactly these alerts fire."""
    series = {**FINE, **case.series}
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{case.minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts
                ],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(FOLDER / "alerts.yaml")],
                "evaluation_interval": "1m",
                "tests": [test],
            }
        )
    )
    command = ["promtool", "test", "rules", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
