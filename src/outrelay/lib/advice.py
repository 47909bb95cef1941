"""What somebody can do when the operating system refuses, in a few words.

Source: errno(3), bind(2), getaddrinfo(3).
"""

from __future__ import annotations

import errno

_FILES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give a file",
    errno.EACCES: "let this user have access to it",
    errno.EPERM: "let this user have access to it",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "give a place that can be written to",
}

_ADDRESSES = {
    errno.EADDRINUSE: "stop what uses the address, or choose another one",
    errno.EADDRNOTAVAIL: "give an address of this machine",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
}

_NAMES = "check the name"


def on_file(error: OSError) -> str:
    """What to do when a file cannot be used; empty when that depends."""
    return _FILES.get(error.errno or 0, "")


def on_address(error: OSError) -> str:
    """What to do when an address cannot be listened on; empty when that depends."""
    number = error.errno or 0
    return _NAMES if number < 0 else _ADDRESSES.get(number, "")  # getaddrinfo counts downwards
