"""A small internet of network namespaces: hosts, the routers between them, and what those drop.

    with Lab() as lab:
        wan = lab.router("wan")
        relay = lab.host("relay", wan)
        laptop = lab.host("laptop", wan)
        wan.drop_udp(laptop)              # from and to it, as a strict firewall does
        with relay.inside():
            listener = socket.create_server((relay.address, 7000))

A *host* is a namespace with one interface and an address of its own /30 network; a *router*
is one that joins such networks and forwards between them. Sockets belong to the namespace
in which they were made, wherever they are used: a test makes them ``inside`` a host and
waits for them in its own event loop. Programs run within a host by ``host.command``.

Everything is gone after the ``with``, also when building it failed half way.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

CLONE_NEWNET = 0x40000000
PACKAGES = {"ip": "iproute2", "nft": "nftables"}
"""The programs this needs, and the Debian packages they come from."""

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Where they are; a service's PATH may lack the last two."""

NAMESPACES = Path("/run/netns")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

_libc = ctypes.CDLL(None, use_errno=True)

LINK = "eth0"
"""What every host calls its interface."""

FIREWALL = """
add table inet lab
add chain inet lab forward { type filter hook forward priority 0; policy accept; }
"""


def missing() -> str:
    """What keeps a lab from being built here; empty when nothing does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [
        package for name, package in PACKAGES.items() if shutil.which(name, path=PATH) is None
    ]
    return f"not installed: {', '.join(absent)}" if absent else ""


class Host:
    """One namespace; made by ``Lab``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespace = f"orl{os.getpid()}-{name}"
        self.address = self.gateway = ""
        """Its address and its router's, once it is joined to one."""

    @property
    def command(self) -> tuple[str, ...]:
        """What to put before a command to run it here; the process keeps its pid."""
        return ("ip", "netns", "exec", self.namespace)

    def ip(self, command: str) -> None:
        """Run an ``ip`` command here."""
        _run("ip", "-n", self.namespace, *command.split())

    def unplug(self) -> None:
        """Take it off the network: its route is gone, its address stays."""
        self.ip(f"link set {LINK} down")

    def plug_in(self) -> None:
        """Put it on the network."""
        self.ip(f"link set {LINK} up")
        self.ip(f"route add default via {self.gateway}")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Make sockets of this host; nothing in the ``with`` may wait."""
        with (
            Path("/proc/thread-self/ns/net").open("rb") as home,
            (NAMESPACES / self.namespace).open("rb") as here,
        ):
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def tcp_socket(self) -> socket.socket:
        """A TCP socket of this host that does not block."""
        with self.inside():
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return made


class Router(Host):
    """Joins hosts and forwards between them; by default everything."""

    def drop_udp(self, host: Host) -> None:
        """Forward no UDP from or to ``host`` any more."""
        for side in ("saddr", "daddr"):
            rule = f"add rule inet lab forward ip {side} {host.address} meta l4proto udp drop"
            self._nft(rule)

    def narrow(self, host: Host, mtu: int) -> None:
        """Let the link to ``host`` carry no larger packets, as a tunnel's does."""
        self.ip(f"link set {_link_to(host)} mtu {mtu}")
        host.ip(f"link set {LINK} mtu {mtu}")

    def translate(self, host: Host, *, each: bool = False) -> None:
        """Let others see this router instead of ``host``.

        Args:
            host: Who is behind the NAT.
            each: Another port for each destination (symmetric), instead of the host's own.
        """
        self._nft("add chain inet lab nat { type nat hook postrouting priority 100; }")
        self._nft("flush chain inet lab nat")
        how = f"snat ip to {host.gateway}" + (" fully-random" if each else "")
        self._nft(f"add rule inet lab nat ip saddr {host.address} {how}")

    def pass_all(self) -> None:
        """Forward everything again."""
        self._nft("flush chain inet lab forward")

    def _nft(self, rules: str) -> None:
        _run(*self.command, "nft", "-f", "-", given=rules)


class Lab:
    """Builds hosts and takes them down again; a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._networks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def router(self, name: str) -> Router:
        """A router that joins nothing yet."""
        router = Router(name)
        self._add(router)
        with router.inside():
            FORWARDING.write_text("1")
        _run(*router.command, "nft", "-f", "-", given=FIREWALL)
        return router

    def host(self, name: str, router: Router) -> Host:
        """A host behind ``router``, with a default route through it."""
        host = Host(name)
        self._add(host)
        ours, theirs = LINK, _link_to(host)
        router.ip(f"link add {theirs} type veth peer name {ours} netns {host.namespace}")
        router.ip(f"link set {theirs} up")
        self._join(host, router)
        return host

    def move(self, host: Host, router: Router) -> None:
        """Take ``host`` to another network behind the same router: its address is another one."""
        host.unplug()
        host.ip(f"addr flush dev {LINK}")
        router.ip(f"addr flush dev {_link_to(host)}")
        self._join(host, router)

    def _join(self, host: Host, router: Router) -> None:
        """Give the link between the two the addresses of a new network."""
        self._networks += 1
        net = f"10.77.{self._networks}"
        host.address, host.gateway = f"{net}.2", f"{net}.1"
        router.ip(f"addr add {host.gateway}/30 dev {_link_to(host)}")
        host.ip(f"addr add {host.address}/30 dev {LINK}")
        host.plug_in()

    def _add(self, host: Host) -> None:
        _run("ip", "netns", "add", host.namespace)
        self._stack.callback(_run, "ip", "netns", "del", host.namespace)
        host.ip("link set lo up")


def _link_to(host: Host) -> str:
    """What a router calls its end."""
    return f"to-{host.name}"[:15]


def _run(*command: str, given: str = "") -> None:
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "PATH": PATH},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns failed")
