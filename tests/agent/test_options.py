"""How options are written, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from outrelay.agent.options import (
    AgentOptions,
    Consume,
    Expose,
    Limits,
    parse_consume,
    parse_expose,
    parse_service,
)
from outrelay.lib.errors import ConfigError
from tests.agent.place import OPTIONS


@pytest.mark.parametrize(
    ("text", "service", "target"),
    [
        ("db=127.0.0.1:5432", "db", ("127.0.0.1", 5432)),
        ("a=b=db.internal:5432", "a=b", ("db.internal", 5432)),
        ("db=[::1]:5432", "db", ("::1", 5432)),
    ],
)
def test_expose(text: str, service: str, target: tuple[str, int]) -> None:
    assert parse_expose(text) == Expose(service=service, target=target)


@pytest.mark.parametrize(
    ("text", "service", "method", "bind"),
    [
        ("db@127.0.0.1:15432", "db", "", ("127.0.0.1", 15432)),
        ("a@b@localhost:1", "a@b", "", ("localhost", 1)),
        ("db@[::1]:0", "db", "", ("::1", 0)),
        ("db/read@127.0.0.1:1", "db", "read", ("127.0.0.1", 1)),
        ("db/a/b@c//@[::1]:1", "db", "a/b@c//", ("::1", 1)),
        (f"db/{'m' * 255}@a:1", "db", "m" * 255, ("a", 1)),
        ("a@b/GET *@a:1", "a@b", "GET *", ("a", 1)),
    ],
)
def test_consume(text: str, service: str, method: str, bind: tuple[str, int]) -> None:
    consume = Consume(service=service, method=method, bind=bind)
    assert parse_consume(text) == consume
    assert str(consume) == f"--consume {text}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("db", "names no target; write it like db=127.0.0.1:5432"),
        ("db=", "is not an address; write it like"),
        ("db=5432", "is not an address"),
        ("=127.0.0.1:1", "cannot name a service"),
        ("a/b=127.0.0.1:1", "cannot name a service"),
    ],
)
def test_a_wrong_expose_says_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_expose(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("db", "has no address to listen on; write it like db@127.0.0.1:5432"),
        ("db@127.0.0.1", "is not an address"),
        ("@127.0.0.1:1", "cannot name a service"),
        ("db/read", "has no address to listen on"),
        ("db/read@127.0.0.1", "is not an address"),
        ("/read@127.0.0.1:1", "cannot name a service"),
        ("db/@127.0.0.1:1", "'' cannot be a method; .*leave the slash out"),
        ("db/re\nad@127.0.0.1:1", "cannot be a method"),
        (f"db/{'m' * 256}@a:1", "use 1 to 255 printable characters"),
        ("db/REGISTER@127.0.0.1:1", "REGISTER is exposing a service"),
    ],
)
def test_a_wrong_consume_says_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_consume(text)


@pytest.mark.parametrize("name", ["db", "!", "~", "a" * 255, "db.eu-1:x,y"])
def test_names(name: str) -> None:
    assert parse_service(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 256, "ä", "a\n", "\x7f", "\x1f"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a service"):
        parse_service(name)


def test_a_service_has_one_target() -> None:
    twice = (Expose(service="db", target=("a", 1)), Expose(service="db", target=("b", 2)))
    with pytest.raises(ConfigError, match="--expose: db is exposed twice"):
        replace(OPTIONS, expose=twice)


def test_waits_are_as_long_as_the_protocol_says() -> None:
    limits = Limits()
    assert (limits.register, limits.open) == (5, 10)
    assert (limits.ready, limits.provider_ready) == (10, 5)


def test_there_is_a_relay() -> None:
    with pytest.raises(ConfigError, match="--relay: names no relay"):
        replace(OPTIONS, relays=())


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        (partial(replace, OPTIONS, ring_max=65_535), "--ring-max"),
        (partial(replace, OPTIONS, ring_total=0), "--ring-total"),
        (partial(replace, OPTIONS, limits=Limits(dead=1.9)), "--dead-after"),
    ],
)
def test_what_streams_need_is_asked_for(wrong: Callable[[], AgentOptions], flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: is less than"):
        wrong()
