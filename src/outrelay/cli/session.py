"""One run of a command: whom to call, as whom, and how to show the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

import click
import grpc.aio

from outrelay.cli.profiles import Settings
from outrelay.lib.control.channel import UNIX, control_errors, open_channel
from outrelay.lib.identity.certs import Credentials, Trust, load_credentials, load_trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.service import EXIT_USAGE

PROGRAM = "outrelay-cli"

DEFAULT_CONTROLLER = "127.0.0.1:7444"

TIMEOUT = 5.0
"""Seconds that a call may take."""

STREAM_TIMEOUT = 60.0
"""Seconds that a call may take whose answer has any length."""

ALL_TENANTS = "system"
"""The tenant whose operators name the tenant they mean."""


class Missing(click.ClickException):
    """A flag that only turned out to be needed when all places for it had been looked at."""

    exit_code = EXIT_USAGE

    def show(self, file: IO[str] | None = None) -> None:
        """One line, like every other failure."""
        click.echo(f"{PROGRAM}: {self.message}", file=file, err=True)


def note(text: str) -> None:
    """Tell whoever reads the answer something, beside it."""
    click.echo(f"{PROGRAM}: {text}", err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where a command finds its controller, and what it shows.

    Args:
        controller: ``host:port`` or ``unix:PATH``.
        tenant: Whose policy and audit it is about; empty when nobody said.
        credentials: Who we are; None without TLS.
        trust: Whom we believe; None without TLS.
        output: ``table`` or ``json``.
    """

    controller: str
    tenant: str
    credentials: Credentials | None
    trust: Trust | None
    output: str

    @classmethod
    def of(cls, settings: Settings, output: str) -> Session:
        """The session that settings describe.

        Raises:
            Missing: A setting is missing.
            IdentityError: A file cannot be used.
        """
        controller = settings.controller or DEFAULT_CONTROLLER
        credentials = trust = None
        if not (settings.plaintext or controller.startswith(UNIX)):
            credentials, trust = _load(settings)
        return cls(
            controller=controller,
            tenant=settings.tenant or _tenant_of(credentials),
            credentials=credentials,
            trust=trust,
            output=output,
        )

    @property
    def required_tenant(self) -> str:
        """The tenant.

        Raises:
            Missing: Nobody said which.
        """
        if not self.tenant:
            raise Missing("--tenant is missing: say whose policy or audit it is about")
        return self.tenant

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel to the controller; what fails on it is a ControlError."""
        who = {"credentials": self.credentials, "trust": self.trust}
        async with open_channel(self.controller, **who) as channel:  # type: ignore[arg-type]
            with control_errors(self.controller, **who):  # type: ignore[arg-type]
                yield channel


def _load(settings: Settings) -> tuple[Credentials, Trust]:
    if settings.cert is None or settings.key is None or settings.ca is None:
        names = ("cert", "key", "ca")
        missing = ", ".join(f"--{name}" for name in names if not getattr(settings, name))
        raise Missing(
            f"{missing} missing: give --cert, --key and --ca, or a profile with them,"
            " or --controller unix:PATH for an admin socket, or --plaintext"
        )
    return load_credentials(settings.cert, settings.key), load_trust(settings.ca)


def _tenant_of(credentials: Credentials | None) -> str:
    if credentials is None or credentials.identity.role is not Role.OPERATOR:
        return ""
    realm = credentials.identity.realm
    return "" if realm == ALL_TENANTS else realm
