"""``demo``: OutRelay's main job on this machine, told step by step.

It runs the real programs (controller, relay, two agents) with certificates made for the
occasion, in a temporary directory, on ports the system chose. The application and the web
service they connect are played by this process. Nothing is left behind, however it ends.

Exit codes: 0 all went as told, 1 something did not, 130 interrupted.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import click

from outrelay.lib.errors import OutRelayError
from outrelay.lib.values import Address, address_text
from outrelay.tools.deployment import TENANT, Deployment
from outrelay.tools.programs import Program, command_line, stop_on_signals

T = TypeVar("T")

MIB = 1 << 20
SIZE = 64 * MIB
GREETING = b"Hello from a machine that accepts no connection from outside.\n"

_PATIENCE = 10.0
"""Seconds for what takes effect soon: a rule, an audit event."""

_TIMEOUT = 60.0
"""Seconds without progress after which the application gives up."""


class DemoError(OutRelayError):
    """Something did not go as it should have."""


# ---- the story -----------------------------------------------------------------------------


class Story:
    """What the reader of the demo sees."""

    STEPS = 10

    def __init__(self) -> None:
        self._step = 0
        self._bold, self._dim, self._plain = (
            ("\x1b[1m", "\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "", "")
        )

    def step(self, title: str, *text: str) -> None:
        """Begin the next step."""
        self._step += 1
        print(f"\n{self._bold}[{self._step}/{self.STEPS}] {title}{self._plain}", flush=True)
        self.tell(*text)

    def tell(self, *lines: str) -> None:
        """Say something."""
        for line in lines:
            print(f"      {line}", flush=True)

    def command(self, line: str) -> None:
        """Show a command line that is about to run."""
        print(f"    {self._bold}$ {line}{self._plain}", flush=True)

    def output(self, text: str) -> None:
        """Show what a program printed."""
        for line in text.rstrip("\n").splitlines():
            print(f"    {self._dim}| {line}{self._plain}", flush=True)


# ---- the service ---------------------------------------------------------------------------


def payload() -> bytes:
    """The 64 MiB that travel, the same in every run."""
    return random.Random(64).randbytes(MIB) * (SIZE // MIB)


def digest(data: bytes) -> str:
    """A hash to compare by eye."""
    return hashlib.sha256(data).hexdigest()


class _Web(BaseHTTPRequestHandler):
    """The service: a greeting, a file to fetch, and a place to put one."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(payload() if self.path == "/file" else GREETING)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(f"{digest(data)}\n".encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The story is told elsewhere."""


@contextmanager
def web_service() -> Iterator[Address]:
    """The service, for the length of the ``with``; where it listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        thread = threading.Thread(target=server.serve_forever, name="web service")
        thread.start()
        try:
            yield "127.0.0.1", server.server_port
        finally:
            server.shutdown()
            thread.join()


# ---- the application -----------------------------------------------------------------------


class Application:
    """What uses the service, knowing only the address its own agent listens on."""

    def __init__(self, address: Address, story: Story) -> None:
        self._address = address
        self._story = story

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of the answer.

        Raises:
            OSError: The connection was refused, reset, or stood still.
            HTTPException: It ended without an answer, or within one.
        """
        with self.response(method, path, body) as response:
            return response.read()

    @contextmanager
    def response(self, method: str, path: str, body: bytes = b"") -> Iterator[HTTPResponse]:
        """An answer whose body is still to be read; raises what ``request`` does."""
        connection = HTTPConnection(*self._address, timeout=_TIMEOUT)
        try:
            connection.request(method, path, body)
            yield connection.getresponse()
        finally:
            connection.close()

    def show(self, method: str, path: str) -> None:
        """Show a request that is about to be made, as the command that would make it."""
        option = "-T file " if method == "PUT" else ""
        self._story.command(f"curl {option}http://{address_text(self._address)}{path}")


# ---- the steps -----------------------------------------------------------------------------


