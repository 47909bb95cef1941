"""Dashboard, alerts and scraping: they use what the programs export, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrelay.lib.observe.exposition import text_of
from tests.deployments.command_lines import understood
from tests.deployments.exported import JOBS, exported, faults, grouped_by, registry, selectors
from tests.deployments.manifests import (
    DEPLOYMENTS,
    PLAIN,
    containers,
    objects,
    of_kind,
    templates,
)

FOLDER = DEPLOYMENTS / "observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES: list[Mapping[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
COMMAND = re.compile(r"`(outrelay-cli [^`]+)`")
LEGEND = re.compile(r"\{\{(\w+)\}\}")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


# ---- names ---------------------------------------------------------------------------------


def test_queries_are_read() -> None:
    (one, other) = selectors('sum(rate(outrelay_x_total{job="outrelay-relay", a=~"1|2"}[5m])) / up')

    assert (one.name, other.name) == ("outrelay_x_total", "up")
    assert one.matchers == {"job": ("=", "outrelay-relay"), "a": ("=~", "1|2")}
    assert one.jobs() == ["outrelay-relay"]
    assert other.jobs() == list(JOBS)


@pytest.mark.parametrize(
    "query",
    [
        "outrelay_invented",
        'outrelay_rpc_calls_total{job="outrelay-relay"}',
        'outrelay_connections{invented="1"}',
        "sum by (invented) (outrelay_connections)",
        'up{job="invented"}',
    ],
)
def test_what_nobody_exports_is_found(query: str) -> None:
    assert len(faults(query)) == 1


@each_rule
def test_alerts_use_what_is_exported(rule: Mapping[str, Any]) -> None:
    assert faults(rule["expr"]) == []


@each_panel
def test_panels_use_what_is_exported(panel: Mapping[str, Any]) -> None:
    for target in panel["targets"]:
        assert faults(target["expr"]) == []


def test_most_of_what_is_exported_is_shown() -> None:
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    shown = {each.name for query in queries for each in selectors(query)}

    ours = {name for job in JOBS for name in exported(job) if name.startswith("outrelay_")}
    assert {name for name in ours if not name.endswith(("_sum", "_count"))} - shown == set()


@needs_promtool
@pytest.mark.parametrize("job", JOBS)
def test_prometheus_takes_what_is_exported(job: str) -> None:
    text, _ = text_of(registry(job))

    done = subprocess.run(
        ["promtool", "check", "metrics"], check=False, input=text, capture_output=True, timeout=60
    )

    assert b"outrelay_build_info" in text
    assert (done.returncode, done.stderr) == (0, b"")


# ---- alerts --------------------------------------------------------------------------------


@needs_promtool
def test_prometheus_takes_the_alerts() -> None:
    done = promtool("check", "rules", FOLDER / "alerts.yaml")

    assert done.returncode == 0, done.stderr


@each_rule
def test_alerts_say_what_is_the_case_and_what_to_do(rule: Mapping[str, Any]) -> None:
    assert rule["alert"].startswith("OutRelay")
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "action"}
    for text in rule["annotations"].values():
        assert len(text) > 20
        assert text.endswith(".")
    for command in COMMAND.findall(rule["annotations"]["action"]):
        understood(shlex.split(command))


# ---- the dashboard -------------------------------------------------------------------------


@needs_promtool
def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{panel['id']}_{target['refId']}", "expr": plain(target["expr"])}
        for panel in PANELS
        for target in panel["targets"]
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = promtool("check", "rules", path)

    assert done.returncode == 0, done.stderr


def plain(query: str) -> str:
    """A query without Grafana's variables."""
    return query.replace("$__rate_interval", "5m").replace("$instance", ".*")


