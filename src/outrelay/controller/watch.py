"""What the two Watches have in common: whose changes, from when on.

Source: control-plane.md, Registry and Policy, Watch.
"""

from __future__ import annotations

from outrelay.controller.authz import Context, current_caller
from outrelay.controller.fields import check_tenant

SNAPSHOT = "outrelay-snapshot"
ALL_TENANTS = "outrelay-all-tenants"


def asks_for(context: Context, key: str) -> bool:
    """True when the call carries this metadata with the value 1."""
    metadata = context.invocation_metadata() or ()
    return (key, "1") in [(name, value) for name, value in metadata]


def watched_tenant(context: Context, tenant: str) -> str | None:
    """The tenant to watch; None for all of them.

    Raises:
        ControlError: The request names none and does not ask for all, or may not.
    """
    caller = current_caller()
    if not tenant and asks_for(context, ALL_TENANTS):
        caller.require_all_tenants()
        return None
    caller.require_tenant(tenant)
    check_tenant(tenant)
    return tenant
