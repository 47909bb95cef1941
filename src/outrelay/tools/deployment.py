"""OutRelay on this machine, for the demo and the benchmark: certificates, four programs, rules.

    with Deployment(directory, tell=print) as deployment:
        deployment.make_certificates()
        deployment.start_controller()
        deployment.start_relay()
        deployment.start_provider({"hello": ("127.0.0.1", 8000)})
        addresses = deployment.start_consumer(["hello"])
        deployment.cli("policy", "add", ...)

Everything lives in ``directory`` and every port is one the system chose. ``tell`` gets each
command line before it runs: typed in that directory it does the same. Leaving the ``with``
stops what runs, agents first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from outrelay.lib.values import Address, address_text, parse_address
from outrelay.tools import dev_pki, programs
from outrelay.tools.programs import Program, ProgramFailedError

TENANT = "acme"
PKI = "pki"
"""Its folder for certificates."""
_LOOPBACK = "127.0.0.1"
_ANY_PORT = f"{_LOOPBACK}:0"


def _quiet(_command: str) -> None:
    return


class Carrier(StrEnum):
    """What carries everything between agents and relay."""

    QUIC = "quic"
    TCP = "tcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the programs run; by default all of them here.

    Args:
        relay: The host the relay listens on.
        near: What to put before commands that are to run beside the relay.
        far: The same for the consumer's agent.
    """

    relay: str = _LOOPBACK
    near: Sequence[str] = ()
    far: Sequence[str] = ()


