"""The kustomizations: they name what is there, and their patches fit what they patch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrelay import __version__
from tests.deployments.manifests import (
    DEPLOYMENTS,
    OVERLAYS,
    Object,
    containers,
    documents,
    named,
    plain_files,
)

KUSTOMIZATIONS = sorted(DEPLOYMENTS.rglob("kustomization.yaml"))
KNOWN = {"apiVersion", "kind", "resources", "patches", "images"}


def kustomization(folder: Path) -> dict[str, Any]:
    (read,) = documents(folder / "kustomization.yaml")
    return dict(read)


def resources(folder: Path) -> Iterator[Object]:
    """The objects that a folder is made of, before its patches."""
    for name in kustomization(folder)["resources"]:
        path = folder / name
        yield from resources(path) if path.is_dir() else documents(path)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_a_kustomization_uses_what_we_look_at(path: Path) -> None:
    read = kustomization(path.parent)

    assert set(read) <= KNOWN
    assert (read["apiVersion"], read["kind"]) == (
        "kustomize.config.k8s.io/v1beta1",
        "Kustomization",
    )
    # kustomize reads nothing beside or above the folder of a kustomization, nor one around it
    for name in read["resources"]:
        target = (path.parent / name).resolve()
        assert target.is_dir() or target.parent == path.parent.resolve()
        assert target not in path.parent.resolve().parents


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_patches_fit_what_they_patch(folder: Path) -> None:
    there = {named(each): each for each in resources(folder)}

    for entry in kustomization(folder)["patches"]:
        assert set(entry) == {"path"}
        for patch in documents(folder / entry["path"]):
            target = there[named(patch)]
            assert patch["apiVersion"] == target["apiVersion"]
            assert patch["metadata"]["namespace"] == target["metadata"]["namespace"]
            assert names(patch) <= names(target)


def names(each: Object) -> set[str]:
    """The containers and claims of an object: what a patch finds by name."""
    spec = each["spec"]
    pods = [spec["template"]] if "template" in spec else []
    claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())}
    return claims | {container["name"] for pod in pods for container in containers(pod)}


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_images_are_replaced_by_this_version(folder: Path) -> None:
    for image in kustomization(folder).get("images", ()):
        assert image["name"] == "outrelay"
        assert image["newTag"] == __version__


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_no_file_of_an_overlay_is_left_out(folder: Path) -> None:
    patches = {entry["path"] for entry in kustomization(folder)["patches"]}

    assert {path.name for path in folder.glob("*.yaml")} == patches | {"kustomization.yaml"}


def test_plain_files_are_those_that_overlays_are_made_of() -> None:
    folders = (DEPLOYMENTS / "base", DEPLOYMENTS / "agents")
    sources = {(folder / name) for folder in folders for name in kustomization(folder)["resources"]}

    assert {path.resolve() for path in plain_files() if path.is_symlink()} == sources
