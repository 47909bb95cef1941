"""What a consumer asks for: the value that policy, audit and logs speak about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One stream, or one registration, as it was asked for.

    Args:
        tenant: The caller's.
        caller: The caller's URI.
        service: The name of the service, within the tenant.
        method: What the caller wants of it; may be empty.
        stream_id: Of the stream; 0 for a registration.
    """

    tenant: str
    caller: str
    service: str
    method: str = ""
    stream_id: int = 0

    @property
    def stream_name(self) -> str:
        """The stream's id as logs and audit write it: 16 hex digits; empty without one."""
        return f"{self.stream_id:016x}" if self.stream_id else ""


LONGEST_NAME = 255


def is_service_name(text: str) -> bool:
    """Whether ``text`` may name a service: 1 to 255 printable ASCII bytes, no ``/`` or space."""
    return (
        0 < len(text) <= LONGEST_NAME
        and all("!" <= char <= "~" for char in text)
        and "/" not in text
    )


def is_method(text: str) -> bool:
    """Whether ``text`` may name a method: at most 255 printable characters, also none."""
    return len(text) <= LONGEST_NAME and text.isprintable()
