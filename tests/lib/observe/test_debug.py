"""What a debug listener answers, to whom, and that nobody can keep it from answering."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from outrelay import __version__
from outrelay.lib.errors import ConfigError
from outrelay.lib.observe.debug import debug_routes, listen, probe_routes
from outrelay.lib.observe.views import Json, Views
from outrelay.lib.values import Address
from tests.support.asking import Answer, ask, parsed, talk

pytestmark = pytest.mark.both_loops

ANY = ("127.0.0.1", 0)
PATHS = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/debug/metrics",
    "/debug/status",
    "/debug/streams",
    "/debug/tasks",
    "/debug/config",
]


class Table:
    """Streams "a", "b", ..."""

    def __init__(self, names: str = "") -> None:
        self._names = names

    def names(self) -> str:
        return self._names[::-1]

    def describe(self, name: str) -> Json:
        return {"name": name}


def views(*unready: str, names: str = "") -> Views:
    registry = CollectorRegistry()
    Counter("shown", "Shown.", ["how"], registry=registry).labels('well "done"').inc(2)
    return Views(
        component="relay",
        registry=registry,
        identity="outrelay://local/relay/r1",
        expires=lambda: 1000.5,
        unready=lambda: unready,
        status=lambda: {"relay_id": "r1"},
        streams=Table(names),
        started_ms=7,
    )


@asynccontextmanager
async def listening(shown: Views, at: Address = ANY) -> AsyncIterator[Address]:
    async with listen("--debug-listen", at, debug_routes(shown, {"drain": "10s"})) as address:
        yield address


async def asked(shown: Views, path: str, *, method: str = "GET", **headers: str) -> Answer:
    async with listening(shown) as address:
        return await ask(address, path, method=method, **headers)


async def test_who_does_its_work_is_alive_and_ready() -> None:
    assert (await asked(views(), "/healthz")).text == "alive\n"
    ready = await asked(views(), "/readyz")
    assert (ready.status, ready.text) == (200, "ready\n")


async def test_who_is_not_ready_says_why_and_is_alive() -> None:
    shown = views("no relay is connected", "this agent is stopping")

    ready = await asked(shown, "/readyz")

    assert (ready.status, ready.text) == (503, "no relay is connected\nthis agent is stopping\n")
    assert (await asked(shown, "/healthz")).status == 200


async def test_metrics_are_prometheus_text() -> None:
    answer = await asked(views(), "/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert 'shown_total{how="well \\"done\\""} 2.0' in answer.text


async def test_metrics_are_openmetrics_for_who_asks_for_it() -> None:
    answer = await asked(views(), "/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


async def test_the_same_series_are_there_as_json() -> None:
    answer = await asked(views(), "/debug/metrics")

    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {'shown_total{how="well \\"done\\""}': 2}


async def test_the_status_says_who_this_is_and_how_it_does() -> None:
    status = (await asked(views("too early"), "/debug/status")).json()

    assert status["component"] == "relay"
    assert status["version"] == __version__
    assert status["identity"] == "outrelay://local/relay/r1"
    assert status["certificate_not_after_unix_ms"] == 1_000_500
    assert status["started_unix_ms"] == 7
    assert (status["ready"], status["unready"]) == (False, ["too early"])
    assert status["relay_id"] == "r1"


async def test_streams_come_in_pages_by_name() -> None:
    async with listening(views(names="abcde")) as address:
        pages: list[list[str]] = []
        page: Any = {"next": ""}
        while page["next"] is not None:
            path = f"/debug/streams?limit=2&after={page['next']}"
            page = (await ask(address, path)).json()
            pages.append([each["name"] for each in page["streams"]])

    assert pages == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_page_holds_a_hundred_unless_somebody_asks_for_more() -> None:
    shown = views(names="".join(chr(0x100 + each) for each in range(101)))

    assert len((await asked(shown, "/debug/streams")).json()["streams"]) == 100
    assert len((await asked(shown, "/debug/streams?limit=1000")).json()["streams"]) == 101


@pytest.mark.parametrize("limit", ["0", "1001", "ten", "-1", "99999999999", "²"])
async def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    async with listening(views()) as address:
        request = f"GET /debug/streams?limit={limit} HTTP/1.0\r\n\r\n".encode()
        answer = parsed(await talk(address, request))

    assert answer.status == 400


async def test_tasks_have_names_and_places() -> None:
    tasks = (await asked(views(), "/debug/tasks")).json()

    ours = [each for each in tasks["tasks"] if "test_debug" in each["where"]]
    assert ours or tasks["tasks"]
    assert tasks["total"] == sum(each["count"] for each in tasks["tasks"])


async def test_the_configuration_is_what_was_handed_in() -> None:
    assert (await asked(views(), "/debug/config")).json() == {"drain": "10s"}


async def test_probes_see_no_more_than_they_need() -> None:
    async with listen("--health-listen", ANY, probe_routes(views())) as address:
        answers = {path: (await ask(address, path)).status for path in PATHS}

    assert [path for path, status in answers.items() if status == 200] == ["/healthz", "/readyz"]


async def test_what_is_not_there_says_what_is() -> None:
    answer = await asked(views(), "/")

    assert answer.status == 404
    assert all(path in answer.text for path in PATHS)


async def test_an_answer_that_fails_is_logged_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> Json:
        raise RuntimeError("secret")

    routes = debug_routes(Views(component="relay", registry=CollectorRegistry(), status=broken), {})
    async with listen("--debug-listen", ANY, routes) as address:
        answer = await ask(address, "/debug/status")
        assert (answer.status, answer.text) == (500, "this failed; the log says why\n")
        assert (await ask(address, "/healthz")).status == 200

    assert "debug request failed" in caplog.text


# ---- whose hosts are ours ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9100", 200),
        ("127.0.0.1", 200),
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("evil.example:9100", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.2", 421),
        ("[::1]:9100", 421),
        ("[", 421),
        ("127.1", 421),
    ],
)
async def test_hosts_that_are_not_ours_are_refused(host: str, status: int) -> None:
    async with listening(views()) as address:
        answer = await ask(address, "/debug/status", host=host)

    assert answer.status == status
    assert len(answer.text.splitlines()) == 1 or status == 200


async def test_a_probe_of_old_that_names_no_host_is_answered() -> None:
    async with listening(views()) as address:
        answer = parsed(await talk(address, b"GET /healthz HTTP/1.0\r\n\r\n"))

    assert answer.status == 200


async def test_who_listens_everywhere_is_reached_by_any_address_but_no_name() -> None:
    async with listening(views(), ("0.0.0.0", 0)) as (_, port):
        assert (await ask(("127.0.0.1", port), "/healthz", host="203.0.113.9:80")).status == 200
        assert (await ask(("127.0.0.1", port), "/healthz", host="evil.example")).status == 421


async def test_the_name_it_was_told_to_listen_on_is_its_own() -> None:
    async with listening(views(), ("localhost", 0)) as address:
        assert (await ask(address, "/healthz", host="localhost")).status == 200


async def test_everywhere_is_both_families() -> None:
    async with listening(views(), ("::", 0)) as (_, port):
        assert (await ask(("127.0.0.1", port), "/healthz")).status == 200


# ---- where it listens ----------------------------------------------------------------------


async def test_a_port_that_is_in_use_is_the_flags_fault() -> None:
    async with listening(views()) as address:
        with pytest.raises(ConfigError) as raised:
            async with listening(views(), address):
                pass

    text = str(raised.value)
    assert text.startswith(f"--debug-listen: cannot listen on 127.0.0.1:{address[1]}: Address")
    assert "--debug-listen ''" in text


async def test_a_host_without_an_address_is_the_flags_fault() -> None:
    with pytest.raises(ConfigError, match=r"--debug-listen: cannot listen on no\.invalid:1"):
        async with listening(views(), ("no.invalid", 1)):
            pass
