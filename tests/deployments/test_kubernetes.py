"""The Kubernetes manifests: what the API takes, what the programs understand, what is hardened.

Each test looks at the plain files, and at each overlay as kubectl makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from outrelay import __version__
from outrelay.tools import dev_pki
from tests.deployments.command_lines import is_ours
from tests.deployments.manifests import (
    PLAIN,
    SETS,
    Container,
    Object,
    containers,
    named,
    objects,
    of_kind,
    plain_files,
    ports,
    programs,
    selected,
    templates,
)

OLDEST, NEWEST = "1.29", "1.37"
"""Versions of Kubernetes: the first that runs sidecars, and the last we know of."""

FILES = [
    "00-namespace.yaml",
    "10-outrelay-controller.yaml",
    "20-outrelay-relay.yaml",
    "30-outrelay-provider.yaml",
    "40-outrelay-consumer.yaml",
    "sidecar-example.yaml",
]


@pytest.fixture(params=SETS)
def among(request: pytest.FixtureRequest) -> Sequence[Object]:
    return objects(request.param)


def test_the_files_are_where_people_look_for_them() -> None:
    assert [path.name for path in plain_files()] == FILES


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_api_takes_them(among: Sequence[Object], version: str) -> None:
    for each in among:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_api_takes_no_invention() -> None:
    for each in objects(PLAIN):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**each, "invented": 1}, NEWEST, strict=True)


def test_names_are_unique_and_in_our_namespace(among: Sequence[Object]) -> None:
    names = [named(each) for each in among]

    assert len(set(names)) == len(names)
    assert {each["metadata"].get("namespace", "outrelay") for each in among} == {"outrelay"}
    assert ("Namespace", "outrelay") in names


# ---- the programs --------------------------------------------------------------------------


def test_programs_listen_at_the_ports_their_containers_declare(among: Sequence[Object]) -> None:
    found = list(programs(among))

    assert found
    for container in found:
        assert declared(container) == listened(container.options)


def declared(container: Container) -> set[tuple[str, int]]:
    return {
        (port.get("protocol", "TCP"), port["containerPort"]) for port in container.spec["ports"]
    }


def listened(options: Any) -> set[tuple[str, int]]:
    """What a program listens on beyond loopback."""
    kinds = {"RelayOptions": "UDP"}
    addresses = [
        (kinds.get(type(options).__name__, "TCP"), getattr(options, "listen", None)),
        ("TCP", getattr(options, "listen_tcp", None)),
        ("TCP", options.insight.health_listen),
        ("TCP", options.insight.debug_listen),
        *(("TCP", each.bind) for each in getattr(options, "consume", ())),
    ]
    return {(kind, at[1]) for kind, at in addresses if at and not at[0].startswith("127.")}


def test_probes_ask_for_health_where_it_is_told(among: Sequence[Object]) -> None:
    for container in programs(among):
        number = {port["name"]: port["containerPort"] for port in container.spec["ports"]}
        asked = {
            kind: container.spec[f"{kind}Probe"]["httpGet"]
            for kind in ("startup", "readiness", "liveness")
        }
        assert {number[each["port"]] for each in asked.values()} == {
            container.options.insight.health_listen[1]
        }
        assert asked["liveness"]["path"] == "/healthz"
        assert asked["readiness"]["path"] == "/readyz"
        assert asked["startup"]["path"] in ("/healthz", "/readyz")


def test_pods_have_time_to_drain(among: Sequence[Object]) -> None:
    for container in programs(among):
        drain = getattr(container.options, "drain", 10.0)
        assert container.pod["spec"]["terminationGracePeriodSeconds"] >= drain + 10


def test_an_application_that_is_offered_outlives_the_streams_of_its_agent(
    among: Sequence[Object],
) -> None:
    for container in programs(among):
        if getattr(container.options, "expose", ()):
            assert container.spec in container.pod["spec"]["containers"]  # told to stop at once
            (beside,) = (
                each for each in container.pod["spec"]["containers"] if each is not container.spec
            )
            _, seconds = beside["lifecycle"]["preStop"]["exec"]["command"]
            assert container.options.drain <= int(seconds)


def test_an_agent_outlives_the_application_that_calls(among: Sequence[Object]) -> None:
    for container in programs(among):
        callers = [each for each in containers(container.pod) if not is_ours(each["command"])]
        if getattr(container.options, "consume", ()) and callers:
            assert container.spec in container.pod["spec"]["initContainers"]
            assert container.spec["restartPolicy"] == "Always"  # a sidecar


def test_who_is_called_is_there(among: Sequence[Object]) -> None:
    called = {
        (kind, *address.rsplit(":", 1))
        for container in programs(among)
        for kind, address in calls(container.options)
    }
    offered = {
        (port.get("protocol", "TCP"), service["metadata"]["name"], str(port["port"]))
        for service in of_kind("Service", among)
        for port in service["spec"]["ports"]
    }
    assert called
    assert called <= offered


def calls(options: Any) -> set[tuple[str, str]]:
    udp = {("UDP", f"{host}:{port}") for host, port in getattr(options, "relays", ())}
    tcp = {("TCP", f"{host}:{port}") for host, port in getattr(options, "relays_tcp", ())}
    return udp | tcp | {("TCP", each) for each in getattr(options, "controllers", ())}


def test_all_run_one_image_of_this_version(among: Sequence[Object]) -> None:
    images = {each["image"] for pod in templates(among) for each in containers(pod)}

    assert len(images) == 1
    name, _, tag = images.pop().rpartition(":")
    assert PurePath(name).name == "outrelay"
    assert tag == __version__


# ---- secrets -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Object]:
    """What dev-pki makes, by name."""
    folder = tmp_path_factory.mktemp("pki")
    result = CliRunner().invoke(dev_pki.main, ["--out", str(folder), "--force"])
    assert result.exit_code == 0, result.output
    found = yaml.safe_load_all((folder / "secrets.yaml").read_text())
    return {each["metadata"]["name"]: each for each in found}


def test_secrets_are_those_of_dev_pki(among: Sequence[Object], secrets: dict[str, Object]) -> None:
    for container in programs(among):
        volumes = {each["name"]: each for each in container.pod["spec"]["volumes"]}
        mounts = {each["mountPath"]: each for each in container.spec["volumeMounts"]}
        for path in (container.options.cert, container.options.key, container.options.ca):
            mount = mounts[str(path.parent)]
            secret = volumes[mount["name"]]["secret"]
            assert mount["readOnly"]
            assert secret["defaultMode"] & 0o007 == 0
            assert path.name in secrets[secret["secretName"]]["data"]


def test_secrets_are_for_the_namespace_of_the_manifests(secrets: dict[str, Object]) -> None:
    assert {each["metadata"]["namespace"] for each in secrets.values()} == {"outrelay"}


# ---- what refers to what -------------------------------------------------------------------


def test_workloads_select_their_own_pods(among: Sequence[Object]) -> None:
    for each in among:
        if "template" in each.get("spec", {}):
            assert selected(each["spec"]["selector"]["matchLabels"], among) == [
                each["spec"]["template"]
            ]


def test_services_lead_to_ports_of_pods(among: Sequence[Object]) -> None:
    for service in of_kind("Service", among):
        there = ports(selected(service["spec"]["selector"], among))
        for port in service["spec"]["ports"]:
            assert there[port["targetPort"]][0] == port.get("protocol", "TCP")


def test_every_workload_may_be_disrupted_one_pod_at_a_time(among: Sequence[Object]) -> None:
    budgets = of_kind("PodDisruptionBudget", among)

    guarded = [
        pod for each in budgets for pod in selected(each["spec"]["selector"]["matchLabels"], among)
    ]
    example = selected({"app.kubernetes.io/name": "sidecar-example"}, among)
    assert [pod for pod in templates(among) if pod not in guarded] == example
    assert {each["spec"]["maxUnavailable"] for each in budgets} == {1}


def test_scaling_is_by_streams_and_of_workloads_without_a_number(among: Sequence[Object]) -> None:
    for scaler in of_kind("HorizontalPodAutoscaler", among):
        target = scaler["spec"]["scaleTargetRef"]
        (workload,) = (each for each in among if named(each) == (target["kind"], target["name"]))
        (metric,) = scaler["spec"]["metrics"]
        assert "replicas" not in workload["spec"]  # or each `apply` would undo the scaling
        assert workload["apiVersion"] == target["apiVersion"]
        assert metric["pods"]["metric"]["name"] == "outrelay_streams_open"


def test_something_is_scaled() -> None:
    assert of_kind("HorizontalPodAutoscaler", objects(PLAIN))


# ---- the network ---------------------------------------------------------------------------


def test_every_pod_has_rules_for_the_network(among: Sequence[Object]) -> None:
    policies = of_kind("NetworkPolicy", among)
    (default,) = (each for each in policies if each["spec"]["podSelector"] == {})

    assert default["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default["spec"]
    for pod in templates(among):
        assert [
            each
            for each in policies
            if each is not default
            and pod in selected(each["spec"]["podSelector"].get("matchLabels", {}), among)
        ]


def test_network_rules_name_ports_that_are_there(among: Sequence[Object]) -> None:
    for policy in of_kind("NetworkPolicy", among):
        pods = selected(policy["spec"]["podSelector"].get("matchLabels", {}), among)
        rules = [(rule, pods) for rule in policy["spec"].get("ingress", ())]
        for rule in policy["spec"].get("egress", ()):
            labels = [each.get("podSelector", {}).get("matchLabels") for each in rule["to"]]
            rules += [(rule, selected(each, among)) for each in labels if each]
        for rule, there in rules:
            for port in rule["ports"]:
                protocol, _ = ports(there)[port["port"]]
                assert protocol == port.get("protocol", "TCP")


def test_every_port_of_a_pod_can_be_reached(among: Sequence[Object]) -> None:
    for pod in templates(among):
        let_in = {
            port["port"]
            for policy in of_kind("NetworkPolicy", among)
            if pod in selected(policy["spec"]["podSelector"].get("matchLabels", {}), among)
            for rule in policy["spec"].get("ingress", ())
            for port in rule["ports"]
        }
        assert let_in == set(ports([pod]))


# ---- hardening -----------------------------------------------------------------------------


def test_pods_run_as_nobody_in_particular(among: Sequence[Object]) -> None:
    for pod in templates(among):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["fsGroup"] > 0  # so that keys can be read
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_containers_have_no_rights_and_bounds(among: Sequence[Object]) -> None:
    for pod in templates(among):
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_what_is_written_to_is_a_volume(among: Sequence[Object]) -> None:
    for container in programs(among):
        written = [
            Path(getattr(container.options, name))
            for name in ("db", "admin_socket", "audit_spool", "state_dir")
            if getattr(container.options, name, None)
        ]
        writable = {
            Path(each["mountPath"])
            for each in container.spec["volumeMounts"]
            if not each.get("readOnly")
        }
        assert [path for path in written if not writable & set(path.parents)] == []