@each_panel
def test_panels_say_what_they_show(panel: Mapping[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        plain_labels = {each for one in selectors(target["expr"]) for each in one.matchers}
        there = grouped_by(target["expr"]) or plain_labels
        assert set(LEGEND.findall(target["legendFormat"])) <= there


def test_panels_do_not_cover_each_other() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not own & cells
        cells |= own
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


UNITS = {"none", "short", "percentunit", "s", "ops", "bytes", "Bps"}
"""Of Grafana's, those that fit what we count: base units, and rates of them."""
OPTIONS = {
    "stat": {"reduceOptions", "colorMode", "graphMode", "textMode"},
    "timeseries": {"legend", "tooltip"},
}


@each_panel
def test_panels_are_what_grafana_knows(panel: Mapping[str, Any]) -> None:
    """Source: Grafana's dashboard JSON model, schema version 39."""
    assert panel["options"].keys() == OPTIONS[panel["type"]]
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] in UNITS
    if panel["type"] == "stat":
        lowest, *others = (each["value"] for each in defaults["thresholds"]["steps"])
        assert lowest is None  # from below everything
        assert others == sorted(others)
    names = [target["refId"] for target in panel["targets"]]
    assert len(set(names)) == len(names)


def test_the_dashboard_can_be_imported() -> None:
    assert DASHBOARD["schemaVersion"] == 39
    assert DASHBOARD["uid"]
    assert "id" not in DASHBOARD  # Grafana gives one
    assert [each["type"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "query"]
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert not [row for row in rows if row["collapsed"] or row["panels"]]


def test_variables_are_those_that_queries_use() -> None:
    names = {each["name"] for each in DASHBOARD["templating"]["list"]}
    (instance,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "instance")
    text = json.dumps(PANELS)

    used = {name for name in re.findall(r"\$\{?(\w+)", text) if not name.startswith("__")}
    assert used == names
    assert faults(instance["definition"].removeprefix("label_values(").split(",")[0]) == []


# ---- scraping ------------------------------------------------------------------------------


@needs_promtool
def test_prometheus_takes_the_scrape_configuration() -> None:
    done = promtool("check", "config", FOLDER / "prometheus.yaml")

    assert done.returncode == 0, done.stderr


def scraped(name: str) -> list[Mapping[str, Any]]:
    return list(yaml.safe_load((FOLDER / name).read_text())["scrape_configs"])


@pytest.mark.parametrize("job", JOBS)
def test_hosts_are_scraped_where_debug_listeners_are(job: str) -> None:
    (config,) = (each for each in scraped("prometheus.yaml") if each["job_name"] == job)
    program = understood((job, "--cert=c", "--key=k", "--ca=a"))

    (static,) = config["static_configs"]
    assert static["targets"] == ["{}:{}".format(*program.params["debug_listen"])]


def test_pods_are_scraped_under_the_job_of_their_program() -> None:
    (config,) = scraped("prometheus-kubernetes.yaml")
    rules = config["relabel_configs"]

    jobs = {relabelled(rules, labels).get("job") for labels in discovered()}
    assert jobs == {*JOBS, None}  # None: what is not kept


def discovered() -> Iterator[dict[str, str]]:
    """What Prometheus knows of the pods' ports before relabelling."""
    for pod in templates(objects(PLAIN)):
        part_of = pod["metadata"]["labels"]["app.kubernetes.io/part-of"]
        for container in containers(pod):
            for port in container.get("ports", ()):
                yield {
                    "__meta_kubernetes_namespace": "outrelay",
                    "__meta_kubernetes_pod_name": "pod",
                    "__meta_kubernetes_pod_label_app_kubernetes_io_part_of": part_of,
                    "__meta_kubernetes_pod_container_name": container["name"],
                    "__meta_kubernetes_pod_container_port_name": port["name"],
                }


def relabelled(rules: list[Mapping[str, Any]], labels: dict[str, str]) -> dict[str, str]:
    """The labels that Prometheus gives; none where it does not scrape."""
    for rule in rules:
        value = ";".join(labels[name] for name in rule["source_labels"])
        found = re.fullmatch(rule.get("regex", "(.*)"), value)
        if rule.get("action") == "keep" and not found:
            return {}
        if "target_label" in rule and found:
            replacement = rule.get("replacement", "$1").replace("$1", found[1])
            labels = {**labels, rule["target_label"]: replacement}
    return labels


def test_the_adapter_gives_what_pods_are_scaled_by() -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (scaler,) = of_kind("HorizontalPodAutoscaler", objects(PLAIN))

    (series,) = selectors(rule["seriesQuery"])
    assert faults(rule["seriesQuery"]) == []
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] == series.name