class Deployment:
    """A controller, a relay, a provider's and a consumer's agent; a context manager.

    Args:
        directory: Where everything lives; it exists and is empty.
        tell: Gets the command lines.
        carrier: The relay listens on QUIC in any case; the agents use this one alone.
        agent: What to run as an agent: a console script, or a module.
        through: A module that runs the services, by the names of their scripts; none when empty.
        flags: Further ones for the relay and the agents.
        site: Where they run.
    """

    def __init__(
        self,
        directory: Path,
        tell: Callable[[str], None] = _quiet,
        *,
        carrier: Carrier = Carrier.QUIC,
        agent: str = "outrelay-agent",
        through: str = "",
        flags: Sequence[str] = (),
        site: Site | None = None,
    ) -> None:
        self.running: list[Program] = []
        """In the order they were started."""
        self.consumer_uri = ""
        """Who the consumer's agent is."""
        self._directory = directory
        self._carrier = carrier
        self._agent = agent
        self._through = through
        self._flags = flags
        self._site = site or Site()
        self.tell = tell
        self.controller: Address = ("127.0.0.1", 7444)
        """Where the controller listens, once it does."""
        self.relay: Address = ("127.0.0.1", 7443)
        """Where the relay listens for the carrier, once it does."""
        self._door: Address | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that let ``outrelay-cli`` be called without flags for them."""
        return {
            "OUTRELAY_CLI_CONTROLLER": address_text(self.controller),
            "OUTRELAY_CLI_CERT": f"{PKI}/operator.pem",
            "OUTRELAY_CLI_KEY": f"{PKI}/operator.key",
            "OUTRELAY_CLI_CA": f"{PKI}/ca.pem",
        }

    def make_certificates(self) -> None:
        """A CA and a certificate for each of the programs and the operator."""
        self.tell(programs.command_line("dev-pki", ["--out", PKI, "--tenant", TENANT]))
        lifetime = timedelta(days=1)
        pki = dev_pki.create(tenant=TENANT, relay_id="r1", now=datetime.now(UTC), lifetime=lifetime)
        self.consumer_uri = pki.holders["agent-a"].identity.uri
        dev_pki.write(pki, self._directory / PKI, namespace="outrelay")

    def start_controller(self) -> Program:
        """The controller, as soon as it serves."""
        program = self._start(
            "outrelay-controller", "--listen", _ANY_PORT, "--db", "controller.db",
            *_credentials("controller"),
        )  # fmt: skip
        self.controller = _listening(program, listener="tls")
        return program

    def start_relay(self) -> Program:
        """The relay, as soon as it serves; where the one before it did, if there was one."""
        at = address_text(self._door or (self._site.relay, 0))
        is_tcp = self._carrier is Carrier.TCP
        program = self._start(
            "outrelay-relay",
            *(("--listen", _ANY_PORT, "--listen-tcp", at) if is_tcp else ("--listen", at)),
            "--controller", address_text(self.controller),
            *_credentials("relay"), *self._flags,
        )  # fmt: skip
        self.relay = self._door = _listening(program, carrier=self._carrier)
        return program

    def kill_relay(self) -> int:
        """Kill the relay, as a power cut would; its process id."""
        (program,) = (each for each in self.running if each.name == "relay")
        self.running.remove(program)
        program.kill()
        return program.pid

    def stop_relay(self) -> None:
        """Stop the relay, if one runs."""
        for program in [each for each in self.running if each.name == "relay"]:
            self.running.remove(program)
            program.stop()

    def start_provider(self, backends: Mapping[str, Address]) -> Program:
        """The agent beside the services, as soon as all are registered.

        Args:
            backends: Where each service listens.
        """
        expose = [f"--expose={name}={address_text(at)}" for name, at in backends.items()]
        return self._start_agent("provider", "agent-b", expose)

    def start_consumer(self, services: Iterable[str]) -> dict[str, Address]:
        """The agent beside the applications; where it listens for each service."""
        names = list(services)
        consume = [f"--consume={name}@{_ANY_PORT}" for name in names]
        program = self._start_agent("consumer", "agent-a", consume, within=self._site.far)
        return {name: _listening(program, service=name) for name in names}

    def cli(self, *arguments: str) -> str:
        """What ``outrelay-cli`` prints; ``tell`` hears nothing of it.

        Raises:
            ProgramFailedError: It ended with another code than 0.
        """
        done = programs.run(
            "outrelay-cli",
            arguments,
            directory=self._directory,
            environment=self.environment,
            within=self._site.near,
        )
        if done.returncode:
            fault = f"ended with exit code {done.returncode}"
            raise ProgramFailedError("outrelay-cli", fault, done.stdout.splitlines())
        return done.stdout

    def stop(self) -> dict[str, int]:
        """Stop what runs, the last started first; the exit code of each."""
        codes = {}
        with programs.signals_held():
            while self.running:
                program = self.running.pop()
                codes[program.name] = program.stop()
        return codes

    def _start_agent(
        self, name: str, certificate: str, services: list[str], within: Sequence[str] | None = None
    ) -> Program:
        return self._start(
            self._agent, _RELAY_FLAGS[self._carrier], address_text(self.relay),
            *_credentials(certificate), *services, *self._flags,
            name=name, within=within,
        )  # fmt: skip

    def _start(
        self, script: str, *arguments: str, name: str = "", within: Sequence[str] | None = None
    ) -> Program:
        """A program that is ready; beside the relay where it is not told otherwise."""
        arguments = (*arguments, *programs.OWN_PORT)
        self.tell(programs.command_line(script, arguments))
        name = name or script.removeprefix("outrelay-")
        if self._through:
            script, arguments = self._through, (script, *arguments)
        within = self._site.near if within is None else within
        with programs.signals_held():
            program = Program(
                script, arguments, directory=self._directory, name=name, within=within
            )
            self.running.append(program)
        program.wait_for("ready")
        return program


_RELAY_FLAGS = {Carrier.QUIC: "--relay", Carrier.TCP: "--relay-tcp"}


def _credentials(name: str) -> list[str]:
    return ["--cert", f"{PKI}/{name}.pem", "--key", f"{PKI}/{name}.key", "--ca", f"{PKI}/ca.pem"]


def _listening(program: Program, **fields: str) -> Address:
    return parse_address(str(program.wait_for("listening", fields=fields)["address"]))
