"""Identity URIs: ``outrelay://<realm>/<role>/<name>`` and back.

The realm is the tenant of agents and operators, the region of relays and controllers.
The URI SAN of a certificate is the identity; nothing self-reported is trusted.

Source: protocol.md section 10.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from outrelay.lib.errors import IdentityError

SCHEME = "outrelay://"

_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_label(text: str) -> bool:
    """Whether ``text`` may be a tenant, a region, or the name of anybody but an agent."""
    return _LABEL.fullmatch(text) is not None


class Role(StrEnum):
    """What a certificate's holder is."""

    AGENT = "agent"
    RELAY = "relay"
    OPERATOR = "operator"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a peer is, as its certificate says."""

    realm: str
    role: Role
    name: str

    @property
    def uri(self) -> str:
        """The canonical text form."""
        return f"{SCHEME}{self.realm}/{self.role}/{self.name}"

    def __str__(self) -> str:
        return self.uri

    @classmethod
    def parse(cls, text: str) -> Identity:
        """The identity that ``text`` names.

        Raises:
            IdentityError: It is not exactly of the form above.
        """
        if not text.startswith(SCHEME):
            raise IdentityError(repr(text), f"is not an identity: it must start with {SCHEME}")
        parts = text[len(SCHEME) :].split("/")
        if len(parts) != 3:
            raise IdentityError(repr(text), "is not of the form outrelay://<realm>/<role>/<name>")
        realm, role_name, name = parts
        try:
            role = Role(role_name)
        except ValueError:
            raise IdentityError(repr(text), f"names no role we know: {role_name!r}") from None
        if not is_label(realm):
            raise IdentityError(repr(text), f"has an invalid tenant or region: {realm!r}")
        form = _UUID if role is Role.AGENT else _LABEL
        if not form.fullmatch(name):
            what = "uuid (canonical, lower-case)" if role is Role.AGENT else "id"
            raise IdentityError(repr(text), f"has an invalid {what}: {name!r}")
        return cls(realm=realm, role=role, name=name)
