"""Who may do what: the one place that decides it.

The certificate's role decides which rpcs a caller may use; the table below is all of it.
A listener without certificates has one fixed caller. Operators are bound to their tenant,
except those of the tenant ``system``; an operator has the role admin in its tenant.

Source: control-plane.md, "Who may do what".
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import grpc.aio
from cryptography import x509

from outrelay.controller.clock import Clock
from outrelay.lib.errors import ControlError, IdentityError
from outrelay.lib.identity.certs import identity_of
from outrelay.lib.identity.uri import Identity, Role

PACKAGE = "outrelay.control.v1"

RPCS: dict[Role, frozenset[str]] = {
    Role.RELAY: frozenset(
        {
            "Registry/RegisterService",
            "Registry/DeregisterAgent",
            "Registry/DeregisterService",
            "Registry/Resolve",
            "Registry/Watch",
            "Registry/UpsertRelay",
            "Policy/ListPolicies",
            "Policy/Watch",
            "Audit/Record",
            "Audit/RecordBatch",
            "Fleet/Attach",
        }
    ),
    Role.OPERATOR: frozenset(
        {
            "Policy/AddPolicy",
            "Policy/RemovePolicy",
            "Policy/ListPolicies",
            "Policy/ReplacePolicies",
            "Policy/Explain",
            "Policy/Watch",
            "Audit/Query",
            "Registry/ListRelays",
            "Registry/ListAgents",
            "Registry/ListServices",
            "Registry/DrainRelay",
            "Fleet/ListStreams",
            "Fleet/KillStream",
            "Admin/SetLogLevel",
        }
    ),
    Role.AGENT: frozenset(),
    Role.CONTROLLER: frozenset(),
}
"""Which rpcs of our own services a role may use."""

OF_ALL_TENANTS = frozenset({"Admin/SetLogLevel", "Registry/DrainRelay"})
"""Rpcs that only who may touch every tenant may use."""

SYSTEM = "system"
"""The tenant whose operators are operators of every tenant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call.

    Args:
        name: For logs and messages: a URI, or the listener's name.
        roles: What it is.
        identity: The one of its certificate, if it has one.
        tenant: The only tenant it may touch; None: any.
        expires: When its certificate ends, seconds since the epoch; None without one.
    """

    name: str
    roles: frozenset[Role]
    identity: Identity | None = None
    tenant: str | None = None
    expires: float | None = None

    @property
    def uri(self) -> str:
        """The identity's URI; empty without a certificate."""
        return self.identity.uri if self.identity else ""

    def require_tenant(self, tenant: str, *, field: str = "tenant") -> None:
        """Make sure that ``tenant`` is named and is one this caller may touch.

        Raises:
            ControlError: INVALID_ARGUMENT or PERMISSION_DENIED.
        """
        if not tenant:
            raise ControlError("INVALID_ARGUMENT", f"{field}: must be given")
        if self.tenant not in (None, tenant):
            text = f"{self.name} is an operator of {self.tenant}, not of {tenant}"
            raise ControlError("PERMISSION_DENIED", f"{text}; use a certificate of {tenant}")

    def require_scope(self, tenant: str) -> None:
        """Make sure that this caller may see what is asked for: a tenant, or all of them.

        Args:
            tenant: Whose things; empty: everybody's.

        Raises:
            ControlError: PERMISSION_DENIED.
        """
        if tenant:
            self.require_tenant(tenant)
        else:
            self.require_all_tenants()

    def require_all_tenants(self) -> None:
        """Make sure that this caller may touch every tenant.

        Raises:
            ControlError: PERMISSION_DENIED.
        """
        if self.tenant is not None:
            text = f"{self.name} may see {self.tenant}, not all tenants"
            raise ControlError("PERMISSION_DENIED", text)


ADMIN_SOCKET = Caller(name="the admin socket", roles=frozenset({Role.OPERATOR}))
PLAINTEXT = Caller(name="the plaintext listener", roles=frozenset({Role.RELAY, Role.OPERATOR}))

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"
"""What gRPC knows of a call."""

CallerOf: TypeAlias = "Callable[[Context], Caller]"
"""Says who makes a call; raises ControlError UNAUTHENTICATED when nobody knows."""

_current: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Who makes the call that is being served."""
    return _current.get()


def begin_call(caller: Caller, method: str) -> None:
    """Let ``caller`` make the call that is now served, if the table allows it.

    Args:
        caller: Who it is.
        method: As gRPC names it: ``/outrelay.control.v1.Policy/Watch``.

    Raises:
        ControlError: PERMISSION_DENIED.
    """
    rpc = method.removeprefix(f"/{PACKAGE}.")
    if not any(rpc in RPCS[role] for role in caller.roles):
        raise ControlError("PERMISSION_DENIED", _refusal(caller, rpc))
    if rpc in OF_ALL_TENANTS and caller.tenant is not None:
        text = f"{caller.name} is of {caller.tenant}; {rpc} needs an operator of {SYSTEM}"
        raise ControlError("PERMISSION_DENIED", f"{text}, or the admin socket")
    _current.set(caller)


def by_certificate(clock: Clock) -> CallerOf:
    """Callers of a mutual-TLS listener, which has verified the chain and its usage."""

    def caller_of(context: Context) -> Caller:
        (pem,) = context.auth_context().get("x509_pem_cert", [b""])
        caller = _caller_of_certificate(pem)
        if caller.expires is not None and caller.expires * 1000 <= clock():
            raise expired(caller)
        return caller

    return caller_of


def expired(caller: Caller) -> ControlError:
    """What a caller is told whose certificate has ended."""
    return ControlError("UNAUTHENTICATED", f"the certificate of {caller.name} has expired")


def always(caller: Caller) -> CallerOf:
    """Everybody who reaches a listener is ``caller``."""
    return lambda _context: caller


@lru_cache(maxsize=4096)
def _caller_of_certificate(pem: bytes) -> Caller:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        identity = identity_of(certificate, subject="the certificate")
    except (ValueError, IdentityError) as error:
        raise ControlError("UNAUTHENTICATED", str(error)) from error
    bound = identity.role is Role.OPERATOR and identity.realm != SYSTEM
    return Caller(
        name=identity.uri,
        roles=frozenset({identity.role}),
        identity=identity,
        tenant=identity.realm if bound else None,
        expires=certificate.not_valid_after_utc.timestamp(),
    )


def _refusal(caller: Caller, rpc: str) -> str:
    needed = " or ".join(sorted(role for role, rpcs in RPCS.items() if rpc in rpcs))
    roles = " and ".join(sorted(caller.roles))
    who = f"{caller.name} has the role {roles}"
    if not needed:
        return f"{who}; nobody may call {rpc} here"
    return f"{who}; {rpc} needs a certificate of the role {needed}"
