"""The compose file and the Kubernetes manifests, run as they are written: a call goes through.

A namespace of the network stands for each container of the one, and each pod of the other.
Images, volumes and schedulers are not what is tested here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.deployments.command_lines import is_ours
from tests.deployments.manifests import PLAIN, Object, containers, objects, of_kind, ports, selected
from tests.deployments.places import Place
from tests.deployments.test_compose import COMPOSE, FILE, SERVICES
from tests.deployments.test_image import instructions
from tests.deployments.test_pages import PAGES, commands
from tests.netlab.lab import Host, Lab
from tests.support.processes import Programs, run

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(300)]

GREETING = "Hello from the provider."


async def test_compose_file(lab: Lab, tmp_path: Path) -> None:
    wan = lab.router("wan")
    hosts = {name: lab.host(name, wan) for name in SERVICES}
    places = {name: composed(name, hosts, tmp_path) for name in SERVICES}
    (variables,) = instructions("ENV")
    image = dict(each.split("=", 1) for each in variables.split() if each.startswith("OUTRELAY"))

    made = SERVICES["pki"]["command"][-1].split("|| ")[1].split()
    await places["pki"].run(made)
    page = places["web"].mounts["/srv"] / "index.html"
    page.write_text(COMPOSE["configs"]["page"]["content"])
    port = int(SERVICES["web"]["command"][3])
    async with places["web"].web_server(port, page.parent), Programs() as programs:
        for name in ("controller", "relay", "provider", "consumer"):
            await places[name].start(programs, SERVICES[name]["command"], image)
            assert await places[name].is_healthy(SERVICES[name]["healthcheck"]["test"][2])
        outside = Place(host=wan, mounts={})
        assert await outside.get(hosts["consumer"].address, 8000) == ""
        (rule,) = commands(FILE)
        await places["controller"].run(rule)
        assert GREETING in await outside.get(hosts["consumer"].address, 8000)


def composed(name: str, hosts: Mapping[str, Host], folder: Path) -> Place:
    """A container of the compose file."""
    service = SERVICES[name]
    mounts = {}
    for volume in service["volumes"]:
        source, target, *_ = volume.split(":")
        mounts[target] = folder / source
    for target in (*(each.split(":")[0] for each in service.get("tmpfs", ())), "/srv"):
        mounts[target] = folder / name / target.strip("/")
    for path in mounts.values():
        path.mkdir(parents=True, exist_ok=True)
    names = {
        f"{other}:{port}": f"{host.address}:{port}"
        for other, host in hosts.items()
        for port in (7443, 7444, 8081, 8443)
    }
    return Place(host=hosts[name], mounts=mounts, names=names)


# ---- Kubernetes ----------------------------------------------------------------------------


async def test_kubernetes_manifests(lab: Lab, tmp_path: Path) -> None:
    among = objects(PLAIN)
    workloads = {each["metadata"]["name"]: each for each in among if "template" in spec(each)}
    wan = lab.router("wan")
    hosts = {name: lab.host(f"pod{at}", wan) for at, name in enumerate(workloads)}
    names = dict(endpoints(among, workloads, hosts))
    volumes = Volumes(tmp_path, await secrets_of(tmp_path), of_kind("ConfigMap", among))
    outside = Place(host=wan, mounts={})
    async with AsyncExitStack() as stack:
        programs = await stack.enter_async_context(Programs())
        for name, workload in workloads.items():
            for container in containers(spec(workload)["template"]):
                mounts = volumes.of(container, name, spec(workload))
                place = Place(host=hosts[name], mounts=mounts, names=names)
                if is_ours(container["command"]):
                    await place.start(programs, container["command"], variables(container))
                    await probes_succeed(place, container)
                elif "http.server" in container["command"]:
                    port = int(container["command"][3])
                    await stack.enter_async_context(place.web_server(port, mounts["/srv"]))
                if name == "outrelay-controller":
                    await place.run(rule_of_the_page())
        address, _, port_of_web = names["web:80"].partition(":")
        assert GREETING in await outside.get(address, int(port_of_web))
        beside = Place(host=hosts["sidecar-example"], mounts={})
        assert GREETING in await beside.get("127.0.0.1", 8000)


def spec(each: Object) -> Object:
    found: Object = each.get("spec", {})
    return found


def endpoints(
    among: Sequence[Object], workloads: Mapping[str, Object], hosts: Mapping[str, Host]
) -> Iterator[tuple[str, str]]:
    """Where each port of each Service leads, by the names that pods know it by."""
    for service in of_kind("Service", among):
        (pod,) = selected(spec(service)["selector"], among)
        (name,) = (name for name, each in workloads.items() if spec(each)["template"] is pod)
        for port in spec(service)["ports"]:
            _, number = ports([pod])[port["targetPort"]]
            for known in (
                service["metadata"]["name"],
                f"{service['metadata']['name']}.outrelay.svc",
            ):
                yield f"{known}:{port['port']}", f"{hosts[name].address}:{number}"


@dataclass(frozen=True, slots=True)
class Volumes:
    """Folders in the place of volumes.

    Args:
        folder: Where they are made.
        secrets: What dev-pki made, by name.
        maps: ConfigMaps.
    """

    folder: Path
    secrets: Mapping[str, Object]
    maps: Sequence[Object]

    def of(self, container: Object, name: str, workload: Object) -> dict[str, Path]:
        """The folders of a container, by where it has them."""
        volumes = {each["name"]: each for each in workload["template"]["spec"]["volumes"]}
        made = {}
        for mount in container.get("volumeMounts", ()):
            path = self.folder / name / mount["name"]
            path.mkdir(parents=True, exist_ok=True)
            self._fill(path, volumes.get(mount["name"], {}))
            made[mount["mountPath"]] = path
        return {at: path for at, path in made.items() if at != "/tmp"}

    def _fill(self, path: Path, volume: Object) -> None:
        if "secret" in volume:
            for key, value in self.secrets[volume["secret"]["secretName"]]["data"].items():
                (path / key).write_bytes(base64.b64decode(value))
        if "configMap" in volume:
            (found,) = (
                each
                for each in self.maps
                if each["metadata"]["name"] == volume["configMap"]["name"]
            )
            for key, value in found["data"].items():
                (path / key).write_text(value)


async def secrets_of(folder: Path) -> dict[str, Object]:
    """The Secrets that dev-pki makes, by name."""
    done = await run("dev-pki", "--out", folder / "pki")
    assert done.code == 0, done
    found = yaml.safe_load_all((folder / "pki" / "secrets.yaml").read_text())
    return {each["metadata"]["name"]: each for each in found}


def variables(container: Object) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", ())}


async def probes_succeed(place: Place, container: Object) -> None:
    """Ask what Kubernetes asks, once."""
    number = {port["name"]: port["containerPort"] for port in container["ports"]}
    for kind in ("startup", "readiness", "liveness"):
        asked = container[f"{kind}Probe"]["httpGet"]
        url = f"http://{place.host.address}:{number[asked['port']]}{asked['path']}"
        assert await place.is_healthy(url)


def rule_of_the_page() -> list[str]:
    """The command by which the page about Kubernetes allows the call."""
    (page,) = (page for page in PAGES if page.stem == "kubernetes")
    (command,) = (each for each in commands(page) if "add" in each)
    return command
