"""How long applications wait when relays go: killed, silent, or restarted one after the other.

Two relays, a consumer's and a provider's agent that know both, and streams over which an
application asks and is answered all the time. A *pause* is the longest such answer that was
under way or asked for after something happened, of all streams together. Beside the rolling
restart new connections are opened all the time; their waits count as pauses, too.

Source: protocol.md section 6.
"""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Condition, Event, Thread

from outrelay.lib.errors import OutRelayError
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.values import Address, address_text, parse_address
from outrelay.tools.bench import crowd
from outrelay.tools.deployment import TENANT, Deployment
from outrelay.tools.programs import OWN_PORT, Program

SERVICE = "load-outages"

_RELAYS = ("relay-1", "relay-2")
_STREAMS = 4
_QUESTION = bytes(64)
_EVERY = 0.005
"""Seconds between an answer and the next question."""

_OPEN_EVERY = 0.05
_PATIENCE = 60.0
"""Seconds a stream may be silent; after that it is lost."""

_SETTLE = 2.0
"""Seconds from the start of a relay until agents and controller know it."""

_PORTS = range(20_000, 30_000)
"""None of these is given to who asks the system for any."""


class StreamLostError(OutRelayError):
    """A stream did not outlive what it should have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found, seconds.

    Args:
        killed: Pause for each kill of the relay in use.
        silent: Pause for each time it just fell silent.
        rolling: Pause for each restart of one of the two.
        refused: New connections that were refused meanwhile, and why.
    """

    killed: Sequence[float]
    silent: Sequence[float]
    rolling: Sequence[float]
    refused: Sequence[str]


def measure(
    directory: Path, backend: Address, *, carrier: str, kills: int, silences: int, restarts: int
) -> Found:
    """Measure all of it in a deployment of its own.

    Args:
        directory: An empty one.
        backend: Echoes.
        carrier: ``quic`` or ``tcp``, what the agents speak.
        kills: How often a relay is killed.
        silences: How often one falls silent.
        restarts: How often one is restarted.

    Raises:
        StreamLostError: A stream was lost.
    """
    with Deployment(directory) as deployment, ExitStack() as stack:
        relays, at = _start(deployment, stack, directory, backend, carrier)
        asking = [stack.enter_context(_asking(at)) for _ in range(_STREAMS)]
        killed = [_outage(relays, asking, Program.kill) for _ in range(kills)]
        silent = [_outage(relays, asking, _freeze) for _ in range(silences)]
        opener = stack.enter_context(_opening(at))
        rolling = [_outage(relays, [*asking, opener], Program.stop) for _ in range(restarts)]
    return Found(killed=killed, silent=silent, rolling=rolling, refused=opener.refused)


def _freeze(program: Program) -> None:
    """Let it say nothing any more."""
    program.send_signal(signal.SIGSTOP)


def _outage(
    relays: list[_Relay], asking: Sequence[_Asking], happens: Callable[[Program], object]
) -> float:
    """The pause when that happens to the relay in use, which is the first; then it comes back."""
    relays.append(relays.pop(0))
    since = time.monotonic()
    relays[-1].suffer(happens)
    for each in asking:
        each.wait_for_answer(time.monotonic())
    relays[-1].end()
    relays[-1].start()
    time.sleep(_SETTLE)
    return max(each.slowest(since) for each in asking)


# ---- the programs --------------------------------------------------------------------------


class _Relay:
    """One of the two, which comes back to where it was."""

    def __init__(self, deployment: Deployment, directory: Path, name: str) -> None:
        self._controller = deployment.controller
        self._directory = directory
        self.name = name
        self.addresses = {"quic": _free_port(), "tcp": _free_port()}
        self._program: Program | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        quic, tcp = self.addresses.values()
        arguments = [
            *("--listen", address_text(quic), "--listen-tcp", address_text(tcp)),
            *("--controller", address_text(self._controller)),
            *_credentials(self.name),
        ]
        arguments += OWN_PORT
        program = Program("outrelay-relay", arguments, directory=self._directory, name=self.name)
        self._program = program
        for line in ("ready", "policy loaded"):
            program.wait_for(line)

    def suffer(self, what: Callable[[Program], object]) -> None:
        """Let that happen to it."""
        if self._program:
            what(self._program)

    def end(self) -> None:
        """End it, however it is."""
        self.suffer(Program.kill)


