"""Asks the debug listener of an agent on this host."""

from __future__ import annotations

import http.client
import ipaddress
import json
from collections.abc import Mapping

from outrelay.lib.errors import Refused
from outrelay.lib.values import Address, address_text

PATH = "/debug/status"
LIMIT = 3.0
"""Seconds the agent has to answer."""
LARGEST = 16 * 2**20
"""Bytes of an answer."""

HINT = "check that the agent runs, and give the --debug-listen that it has"

Status = Mapping[str, object]
"""What an agent shows of itself; see ``outrelay.agent.views``."""


def status_at(address: Address) -> Status:
    """What the agent shows whose debug listener is at ``address``.

    Raises:
        Refused: No agent answers there; ``reason`` says what to do.
    """
    where = address_text(address)
    host, port = _reached(address)
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT)
    try:
        connection.request("GET", PATH)
        answer = connection.getresponse()
        text = answer.read(LARGEST)
    except OSError as error:
        reason = f"nobody answers there ({error.strerror or error}); {HINT}"
        raise Refused(where, reason) from error
    except http.client.HTTPException as error:
        raise Refused(where, _stranger("something else")) from error
    finally:
        connection.close()
    return _parsed(text, where, answer.status)


def _reached(address: Address) -> Address:
    """Where a listener at ``address`` is reached: one that is everywhere is here, too."""
    host, port = address
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return address
    if not number.is_unspecified:
        return address
    return ("127.0.0.1" if number.version == 4 else "::1"), port


def _parsed(text: bytes, where: str, code: int) -> Status:
    try:
        status = json.loads(text) if code == http.client.OK else None
    except ValueError:
        status = None
    component = status.get("component") if isinstance(status, dict) else None
    if not isinstance(status, dict) or component != "agent":
        what = f"a {component}" if isinstance(component, str) else "something else"
        raise Refused(where, _stranger(what))
    return status


def _stranger(what: str) -> str:
    return f"what answers there is no agent but {what}; {HINT}"
