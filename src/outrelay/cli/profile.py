"""``outrelay-cli profile``: settings with a name, for people who talk to several controllers."""

from __future__ import annotations

import dataclasses

import click

from outrelay.cli.flags import Common, absolute, common_flags, examples
from outrelay.cli.output import TABLE, Column, print_rows
from outrelay.cli.profiles import Profiles, Settings, check_name, load, profiles_path, save
from outrelay.lib.errors import ControlError
from outrelay.lib.options import ParsedType

NAME = ParsedType("name", check_name)

Entry = tuple[str, Settings, bool]


@click.group()
def profile() -> None:
    """Settings with a name: which controller, whose tenant, which certificate."""


@profile.command(
    epilog=examples(
        """
        outrelay-cli profile add prod --controller controller.example:7444 \\
            --cert ~/operator.pem --key ~/operator.key --ca ~/ca.pem
        """
    )
)
@click.argument("name", type=NAME)
@common_flags(root=False)
@click.pass_context
def add(ctx: click.Context, /, name: str, **flags: object) -> None:
    """Keep the flags given here, or change what was kept; the first profile is in use at once."""
    here = Common.of(flags)
    given = here.over(ctx.find_object(Common) or here).settings
    profiles = load(profiles_path())
    settings = dataclasses.replace(
        given, cert=absolute(given.cert), key=absolute(given.key), ca=absolute(given.ca)
    ).over(profiles.settings.get(name, Settings()))
    changed = Profiles(
        current=profiles.current or name, settings={**profiles.settings, name: settings}
    )
    save(profiles_path(), changed)


@profile.command(epilog=examples("outrelay-cli profile use prod"))
@click.argument("name", type=NAME)
def use(name: str) -> None:
    """Take from now on what the command line does not say from this profile."""
    profiles = load(profiles_path())
    if name not in profiles.settings:
        raise ControlError(
            "NOT_FOUND", f"there is no profile {name}; see: outrelay-cli profile list"
        )
    save(profiles_path(), dataclasses.replace(profiles, current=name))


@profile.command(name="list")
@common_flags(root=False)
@click.pass_context
def list_(ctx: click.Context, /, **flags: object) -> None:
    """Show the profiles; the one in use has a star."""
    here = Common.of(flags)
    profiles = load(profiles_path())
    entries = [
        (name, settings, name == profiles.current) for name, settings in profiles.settings.items()
    ]
    form = here.over(ctx.find_object(Common) or here).output or TABLE
    print_rows(form, COLUMNS, entries, _record)


def _record(entry: Entry) -> dict[str, object]:
    name, settings, current = entry
    values = dataclasses.asdict(settings)
    given = {key: value for key, value in values.items() if value is not None}
    texts = {key: value if isinstance(value, bool) else str(value) for key, value in given.items()}
    return {"name": name, "current": current, **texts}


COLUMNS: tuple[Column[Entry], ...] = (
    Column(title="", text=lambda entry: "*" if entry[2] else ""),
    Column(title="NAME", text=lambda entry: entry[0], whole=True),
    Column(title="CONTROLLER", text=lambda entry: entry[1].controller or ""),
    Column(title="TENANT", text=lambda entry: entry[1].tenant or ""),
    Column(title="CERTIFICATE", text=lambda entry: str(entry[1].cert or "")),
)
