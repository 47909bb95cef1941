"""Which endpoints a proxy leads to, and what is said to it."""

from __future__ import annotations

from base64 import b64decode

import pytest

from outrelay.lib.errors import ConfigError
from outrelay.lib.transport.tcp.proxy import (
    HEAD_MOST,
    Connect,
    Proxies,
    Proxy,
    find_proxies,
    parse_proxy,
)
from outrelay.lib.transport.tcp.tls import HandshakeFailed
from outrelay.lib.values import Address

PROXY = Proxy(address=("proxy.test", 3128))
RELAY = ("relay.test", 443)


# --- URLs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://proxy.test:3128", ("proxy.test", 3128)),
        ("http://proxy.test:3128/", ("proxy.test", 3128)),
        ("http://proxy.test", ("proxy.test", 80)),
        ("proxy.test:8080", ("proxy.test", 8080)),
        ("http://[2001:db8::1]:3128", ("2001:db8::1", 3128)),
        ("HTTP://10.0.0.1:3128", ("10.0.0.1", 3128)),
    ],
)
def test_where_a_proxy_is(text: str, address: Address) -> None:
    assert parse_proxy(text) == Proxy(address=address)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://ann:secret@proxy.test:3128", "ann:secret"),
        ("http://a%40b:p%3Aq%2F@proxy.test:3128", "a@b:p:q/"),
        ("http://ann@proxy.test:3128", "ann:"),
    ],
)
def test_user_and_password_of_a_proxy(text: str, said: str) -> None:
    proxy = parse_proxy(text)
    kind, _, value = proxy.authorization.partition(" ")
    assert (kind, b64decode(value).decode()) == ("Basic", said)
    assert value not in repr(proxy)
    assert str(proxy) == "proxy.test:3128"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no proxy's URL"),
        ("http://", "no proxy's URL"),
        ("http://proxy.test:port", "no proxy's URL"),
        ("http://[::1:3128", "no proxy's URL"),
        ("https://proxy.test:3128", "not in https"),
        ("socks5://proxy.test:1080", "not in socks5"),
    ],
)
def test_what_is_no_proxy_of_ours(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as error:
        parse_proxy(text)
    assert "http://user:password@proxy.example:3128" in str(error.value)


def test_a_bad_url_with_a_password_does_not_show_it() -> None:
    with pytest.raises(ValueError) as error:
        parse_proxy("ftp://ann:secret@proxy.test")
    assert "secret" not in str(error.value)


# --- the environment -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({}, None),
        ({"https_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://a:1"}, "a"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "b"),
        ({"ALL_PROXY": "http://a:1"}, "a"),
        ({"all_proxy": "http://b:1", "ALL_PROXY": "http://a:1"}, "b"),
        ({"all_proxy": "http://b:1", "HTTPS_PROXY": "http://a:1"}, "a"),
        ({"http_proxy": "http://a:1"}, None),
    ],
)
def test_the_environment_names_a_proxy(environment: dict[str, str], host: str | None) -> None:
    found = find_proxies(None, environment).towards(RELAY)
    assert (found.address[0] if found else None) == host


def test_the_proxy_that_was_given_counts_first() -> None:
    environment = {"https_proxy": "http://other:1", "NO_PROXY": "internal"}
    proxies = find_proxies(PROXY, environment)
    assert proxies.towards(RELAY) == PROXY
    assert proxies.towards(("internal", 443)) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_this_host_is_reached_through_a_proxy_only_when_that_was_given(host: str) -> None:
    assert find_proxies(None, {"https_proxy": "http://a:1"}).towards((host, 443)) is None
    assert find_proxies(PROXY, {}).towards((host, 443)) == PROXY


def test_a_variable_at_fault_is_named() -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY: a proxy is spoken to in http"):
        find_proxies(None, {"HTTPS_PROXY": "socks5://proxy.test"})