def _start(
    deployment: Deployment, stack: ExitStack, directory: Path, backend: Address, carrier: str
) -> tuple[list[_Relay], Address]:
    """The relays, that in use first, and where the consumer listens."""
    deployment.make_certificates()
    deployment.start_controller()
    deployment.cli(
        "policy", "add", "--tenant", TENANT,
        "--caller", "*", "--target", SERVICE, "--decision", "allow",
    )  # fmt: skip
    relays = [_Relay(deployment, directory, name) for name in _RELAYS]
    flag = "--relay" if carrier == "quic" else "--relay-tcp"
    where = (flag, ",".join(address_text(each.addresses[carrier]) for each in relays))
    work = {
        "agent-b": f"--expose={SERVICE}={address_text(backend)}",
        "agent-a": f"--consume={SERVICE}@127.0.0.1:0",
    }
    for relay in relays:
        _issue(directory / "pki", relay.name)
        stack.callback(relay.end)
    relays[0].start()  # alone, so that both agents are there
    for name, what in work.items():
        arguments = [*where, *_credentials(name), what, *OWN_PORT]
        agent = Program("outrelay-agent", arguments, directory=directory, name=name)
        stack.callback(agent.stop)
        agent.wait_for("ready")
    relays[1].start()
    time.sleep(_SETTLE)
    line = agent.wait_for("listening", fields={"service": SERVICE})
    return relays, parse_address(str(line["address"]))


def _issue(pki: Path, name: str) -> None:
    """A certificate for one more relay."""
    holder = crowd.authority(pki).credentials(
        Identity(realm="local", role=Role.RELAY, name=name),
        now=datetime.now(UTC),
        lifetime=timedelta(days=1),
    )
    (pki / f"{name}.pem").write_bytes(holder.certificate_pem)
    (pki / f"{name}.key").write_bytes(holder.private_key_pem)


def _credentials(name: str) -> list[str]:
    return ["--cert", f"pki/{name}.pem", "--key", f"pki/{name}.key", "--ca", "pki/ca.pem"]


def _free_port() -> Address:
    while True:
        address = ("127.0.0.1", random.choice(_PORTS))
        with suppress(OSError), ExitStack() as probes:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                probes.enter_context(socket.socket(socket.AF_INET, kind)).bind(address)
            return address


# ---- the applications ----------------------------------------------------------------------


class _Asking:
    """Asks and waits for the answer, again and again, in a thread.

    Args:
        ask: Does it once.
        every: Seconds from an answer to the next question.
    """

    def __init__(self, ask: Callable[[], None], every: float) -> None:
        self._ask = ask
        self._every = every
        self._answers: list[tuple[float, float]] = []  # asked, answered
        self._news = Condition()
        self._over = Event()
        self._failure: OSError | None = None
        self._thread = Thread(target=self._run, name="application")

    def begin(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join()

    def wait_for_answer(self, moment: float) -> None:
        """Return when something asked after ``moment`` has been answered.

        Raises:
            StreamLostError: That will not happen.
        """
        with self._news:
            answered = self._news.wait_for(
                lambda: self._failure or (self._answers and self._answers[-1][0] > moment),
                _PATIENCE,
            )
        if self._failure or not answered:
            raise StreamLostError(f"a stream was lost: {self._failure or 'no answer'}")

    def slowest(self, since: float) -> float:
        """The longest wait for an answer that came after ``since``."""
        with self._news:
            return max(answered - asked for asked, answered in self._answers if answered > since)

    def _run(self) -> None:
        while not (self._over.wait(self._every) or self._failure):
            asked, failure = time.monotonic(), None
            try:
                self._ask()
            except OSError as error:
                failure = error
            with self._news:
                self._failure = failure
                self._answers.append((asked, time.monotonic()))
                self._news.notify_all()


class _Opening(_Asking):
    """Opens a connection, asks once and closes it, again and again."""

    def __init__(self, at: Address) -> None:
        super().__init__(self._open, _OPEN_EVERY)
        self._at = at
        self.refused: list[str] = []

    def _open(self) -> None:
        try:
            with socket.create_connection(self._at, _PATIENCE) as connection:
                _question(connection)
        except OSError as error:
            self.refused.append(f"a connection was refused: {error}")


@contextmanager
def _asking(at: Address) -> Iterator[_Asking]:
    with socket.create_connection(at, _PATIENCE) as connection:
        asking = _Asking(lambda: _question(connection), _EVERY)
        asking.begin()
        try:
            asking.wait_for_answer(0.0)
            yield asking
        finally:
            asking.end()


@contextmanager
def _opening(at: Address) -> Iterator[_Opening]:
    opening = _Opening(at)
    opening.begin()
    try:
        yield opening
    finally:
        opening.end()


def _question(connection: socket.socket) -> None:
    """Ask, and have the answer."""
    connection.sendall(_QUESTION)
    missing = len(_QUESTION)
    while missing:
        data = connection.recv(missing)
        if not data:
            raise ConnectionError("it was ended without an answer")
        missing -= len(data)
