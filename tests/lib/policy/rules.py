"""Rules for tests: a short way to write one, and strategies that make them collide."""

from __future__ import annotations

from hypothesis import strategies as st

from outrelay.lib.policy import Decision, P2PMode, RelayMode, Rule

A = "outrelay://acme/agent/00000000-0000-4000-8000-00000000000a"
B = "outrelay://acme/agent/00000000-0000-4000-8000-00000000000b"
NOW = 1_000_000


def allow(caller: str = "*", target: str = "*", method: str = "", **more: object) -> Rule:
    return make(Decision.ALLOW, caller, target, method, more)


def deny(caller: str = "*", target: str = "*", method: str = "", **more: object) -> Rule:
    return make(Decision.DENY, caller, target, method, more)


def make(
    decision: Decision, caller: str, target: str, method: str, more: dict[str, object]
) -> Rule:
    fields: dict[str, object] = {
        "id": f"{decision.name}|{caller}|{target}|{method}",
        "tenant": "acme",
        "caller_pattern": caller,
        "target_pattern": target,
        "method_pattern": method,
        "decision": decision,
    }
    return Rule(**{**fields, **more})  # type: ignore[arg-type]


CALLERS = ("*", A, B, "outrelay://acme/agent/*", "outrelay://*", "*0a", "*acme*")
SERVICES = ("db", "web", "db-1", "d*", "*", "*b", "*e*", "db-*")
METHODS = ("", "*", "GET", "G*", "REGISTER", "REG*", "*T")

random_rules = st.lists(
    st.builds(
        Rule,
        id=st.sampled_from("abcdefgh"),
        tenant=st.sampled_from(["acme", "acme", "other"]),
        caller_pattern=st.sampled_from(CALLERS),
        target_pattern=st.sampled_from((*SERVICES, *(c for c in CALLERS if c.startswith("outr")))),
        method_pattern=st.sampled_from(METHODS),
        decision=st.sampled_from(Decision),
        expires_ms=st.sampled_from([0, 0, NOW - 1, NOW, NOW + 1, NOW + 50]),
        created_ms=st.integers(0, 2),
        p2p_mode=st.sampled_from(P2PMode),
        relay_mode=st.sampled_from(RelayMode),
    ),
    max_size=8,
    unique_by=lambda rule: (rule.tenant, rule.id),
)
services = st.sampled_from(["db", "web", "db-1", "e", ""])
agents = st.sampled_from([A, B, "outrelay://other/agent/x"])
methods = st.sampled_from(["", "GET", "PUT", "REGISTER"])
tenants = st.sampled_from(["acme", "other", "nobody"])