@pytest.mark.parametrize(
    ("entry", "endpoint", "covered"),
    [
        ("*", RELAY, True),
        ("relay.test", RELAY, True),
        ("RELAY.test", ("relay.TEST.", 443), True),
        ("test", RELAY, True),
        (".test", RELAY, True),
        ("*.test", RELAY, True),
        ("*test", RELAY, True),
        ("lay.test", RELAY, False),
        ("relay.test.", RELAY, True),
        ("a.relay.test", RELAY, False),
        ("relay.test:443", RELAY, True),
        ("relay.test:8443", RELAY, False),
        (".", RELAY, False),
        ("10.0.0.0/8", ("10.1.2.3", 443), True),
        ("10.0.0.1/8", ("10.1.2.3", 443), True),
        ("10.0.0.0/8", ("11.1.2.3", 443), False),
        ("10.1.2.3", ("10.1.2.3", 443), True),
        ("10.1.2.3:443", ("10.1.2.3", 443), True),
        ("10.1.2.3:80", ("10.1.2.3", 443), False),
        ("2001:db8::/32", ("2001:db8::7", 443), True),
        ("2001:db8::7", ("2001:db8::7", 443), True),
        ("[2001:db8::7]", ("2001:db8::7", 443), True),
        ("[2001:db8::7]:443", ("2001:db8::7", 443), True),
        ("[2001:db8::7]:80", ("2001:db8::7", 443), False),
        ("2001:db8::/32", ("10.1.2.3", 443), False),
        ("10.0.0.0/8", RELAY, False),
    ],
)
def test_what_is_dialled_without(entry: str, endpoint: Address, covered: bool) -> None:
    proxies = find_proxies(PROXY, {"no_proxy": f"first.example, {entry}"})
    assert (proxies.towards(endpoint) is None) is covered


def test_without_a_proxy_everything_is_dialled_without() -> None:
    assert Proxies().towards(RELAY) is None


# --- CONNECT -------------------------------------------------------------------------------


def test_what_is_asked() -> None:
    stage = Connect(parse_proxy("http://ann:secret@proxy.test:3128"), ("2001:db8::7", 443))
    assert not stage.advance()
    assert stage.take() == (
        b"CONNECT [2001:db8::7]:443 HTTP/1.1\r\n"
        b"Host: [2001:db8::7]:443\r\n"
        b"Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n"
        b"\r\n"
    )
    assert stage.take() == b""
    assert b"Authorization" not in Connect(PROXY, RELAY).take()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200\r\nVia: 1.1 proxy\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Wait\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
def test_a_tunnel_is_given(answer: bytes, pieces: str) -> None:
    stage = Connect(PROXY, RELAY)
    size = len(answer) if pieces == "whole" else 1
    for at in range(0, len(answer), size):
        assert not stage.advance()
        stage.receive(answer[at : at + size])
    assert stage.advance()


LONG = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (HEAD_MOST // 6)
WAITING = b"HTTP/1.1 100 Wait\r\n\r\n" * (HEAD_MOST // 20)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic\r\n\r\n", "wants a user and a password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\nno", "not allow connections to relay.test:443 .403 Forb"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "no connection to relay.test:443 .502 Bad Gateway"),
        (b"HTTP/1.1 301\r\n\r\n", r"no connection to relay.test:443 \(301\)$"),
        (b"HTTP/1.1 500 \x1b[2Jgone\r\n\r\n", r"\(500\)$"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "speaks before we do"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer like an HTTP proxy"),
        (b"HTTP/2 200\r\n\r\n", "does not answer like an HTTP proxy"),
        (b"\r\n\r\n", "does not answer like an HTTP proxy"),
        (bytes(HEAD_MOST + 1), "its answer is too long"),
        (LONG, "its answer is too long"),
        (WAITING + b"x" * 30, "its answer is too long"),
    ],
)
def test_a_tunnel_is_refused(answer: bytes, fault: str) -> None:
    stage = Connect(PROXY, RELAY)
    stage.receive(answer)
    with pytest.raises(HandshakeFailed, match=f"the proxy: .*{fault}") as failure:
        stage.advance()
    assert failure.value.told
    assert not failure.value.final


def test_a_password_that_is_not_taken_is_another_thing() -> None:
    stage = Connect(parse_proxy("http://ann:secret@proxy.test"), RELAY)
    stage.receive(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    with pytest.raises(HandshakeFailed, match="does not take the user and password"):
        stage.advance()
