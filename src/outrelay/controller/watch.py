"""What the two Watches have in common: whose changes, from when on.

A watcher asks by metadata for what plain controllers do not have; the answer's initial
metadata repeats what it gets, so that it knows.

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


async def admit(context: Context) -> None:
    """Tell the watcher that it is let in, and that it gets what it asks for.

    To be called when from then on nothing is missed.
    """
    given = [(key, "1") for key in (SNAPSHOT, ALL_TENANTS) if asks_for(context, key)]
    await context.send_initial_metadata(given)


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
