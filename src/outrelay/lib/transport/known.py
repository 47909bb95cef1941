"""What led to a relay in which network, kept in a file from one run to the next.

It is a hint: a file that is missing, damaged or of another version is as good as an empty
one, and one that cannot be written is said so once.
"""

from __future__ import annotations

import json
from pathlib import Path

from outrelay.lib.observe.logs import get_logger
from outrelay.lib.transport.ways import Carrier, Endpoint
from outrelay.lib.values import address_text, parse_address

log = get_logger(__name__)

MOST = 64
"""Networks remembered."""

FILE = "ways.json"
_VERSION = 1


class KnownWays:
    """What has worked, by network.

    Args:
        directory: Where the file is; None: nothing outlives the process.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / FILE if directory is not None else None
        self._networks = _read(self._path) if self._path is not None else {}
        self._complained = False

    def last(self, network: str) -> Endpoint | None:
        """What has worked last in ``network``."""
        return self._networks.get(network)

    def remember(self, network: str, endpoint: Endpoint) -> None:
        """This endpoint has just worked in ``network``."""
        if self._networks.get(network) == endpoint:
            return
        self._networks.pop(network, None)
        self._networks[network] = endpoint
        while len(self._networks) > MOST:
            del self._networks[next(iter(self._networks))]
        if self._path is not None:
            self._write(self._path)

    def _write(self, path: Path) -> None:
        text = json.dumps(
            {
                "version": _VERSION,
                "networks": {
                    network: {"carrier": each.carrier, "address": address_text(each.address)}
                    for network, each in self._networks.items()
                },
            },
            indent=1,
        )
        unfinished = path.with_suffix(".new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.write_text(text)
            unfinished.replace(path)
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning(
                    "what leads to a relay is not remembered", file=path, reason=error.strerror
                )


def _read(path: Path) -> dict[str, Endpoint]:
    try:
        state = json.loads(path.read_text())
        if state["version"] != _VERSION:
            return {}
        return {
            str(network): Endpoint(Carrier(each["carrier"]), parse_address(each["address"]))
            for network, each in list(state["networks"].items())[-MOST:]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.info("what led to a relay before cannot be read", file=path, reason=str(error))
        return {}
