"""The compose file: what Compose takes, what the programs understand, who finds whom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from outrelay import __version__
from outrelay.lib.values import parse_duration
from outrelay.tools.dev_pki import main as dev_pki
from tests.deployments.command_lines import is_ours, options
from tests.deployments.manifests import DEPLOYMENTS

FILE = DEPLOYMENTS / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES: Mapping[str, Any] = COMPOSE["services"]
OURS: Mapping[str, Any] = {
    name: options(service["command"])
    for name, service in SERVICES.items()
    if is_ours(service["command"])
}
CHECK = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]


def check(path: Path) -> int:
    done = subprocess.run([*CHECK, str(path)], check=False, capture_output=True, timeout=60)
    return done.returncode


def test_compose_takes_it() -> None:
    assert check(FILE) == 0


def test_compose_takes_no_invention(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(FILE.read_text().replace("cap_drop:", "cap_invented:"))

    assert check(path) == 1


def test_everybody_is_there() -> None:
    assert set(OURS) == {"controller", "relay", "provider", "consumer"}


def test_who_is_called_listens() -> None:
    relay, controller = OURS["relay"], OURS["controller"]

    assert relay.controllers == (f"controller:{controller.listen[1]}",)
    for agent in (OURS["provider"], OURS["consumer"]):
        assert agent.relays == (("relay", relay.listen[1]),) == (relay.advertise,)
        assert agent.relays_tcp == (("relay", relay.listen_tcp[1]),) == (relay.advertise_tcp,)
    (web,) = OURS["provider"].expose
    assert web.target == ("web", int(SERVICES["web"]["command"][3]))
    assert [each.service for each in OURS["consumer"].consume] == [web.service]


def test_published_ports_are_listened_at() -> None:
    def published(name: str) -> list[str]:
        return [port.split(":")[-1] for port in SERVICES[name]["ports"]]

    relay, consumer = OURS["relay"], OURS["consumer"]
    assert published("relay") == [f"{relay.listen[1]}/udp", str(relay.listen_tcp[1])]
    assert published("consumer") == [str(each.bind[1]) for each in consumer.consume]


def test_health_is_asked_where_the_image_has_it_told() -> None:
    for name in OURS:
        _, program, url = SERVICES[name]["healthcheck"]["test"]
        assert (program, url) == ("outrelay-healthcheck", "http://127.0.0.1:8080/readyz")


def test_certificates_are_those_of_dev_pki() -> None:
    *_, script = SERVICES["pki"]["command"]
    *_, command = script.split("|| dev-pki ")
    made = dev_pki.make_context("dev-pki", command.split()).params["out"]

    for name, service in OURS.items():
        assert {each.parent for each in (service.cert, service.key, service.ca)} == {made}
        assert f"pki:{made}:ro" in SERVICES[name]["volumes"]
    assert SERVICES["pki"]["volumes"] == [f"pki:{made}"]


def test_there_is_time_to_drain() -> None:
    for name, service in OURS.items():
        grace = parse_duration(SERVICES[name]["stop_grace_period"])
        assert grace >= getattr(service, "drain", 0.0) + 10


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_no_rights_and_bounds(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert service["image"] == f"${{OUTRELAY_IMAGE:-outrelay:{__version__}}}"
    named = {volume.split(":")[0] for volume in service["volumes"]}
    assert named <= set(COMPOSE["volumes"])
