"""Identity URIs: what is one, what is not, and that they read back as written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.uri import Identity, Role, is_label

UUID = "4a9c3f52-6d0e-4c0b-9a57-0d1f3b7e2c11"
LONGEST = "a" * 63

labels = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
identities = st.one_of(
    st.builds(
        Identity,
        realm=labels,
        role=st.sampled_from([role for role in Role if role is not Role.AGENT]),
        name=labels,
    ),
    st.builds(Identity, realm=labels, role=st.just(Role.AGENT), name=st.uuids().map(str)),
)


@pytest.mark.parametrize(
    ("text", "realm", "role", "name"),
    [
        (f"outrelay://acme/agent/{UUID}", "acme", Role.AGENT, UUID),
        ("outrelay://eu-west-1/relay/r1", "eu-west-1", Role.RELAY, "r1"),
        ("outrelay://system/operator/0", "system", Role.OPERATOR, "0"),
        ("outrelay://local/controller/c-1-", "local", Role.CONTROLLER, "c-1-"),
        (f"outrelay://{LONGEST}/relay/{LONGEST}", LONGEST, Role.RELAY, LONGEST),
    ],
)
def test_parses(text: str, realm: str, role: Role, name: str) -> None:
    identity = Identity.parse(text)

    assert identity == Identity(realm=realm, role=role, name=name)
    assert identity.uri == str(identity) == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must start with outrelay://"),
        ("https://acme/relay/r1", "must start with"),
        ("OUTRELAY://acme/relay/r1", "must start with"),
        (" outrelay://acme/relay/r1", "must start with"),
        ("outrelay://acme/relay", "not of the form"),
        ("outrelay://acme/relay/r1/", "not of the form"),
        ("outrelay://acme/relay/r1/x", "not of the form"),
        ("outrelay:///relay/r1", "invalid tenant or region"),
        ("outrelay://acme:7443/relay/r1", "invalid tenant or region"),
        ("outrelay://me@acme/relay/r1", "invalid tenant or region"),
        ("outrelay://ACME/relay/r1", "invalid tenant or region"),
        ("outrelay://-acme/relay/r1", "invalid tenant or region"),
        ("outrelay://acmé/relay/r1", "invalid tenant or region"),
        ("outrelay://acme\n/relay/r1", "invalid tenant or region"),
        (f"outrelay://{LONGEST}a/relay/r1", "invalid tenant or region"),
        ("outrelay://acme/admin/r1", "no role we know: 'admin'"),
        ("outrelay://acme/Relay/r1", "no role we know"),
        ("outrelay://acme//r1", "no role we know"),
        ("outrelay://acme/relay/", "invalid id"),
        ("outrelay://acme/relay/r1?x=1", "invalid id"),
        ("outrelay://acme/relay/r1#x", "invalid id"),
        ("outrelay://acme/relay/r1\n", "invalid id"),
        ("outrelay://acme/relay/r%31", "invalid id"),
        ("outrelay://acme/operator/\N{ARABIC-INDIC DIGIT ONE}", "invalid id"),
        (f"outrelay://acme/relay/{LONGEST}a", "invalid id"),
        ("outrelay://acme/agent/r1", "invalid uuid"),
        (f"outrelay://acme/agent/{UUID.upper()}", "invalid uuid"),
        (f"outrelay://acme/agent/{{{UUID}}}", "invalid uuid"),
        (f"outrelay://acme/agent/{UUID.replace('-', '')}", "invalid uuid"),
        (f"outrelay://acme/agent/{UUID}\n", "invalid uuid"),
    ],
)
def test_refuses_and_says_why(text: str, fault: str) -> None:
    with pytest.raises(IdentityError, match=fault) as caught:
        Identity.parse(text)

    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(identities)
def test_reads_back_what_it_writes(identity: Identity) -> None:
    assert Identity.parse(identity.uri) == identity


@given(st.one_of(st.text(max_size=80), st.text(max_size=60).map(lambda t: "outrelay://" + t)))
def test_only_identity_errors_come_out(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except IdentityError:
        return
    assert identity.uri == text


@pytest.mark.parametrize("text", ["a", "0", "a-b", LONGEST])
def test_labels(text: str) -> None:
    assert is_label(text)


@pytest.mark.parametrize("text", ["", "-a", "A", "a_b", "a.b", "a\n", LONGEST + "a"])
def test_no_labels(text: str) -> None:
    assert not is_label(text)
