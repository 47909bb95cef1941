"""The image: what it is made of, who it runs as, how its health is asked, and its installer."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from outrelay import __version__
from tests.deployments.command_lines import understood
from tests.deployments.manifests import DEPLOYMENTS, ROOT
from tests.deployments.sources import copy_sources, ignored, let_through
from tests.support.processes import Programs

IMAGE = DEPLOYMENTS / "image"
DOCKERFILE = (IMAGE / "Dockerfile").read_text().replace("\\\n", " ")
HEALTH = "127.0.0.1:8080"
FILES = {"cert": "controller.pem", "key": "controller.key", "ca": "ca.pem"}
CREDENTIALS = ("--cert=c", "--key=k", "--ca=a")


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of one name."""
    lines = [line.partition(" ") for line in DOCKERFILE.splitlines()]
    return [" ".join(rest.split()) for word, _, rest in lines if word == name]


# ---- the Dockerfile ------------------------------------------------------------------------


def test_what_builds_is_left_behind() -> None:
    first, second = instructions("FROM")

    assert first == f"{second} AS build"
    assert "--from=build /opt/outrelay /opt/outrelay" in instructions("COPY")


def test_nothing_runs_as_root() -> None:
    assert instructions("USER") == ["65532:65532"]
    assert DOCKERFILE.rindex("\nUSER") > DOCKERFILE.rindex("\nRUN")


def test_what_is_copied_is_there_and_not_ignored() -> None:
    copied = [each.split()[:-1] for each in instructions("COPY") if "--from" not in each]

    assert ignored()[0] == "*"
    for source in (name for names in copied for name in names):
        assert (ROOT / source).exists()
        assert {source, *map(str, Path(source).parents)} & set(let_through())


@pytest.mark.parametrize("program", ["controller", "relay", "agent"])
def test_every_service_tells_its_health_where_it_is_asked(program: str) -> None:
    (variables,) = instructions("ENV")
    ours = f"OUTRELAY_{program.upper()}_"
    environment = dict(each.split("=", 1) for each in variables.split() if each.startswith(ours))

    read = understood((f"outrelay-{program}", *CREDENTIALS), environment)

    assert environment
    assert "{}:{}".format(*read.params["health_listen"]) == HEALTH
    assert f"http://{HEALTH}/healthz" in (IMAGE / "outrelay-healthcheck").read_text()
    assert 'CMD ["outrelay-healthcheck"]' in instructions("HEALTHCHECK")[0]


# ---- the health check ----------------------------------------------------------------------


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A server that answers everything with one status; its URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/healthz"
        finally:
            server.shutdown()
            thread.join()


def health(url: str) -> int:
    command = [sys.executable, str(IMAGE / "outrelay-healthcheck"), url]
    environment = {"http_proxy": "http://127.0.0.1:1"}  # not for a container's own address
    done = subprocess.run(command, check=False, env=environment, stderr=subprocess.PIPE, timeout=60)
    assert bool(done.stderr) == bool(done.returncode)
    return done.returncode


def test_who_says_so_is_healthy() -> None:
    with answering(200) as url:
        assert health(url) == 0


def test_who_says_otherwise_is_not() -> None:
    with answering(503) as url:
        assert health(url) == 1


def test_who_says_nothing_is_not() -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        assert health(f"http://127.0.0.1:{unused.getsockname()[1]}/healthz") == 1


async def test_a_service_that_runs_is_healthy() -> None:
    async with Programs() as programs:
        service = await programs.start(
            "outrelay-controller",
            "--listen=",
            "--listen-plaintext=127.0.0.1:0",
            "--db=:memory:",
            "--debug-listen=",
            "--health-listen=127.0.0.1:0",
        )
        await service.event("ready")
        _, port = await service.listening(service="health")
        for path in ("healthz", "readyz"):
            assert await asyncio.to_thread(health, f"http://127.0.0.1:{port}/{path}") == 0


# ---- make ----------------------------------------------------------------------------------


def make(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def engine(tmp_path: Path, *, runs: bool) -> str:
    """What ``make`` is to use in the place of docker: it says what it was asked."""
    path = tmp_path / "engine"
    path.write_text(f'#!/bin/sh\n[ "$1" = info ] && exit {int(not runs)}\necho "$@"\n')
    path.chmod(0o755)
    return f"CONTAINERS={path}"


def test_the_image_is_built_under_this_version(tmp_path: Path) -> None:
    code, output = make("build-image", engine(tmp_path, runs=True))

    tag = f"outrelay:{__version__}"
    assert (code, output) == (0, f"build --file deployments/image/Dockerfile --tag {tag} .\n")


def test_podman_keeps_the_health_check_of_the_image(tmp_path: Path) -> None:
    """Its own format of images has none; this is how it is asked for docker's."""
    path = tmp_path / "engine"
    path.write_text('#!/bin/sh\n[ "$1" = info ] || echo "$BUILDAH_FORMAT"\n')
    path.chmod(0o755)

    assert make("build-image", f"CONTAINERS={path}") == (0, "docker\n")


def test_the_image_is_pushed_to_a_registry(tmp_path: Path) -> None:
    containers = engine(tmp_path, runs=True)

    assert make("push-image", containers, "IMAGE=r.example/o:1") == (0, "push r.example/o:1\n")
    code, output = make("push-image", containers)
    assert code != 0
    assert "names no registry; give IMAGE=registry.example.com/outrelay" in output


@pytest.mark.parametrize("target", ["build-image", "push-image"])
def test_an_engine_that_is_missing_is_told(target: str, tmp_path: Path) -> None:
    code, output = make(target, "CONTAINERS=engine-that-is-not", "IMAGE=a/b:1")
    assert code != 0
    assert "engine-that-is-not is not installed" in output

    code, output = make(target, engine(tmp_path, runs=False), "IMAGE=a/b:1")
    assert code != 0
    assert "does not answer: is its engine running" in output


# ---- the installer -------------------------------------------------------------------------


def test_the_installer_says_what_it_needs(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    for arguments, says in (([], "usage: install.sh PREFIX"), (["x"], "needs Python 3.11")):
        done = install(arguments, {"PYTHON": str(old)}, tmp_path)
        assert done.returncode != 0
        assert says in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_installer_makes_programs_that_run(tmp_path: Path) -> None:
    sources, prefix = copy_sources(tmp_path / "sources"), tmp_path / "prefix"
    script = sources / "deployments" / "image" / "install.sh"
    done = install([str(prefix), str(sources)], {"PYTHON": sys.executable}, tmp_path, script)

    assert done.returncode == 0, done.stderr
    names = ("controller", "relay", "agent", "cli")
    for line, name in zip(done.stdout.splitlines(), names, strict=True):
        assert f"{line} ".startswith(f"outrelay-{name} {__version__} ")
    pki = tmp_path / "pki"
    assert run(prefix, "dev-pki", "--out", pki) == 0
    who = (f"--{flag}={pki / name}" for flag, name in FILES.items())
    where = ("--listen=127.0.0.1:0", "--debug-listen=", "--db=:memory:")
    assert run(prefix, "outrelay-controller", "--check", *where, *who) == 0


def run(prefix: Path, program: str, *arguments: str | Path) -> int:
    command = [prefix / "bin" / program, *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=60)
    return done.returncode


def install(
    arguments: Sequence[str],
    environment: dict[str, str],
    directory: Path,
    script: Path = IMAGE / "install.sh",
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *arguments],
        check=False,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
