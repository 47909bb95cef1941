"""The Kubernetes objects of deployments/: as they lie there, and as overlays make them.

Words: a *set* is what is applied together; a *workload* is an object with a pod template.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployments.command_lines import is_ours, options

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
OVERLAYS = sorted(path.parent for path in DEPLOYMENTS.glob("overlays/*/kustomization.yaml"))
PLAIN = "plain"
SETS = (PLAIN, *(path.name for path in OVERLAYS))

Object = Mapping[str, Any]
Named = tuple[str, str]
"""A kind and a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One that runs a program of ours."""

    spec: Object
    pod: Object
    options: Any


def documents(path: Path) -> list[Object]:
    """The objects of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def plain_files() -> list[Path]:
    """The files that are applied as they are, in their order."""
    return [*sorted(DEPLOYMENTS.glob("[0-9]*.yaml")), DEPLOYMENTS / "sidecar-example.yaml"]


@cache
def objects(name: str) -> Sequence[Object]:
    """The objects of a set; a test that asks for an overlay is skipped without kubectl."""
    if name == PLAIN:
        return [each for path in plain_files() for each in documents(path)]
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which makes overlays, is not installed")
    command = ["kubectl", "kustomize", str(DEPLOYMENTS / "overlays" / name)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


def named(each: Object) -> Named:
    """The kind and name of an object."""
    return each["kind"], each["metadata"]["name"]


def of_kind(kind: str, among: Sequence[Object]) -> list[Object]:
    """The objects of one kind."""
    return [each for each in among if each["kind"] == kind]


def templates(among: Sequence[Object]) -> list[Object]:
    """The pod templates of the workloads."""
    return [each["spec"]["template"] for each in among if "template" in each.get("spec", {})]


def containers(pod: Object) -> list[Object]:
    """All containers of a pod, sidecars too."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def programs(among: Sequence[Object]) -> Iterator[Container]:
    """The containers that run a program of ours, with the options it runs with."""
    for pod in templates(among):
        for spec in containers(pod):
            if is_ours(spec["command"]):
                environment = {each["name"]: each["value"] for each in spec.get("env", ())}
                read = options(spec["command"], environment)
                yield Container(spec=spec, pod=pod, options=read)


def selected(labels: Mapping[str, str], among: Sequence[Object]) -> list[Object]:
    """The pod templates that have all of some labels."""
    return [pod for pod in templates(among) if labels.items() <= pod["metadata"]["labels"].items()]


def ports(pods: Sequence[Object]) -> dict[str, tuple[str, int]]:
    """The named ports of pods: protocol and number."""
    return {
        port["name"]: (port.get("protocol", "TCP"), port["containerPort"])
        for pod in pods
        for container in containers(pod)
        for port in container.get("ports", ())
    }