def play(directory: Path, story: Story) -> None:
    """Tell the whole story.

    Args:
        directory: An empty one.
        story: Where to tell it.

    Raises:
        OutRelayError: Something did not go as it should have.
    """
    introduce(directory, story)
    with web_service() as backend, Deployment(directory, story.command) as deployment:
        try:
            consumer, address = start(deployment, backend, story)
            application = Application(address, story)
            show_denial(application, consumer, story)
            allow(application, deployment, story)
            transfer(application, story)
            show_audit(deployment, story)
            survive(application, deployment, consumer, story)
        except (OSError, HTTPException, DemoError) as error:
            raise DemoError(_report(error, deployment)) from error
        stop(deployment, story)


def introduce(directory: Path, story: Story) -> None:
    """Say what is going to happen."""
    print(
        "OutRelay lets an application call a service on a machine that accepts no connection\n"
        "from outside. An agent runs beside each of the two; both agents only dial out, to a\n"
        "relay. Here everything runs on this machine, each part in a process of its own:\n\n"
        "    application --> agent A ==mutual TLS==> relay <==mutual TLS== agent B --> service\n"
        "                                              ^\n"
        "                                          controller  (registry, policy, audit)"
    )
    print(
        f"\nWhat follows a $ is run here, in {directory}, and you could type it\n"
        "yourself; only curl stands for the application, which is a part of this demo."
    )


def start(deployment: Deployment, backend: Address, story: Story) -> tuple[Program, Address]:
    """Start the four programs; the consumer's agent, and where it listens."""
    story.step(
        "Certificates: who is who",
        "Every program proves by a certificate who it is; there are no passwords.",
    )
    deployment.make_certificates()
    story.step(
        "The controller and the relay",
        "The controller holds the rules and the audit trail. The relay connects the agents;",
        "it is the only one that has to be reachable.",
    )
    deployment.start_controller()
    deployment.start_relay()
    story.step(
        f"Agent B, beside the service (a web server on {address_text(backend)})",
        "It dials the relay and says: I provide 'web'.",
    )
    deployment.start_provider({"web": backend})
    story.step("Agent A, beside the application", "It dials the relay too, and listens locally.")
    address = deployment.start_consumer(["web"])["web"]
    story.tell(f"Whoever connects to {address_text(address)} on this machine calls 'web'.")
    return deployment.running[-1], address


def show_denial(application: Application, consumer: Program, story: Story) -> None:
    """A call that no rule allows."""
    story.step("A call without a rule is denied", "No rule exists yet, and none means no.")
    application.show("GET", "/")
    try:
        application.request("GET", "/")
    except (OSError, HTTPException) as error:
        story.tell(f"The application gets no byte, only the end of its connection: {error}")
    else:
        raise DemoError("a call was answered that no rule allowed")
    line = consumer.wait_for("open refused", timeout=_PATIENCE)
    story.tell("Agent A's log tells whoever runs it why, and what to do:")
    story.output(f"open refused: {line['code']} {line['reason']}\n{line['hint']}")


def allow(application: Application, deployment: Deployment, story: Story) -> None:
    """A rule, and the same call again."""
    story.step(
        "A rule allows it, at once", "The operator adds it at the controller; nothing restarts."
    )
    arguments = (
        "policy", "add", "--tenant", TENANT,
        "--caller", deployment.consumer_uri, "--target", "web", "--decision", "allow",
    )  # fmt: skip
    story.command(f"export {' '.join(f'{k}={v}' for k, v in deployment.environment.items())}")
    story.command(command_line("outrelay-cli", arguments))
    story.output(deployment.cli(*arguments))
    application.show("GET", "/")
    answer = _soon(lambda: application.request("GET", "/"))
    if answer != GREETING:
        raise DemoError("the call was answered, but not by the service")
    story.output(answer.decode())


def transfer(application: Application, story: Story) -> None:
    """64 MiB each way."""
    story.step("64 MiB each way, unchanged", "SHA-256 at both ends; every byte passes the relay.")
    data = payload()
    here = digest(data)
    application.show("PUT", "/file")
    began = time.monotonic()
    there = application.request("PUT", "/file", data).decode().strip()
    _compare(story, f"sent     {here}", f"received {there}  by the service", began)
    application.show("GET", "/file")
    began = time.monotonic()
    back = digest(application.request("GET", "/file"))
    _compare(story, f"sent     {here}  by the service", f"received {back}", began)
    if not here == there == back:
        raise DemoError("what arrived is not what was sent")


