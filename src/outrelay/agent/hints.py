"""What a person can do about a refusal, in one line.

Source: protocol.md section 3, reject codes.
"""

from __future__ import annotations

import shlex

from outrelay.agent.options import Consume
from outrelay.lib.errors import RejectCode
from outrelay.lib.identity.uri import Identity
from outrelay.lib.policy import REGISTER

FOR_RELAY = (
    "check that a relay listens there; it and the agent need one CA:"
    " check --cert, --key, --ca and --server-name"
)
"""When relay and agent do not accept each other's certificates, or it is no relay."""

FOR_HELLO = "ask whoever runs the relay"
"""When the relay took the certificate, but not the agent; it has said why."""

FOR_EXPIRED = (
    "this agent's certificate has ended: put a new one into --cert and --key, it will be noticed"
)
"""When it is in vain to connect whatever the relay says."""

_HINTS = {
    RejectCode.MALFORMED: "agent and relay do not understand each other; compare their versions",
    RejectCode.NOT_FOUND: "check the service's name, and that an agent which exposes it"
    " is connected",
    RejectCode.ID_IN_USE: "try again",
    RejectCode.LIMIT: "too many streams at a time; close some, or raise --max-streams",
    RejectCode.UNREACHABLE: "check that the relay and the provider's agent are connected, and"
    " that the provider's backend runs",
    RejectCode.REJECTED: "the provider takes no streams now; try again later",
    RejectCode.TIMEOUT: "the provider does not answer; look at its agent's log",
}


def for_open(code: int, *, caller: Identity, consume: Consume) -> str:
    """What to do when a stream for ``consume`` was refused; empty for an unknown code."""
    if code == RejectCode.DENIED:
        return _policy(caller, consume.service, consume.method)
    return hint(code)


def for_registration(code: int, *, agent: Identity, service: str) -> str:
    """What to do when the relay refused to register ``service``; empty for an unknown code."""
    if code == RejectCode.DENIED:
        return _policy(agent, service, REGISTER)
    if code == RejectCode.LIMIT:
        return "this agent exposes more services than the relay takes; split them over agents"
    return hint(code)


def _policy(caller: Identity, service: str, method: str) -> str:
    words = ["outrelay-cli", "policy", "add", "--tenant", caller.realm, "--caller", caller.uri]
    words += ["--target", service, *(["--method", method] if method else [])]
    return f"if it should be allowed: {shlex.join([*words, '--decision', 'allow'])}"


def hint(code: int) -> str:
    """What to do about a code whatever was asked for; empty where that depends, or is unknown."""
    try:
        return _HINTS[RejectCode(code)]
    except (ValueError, KeyError):
        return ""
