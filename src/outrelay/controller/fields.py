"""What the fields of requests must look like; a refusal begins with the field's name.

Every check raises ControlError INVALID_ARGUMENT.
"""

from __future__ import annotations

import re

from outrelay.lib.errors import ControlError, IdentityError
from outrelay.lib.identity.uri import Identity, Role, is_label

LONGEST_TEXT = 1024
DEFAULT_LIMIT = 1000
HIGHEST_LIMIT = 10_000
_SERVICE_NAME = re.compile(r"[!-.0-~]{1,255}")


def invalid(field: str, fault: str) -> ControlError:
    """The refusal of a request because of one field."""
    return ControlError("INVALID_ARGUMENT", f"{field}: {fault}")


def check_tenant(tenant: str, *, field: str = "tenant") -> None:
    """A tenant is a label of lower-case letters, digits and hyphens."""
    if not is_label(tenant):
        raise invalid(field, f"{tenant!r:.80} is no tenant (lower-case letters, digits, hyphens)")


def check_text(field: str, value: str, *, optional: bool = False) -> None:
    """Text is printable, not too long and, unless ``optional``, not empty."""
    if not value and not optional:
        raise invalid(field, "must be given")
    if len(value) > LONGEST_TEXT:
        raise invalid(field, f"has {len(value)} characters, at most {LONGEST_TEXT} are allowed")
    if not value.isprintable():
        raise invalid(field, "must be printable text in one line")


def limit_of(limit: int) -> int:
    """How many rows are meant; 0 in a request means the default."""
    if limit > HIGHEST_LIMIT:
        raise invalid("limit", f"must be at most {HIGHEST_LIMIT}")
    return limit or DEFAULT_LIMIT


def check_service_name(name: str, *, field: str = "service_name") -> None:
    """A service's name. Source: protocol.md section 4."""
    if not _SERVICE_NAME.fullmatch(name):
        fault = "must be 1 to 255 printable ASCII characters without / and space"
        raise invalid(field, fault)


def check_agent(uri: str, *, tenant: str, field: str = "agent_uri") -> None:
    """An agent of that tenant."""
    try:
        identity = Identity.parse(uri)
    except IdentityError as error:
        raise invalid(field, f"{error.subject:.200} {error.fault}") from error
    if identity.role is not Role.AGENT:
        raise invalid(field, f"{uri} is not an agent")
    if identity.realm != tenant:
        raise invalid("tenant", f"{tenant} is not the tenant of {uri}")