def _compare(story: Story, sent: str, received: str, began: float) -> None:
    elapsed = time.monotonic() - began
    story.tell(sent, f"{received}, in {elapsed:.1f} s: {SIZE / elapsed / 1e6:.0f} MB/s")


def show_audit(deployment: Deployment, story: Story) -> None:
    """What the controller knows of all this."""
    story.step(
        "The audit trail: who called what, and how it went",
        "Newest first: three calls allowed, with the bytes they moved; one refused; and agent B",
        "offering 'web'. Shown here is the most important of each line.",
    )
    arguments = ("audit", "query", "--tenant", TENANT, "--output", "json")
    story.command(command_line("outrelay-cli", arguments))

    def complete() -> list[Mapping[str, Any]]:  # the relay sends its events in batches
        trail = [json.loads(line) for line in deployment.cli(*arguments).splitlines()]
        if sum(each["event"] == "close" for each in trail) < 3:
            raise DemoError("the audit trail lacks the end of a call")
        return trail

    for event in _soon(complete):
        story.output(_audit_line(event))


def _audit_line(event: Mapping[str, Any]) -> str:
    moment = datetime.fromtimestamp(event["ts_unix_ms"] / 1000, tz=UTC).astimezone()
    what = event["event"] or event["method"].lower()
    who = event["caller"].rpartition("/")[2][:8]
    up, down = event["bytes_up"], event["bytes_down"]
    moved = f"{up:,} bytes up, {down:,} down, " if what == "close" else ""
    return (
        f"{moment:%H:%M:%S}  {what:<8}  {event['decision']:<5}  "
        f"agent {who}..  {event['target']}  {moved}{event['reason']}"
    )


def survive(
    application: Application, deployment: Deployment, consumer: Program, story: Story
) -> None:
    """The relay dies in the middle of a transfer, and another one takes its place."""
    story.step(
        "The relay is killed in the middle of a transfer",
        "The agents keep what the other side has not confirmed, and go on where they were.",
    )
    application.show("GET", "/file")
    with application.response("GET", "/file") as response:
        data = response.read(MIB)
        began = time.monotonic()
        story.command(f"kill -KILL {deployment.kill_relay()}")
        story.tell("No relay runs now. The application waits, its connection stays open.")
        deployment.start_relay()
        data += response.read()
    elapsed = time.monotonic() - began
    consumer.wait_for("stream resumed", timeout=_PATIENCE)
    sent, received = digest(payload()), digest(data)
    story.tell(
        f"sent     {sent}  by the service",
        f"received {received}, on one connection,",
        f"all of it {elapsed:.1f} s after the kill.",
    )
    if sent != received:
        raise DemoError("what arrived is not what was sent")


def stop(deployment: Deployment, story: Story) -> None:
    """Stop everything."""
    story.step("Everything stops", "Agents first; each finishes what it does and leaves.")
    codes = deployment.stop()
    story.tell(*(f"{name:<11} exit code {code}" for name, code in codes.items()))
    if any(codes.values()):
        raise DemoError("a program did not stop cleanly")


def _soon(work: Callable[[], T]) -> T:
    """What ``work`` gives, tried until it does not fail; after a while it may."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError, HTTPException, DemoError):
            return work()
        time.sleep(0.05)
    return work()


def _report(error: Exception, deployment: Deployment) -> str:
    """What went wrong, and the last words of every program."""
    logs = (
        line
        for program in deployment.running
        for line in (f"--- {program.name}, its last words:", *program.log)
    )
    return "\n".join([str(error), *logs])


# ---- the command ---------------------------------------------------------------------------


@click.command("demo")
def main() -> None:
    """Show OutRelay's main job on this machine; takes less than a minute."""
    stop_on_signals()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="outrelay-demo-") as directory:
            play(Path(directory), Story())
    except OutRelayError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print("\nInterrupted; everything is stopped and removed.", file=sys.stderr)
        raise SystemExit(130) from None
    elapsed = time.monotonic() - began
    print(f"\nDone in {elapsed:.0f} s. Nothing is left running, and no file either.")
