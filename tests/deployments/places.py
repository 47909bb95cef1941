"""Runs what a manifest says, in a lab: a network namespace for each container or pod.

What a manifest takes for granted is given to it by other names: a host and port become an
address of the lab, a mounted path a folder of the test. All else is as it is written.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.deployments.manifests import DEPLOYMENTS
from tests.netlab.lab import Host
from tests.support.processes import Program, Programs, run

_ENDPOINT = re.compile(r"(?<![\w.-])[a-z][\w.-]*:\d+")
"""A host's name and a port, in an argument."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a container runs.

    Args:
        host: Its network.
        mounts: Folders by the path under which it knows them.
        names: Addresses by the name and port under which it knows them.
    """

    host: Host
    mounts: Mapping[str, Path]
    names: Mapping[str, str] = field(default_factory=dict)

    def here(self, word: str) -> str:
        """What a word of a command line is called in the lab."""
        word = _ENDPOINT.sub(lambda found: self.names.get(found[0], found[0]), word)
        paths = "|".join(map(re.escape, sorted(self.mounts, key=len, reverse=True)))
        return re.sub(paths, lambda found: str(self.mounts[found[0]]), word) if paths else word

    async def start(
        self, programs: Programs, line: Sequence[str], environment: Mapping[str, str]
    ) -> Program:
        """Start a program of ours as a manifest says, and wait until it is ready."""
        program, *arguments = map(self.here, line)
        env = {name: self.here(value) for name, value in environment.items()}
        started = await programs.start(program, *arguments, env=env, within=self.host.command)
        await started.event("ready")
        return started

    async def run(self, line: Sequence[str]) -> str:
        """Run a program of ours to its end; what it says."""
        program, *arguments = map(self.here, line)
        done = await run(program, *arguments, within=self.host.command)
        assert done.code == 0, done
        return done.stdout

    async def is_healthy(self, url: str) -> bool:
        """What the image's health check says of a URL."""
        check = DEPLOYMENTS / "image" / "outrelay-healthcheck"
        done = await run(sys.executable, check, url, within=self.host.command)
        return done.code == 0

    @asynccontextmanager
    async def web_server(self, port: int, folder: Path) -> AsyncIterator[None]:
        """A web server in this place."""
        serve = partial(QuietHandler, directory=str(folder))
        with self.host.inside():
            server = ThreadingHTTPServer(("0.0.0.0", port), serve)
        with server:
            thread = Thread(target=server.serve_forever)
            thread.start()
            try:
                yield
            finally:
                await asyncio.to_thread(server.shutdown)
                thread.join()

    async def get(self, address: str, port: int) -> str:
        """The answer to an HTTP request from this place; empty when it is cut off."""
        sock = self.host.tcp_socket()
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            return (await reader.read()).decode()
        except ConnectionError:
            return ""
        finally:
            writer.close()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and tells nobody."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""
