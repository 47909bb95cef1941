"""The command line of outrelay-agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner, Result

from outrelay import __version__
from outrelay.agent.command import main
from outrelay.agent.options import AgentOptions, Consume, Expose, Limits
from outrelay.lib import options as lib_options
from outrelay.lib.insight import Insight
from outrelay.lib.transport.quic.engines import EngineChoice, runs_on
from outrelay.lib.transport.tcp.proxy import Proxy
from tests.support.pki import TestPki, save, save_trust

FILES = ("--cert", "agent.pem", "--key", "agent.key", "--ca", "ca.pem")
PKI = TestPki()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AgentOptions]:
    """The options of agents that would have been started, or examined."""
    seen: list[AgentOptions] = []

    def serve(
        component: str, run: Callable[..., Awaitable[None]], *, log_format: str, log_level: str
    ) -> None:
        assert component == "agent"
        seen.append(run.args[0])  # type: ignore[attr-defined]

    def act(component: str, work: Callable[[], Awaitable[int]], **_logs: str) -> NoReturn:
        assert component == "agent"
        seen.append(work.args[0])  # type: ignore[attr-defined]
        raise SystemExit(0)

    monkeypatch.setattr(lib_options, "serve", serve)
    monkeypatch.setattr(lib_options, "act", act)
    return seen


def invoke(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, args, env=env)


@pytest.mark.parametrize("subcommand", [(), ("run",)])
def test_defaults(started: list[AgentOptions], subcommand: tuple[str, ...]) -> None:
    assert invoke(*subcommand, *FILES).exit_code == 0
    assert started == [
        AgentOptions(
            relays=(("127.0.0.1", 7443),),
            cert=Path("agent.pem"),
            key=Path("agent.key"),
            ca=Path("ca.pem"),
            insight=Insight(debug_listen=("127.0.0.1", 9102)),
        )
    ]


def test_who_names_relays_over_tcp_alone_means_no_other(started: list[AgentOptions]) -> None:
    assert invoke(*FILES, "--relay-tcp", "relay.example:443").exit_code == 0
    assert (started[0].relays, started[0].relays_tcp) == ((), (("relay.example", 443),))


def test_a_proxy_is_an_http_url(started: list[AgentOptions]) -> None:
    result = invoke(*FILES, "--http-proxy", "socks5://ann:secret@proxy")
    assert result.exit_code == 2
    assert "a proxy is spoken to in http, not in socks5" in result.output
    assert "secret" not in result.output


def test_the_packet_engine_is_chosen(started: list[AgentOptions]) -> None:
    assert invoke(*FILES, "--quic-engine", "aioquic").exit_code == 0
    assert invoke(*FILES, env={"OUTRELAY_AGENT_QUIC_ENGINE": "native"}).exit_code == 0
    assert invoke(*FILES, "--quic-engine", "other").exit_code == 2

    assert [each.quic_engine for each in started] == [EngineChoice.AIOQUIC, EngineChoice.NATIVE]


def test_the_version_names_the_engine() -> None:
    shown = runs_on("OUTRELAY_AGENT_QUIC_ENGINE")
    assert invoke("--version").stdout == f"outrelay-agent {__version__} ({shown})\n"
    told = invoke("--version", env={"OUTRELAY_AGENT_QUIC_ENGINE": "aioquic"}).stdout
    assert "QUIC engine: aioquic" in told


def test_every_flag(started: list[AgentOptions]) -> None:
    result = invoke(
        "run",
        *FILES,
        *("--relay", "r1:7443,r2:7443", "--relay", "[::1]:7443"),
        *("--relay-tcp", "r1:443,r2:443", "--http-proxy", "http://proxy:3128"),
        *("--state-dir", "state"),
        *("--uri", "outrelay://acme/agent/x", "--server-name", "relay.example"),
        *("--expose", "db=127.0.0.1:5432", "--expose", "web=localhost:80,cache=localhost:81"),
        *("--expose-service", "mail", "--expose-target", "localhost:25"),
        *("--consume", "api@127.0.0.1:8080,api/read@[::1]:1", "--intercept", "explicit"),
        *("--drain", "1m", "--max-streams", "7"),
        *("--resume-deadline", "5m", "--dead-after", "10s"),
        *("--ring-max", "1MiB", "--ring-total", "1GiB"),
        *("--debug-listen", "", "--health-listen", "0.0.0.0:9104"),
    )
    assert result.exit_code == 0, result.output
    (options,) = started
    assert options == AgentOptions(
        relays=(("r1", 7443), ("r2", 7443), ("::1", 7443)),
        relays_tcp=(("r1", 443), ("r2", 443)),
        http_proxy=Proxy(address=("proxy", 3128)),
        state_dir=Path("state"),
        cert=Path("agent.pem"),
        key=Path("agent.key"),
        ca=Path("ca.pem"),
        uri="outrelay://acme/agent/x",
        expose=(
            Expose(service="db", target=("127.0.0.1", 5432)),
            Expose(service="web", target=("localhost", 80)),
            Expose(service="cache", target=("localhost", 81)),
            Expose(service="mail", target=("localhost", 25)),
        ),
        consume=(
            Consume(service="api", bind=("127.0.0.1", 8080)),
            Consume(service="api", method="read", bind=("::1", 1)),
        ),
        server_name="relay.example",
        drain=60.0,
        max_streams=7,
        ring_max=1 << 20,
        ring_total=1 << 30,
        limits=Limits(resume=300.0, dead=10.0),
        insight=Insight(health_listen=("0.0.0.0", 9104)),
    )


def test_flags_are_environment_variables(started: list[AgentOptions]) -> None:
    env = {
        "OUTRELAY_AGENT_RELAY": "r1:7443,r2:7443",
        "OUTRELAY_AGENT_CONSUME": "db@127.0.0.1:1",
        "OUTRELAY_AGENT_EXPOSE_SERVICE": "web",
        "OUTRELAY_AGENT_EXPOSE_TARGET": "127.0.0.1:80",
    }
    assert invoke(*FILES, env=env).exit_code == 0
    (options,) = started
    assert options.relays == (("r1", 7443), ("r2", 7443))
    assert options.consume == (Consume(service="db", bind=("127.0.0.1", 1)),)
    assert options.expose == (Expose(service="web", target=("127.0.0.1", 80)),)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--expose", "db"), 2, "write it like db=127.0.0.1:5432"),
        (("--consume", "db"), 2, "write it like db@127.0.0.1:5432"),
        (("--consume", "db/@127.0.0.1:1"), 2, "db/read@127.0.0.1:5432"),
        (("--relay", "nowhere"), 2, "write it like 127.0.0.1:7443"),
        (("--max-streams", "0"), 2, "--max-streams"),
        (("--intercept", "tproxy"), 2, "--intercept"),
        (("enroll",), 2, "'enroll' is not one of 'run', 'doctor'"),
        (("--expose-service", "db"), 78, "give both, or --expose NAME=HOST:PORT"),
        (("--expose-target", "localhost:1"), 78, "give both, or --expose NAME=HOST:PORT"),
        (("--expose", "db=a:1,db=b:2"), 78, "db is exposed twice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    started: list[AgentOptions], args: tuple[str, ...], code: int, says: str
) -> None:
    result = invoke(*FILES, *args)
    assert result.exit_code == code
    assert says in result.output.splitlines()[-1]
    assert started == []


def test_help_shows_command_lines_that_work(started: list[AgentOptions]) -> None:
    text = invoke("--help").output
    assert "--expose db=127.0.0.1:5432" in text
    for line in text.partition("Examples:")[2].replace("\\\n", "").splitlines():
        words = line.split()
        if words and words[0] == "outrelay-agent" and words[1:] != ["status"]:
            assert invoke(*words[1:]).exit_code == 0
    assert len(started) == 6


def test_check(tmp_path: Path) -> None:
    files, ca = save(PKI.agent(), tmp_path / "agent"), save_trust(PKI.trust, tmp_path / "ca.pem")
    credentials = ("--cert", str(files.cert), "--key", str(files.key), "--ca", str(ca))
    args = (*credentials, "--debug-listen", "127.0.0.1:0")
    assert invoke(*args, "--check").exit_code == 0
    result = invoke(*args, "--uri", "outrelay://acme/agent/other", "--check")
    assert result.exit_code == 78
    assert "--uri outrelay://acme/agent/other: is not the identity in" in result.output
