"""Writes docs/reference from the code, so that it cannot say anything else.

``flags.md`` comes from the programs' click commands, ``events.md`` from the vocabulary of the logs,
``metrics.md`` from the declarations of the metrics, ``stream-states.md`` from the table of stream
states, codes and frames from ``outrelay.tools.wire``. ``--check`` writes nothing and fails when a
page is not current.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path

import click
from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics import AgentMetrics, ControllerMetrics, RelayMetrics
from outrelay.lib.observe.metrics.declare import Catalogue, Declaration
from outrelay.lib.observe.metrics.process import ProcessMetrics
from outrelay.lib.observe.vocabulary import COMMON, SECTIONS, Event
from outrelay.lib.options import ServiceCommand
from outrelay.lib.orp.fsm import diagram
from outrelay.tools import wire
from outrelay.tools.wire import GENERATED

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"

FLAGS = f"""\
{GENERATED}

# Flags

Every flag can also be given as an environment variable, and the services' flags as a key of the
TOML file that `--config` names (`listen = "0.0.0.0:7443"` for `--listen`). The flag wins over the
variable, the variable over the file, the file over the default. Flags that may be repeated take
comma lists, and arrays in the file. An empty variable counts as unset.

Durations are written `250ms`, `10s`, `5m`, `24h`, `90d`; sizes `64KiB`, `16MiB`.

Exit codes: 0 fine, 1 failed while running, 2 bad usage, 78 bad configuration; `outrelay-cli`
also 3 not found, 4 refused, 5 unreachable.
"""

EVENTS = f"""\
{GENERATED}

# Events

What the logs of agents, relays and controllers say (`--log-format json`; as text, a line begins
with time, level and event). An event is a phrase that never varies; what varies are its fields.
`stream_id`, 16 hex digits, is the same in the logs of all who take part in a stream:
[correlate](../operations/correlate.md) puts them together.

Events at level `debug` are written with `--log-level debug`.

| field of any line | |
|---|---|
"""

STATES = f"""\
{GENERATED}

# Stream states

What a stream of ORP/1 goes through, from the table in `outrelay.lib.orp.fsm`. An input that has no
arrow from a state is an error there and leaves the state alone.

```mermaid
{{diagram}}```
"""


METRICS = f"""\
{GENERATED}

# Metrics

Every service shows its metrics at `/metrics` of its `--debug-listen` for Prometheus, at
`/debug/metrics` as JSON, and writes them into the file of `--metrics-dump`. Beside those below
there are `process_*` (CPU, memory, open files) and `python_gc_*`.

Labels take their values from small fixed sets: no agent, tenant or service is one.
"""

_SERVICES: Mapping[str, Callable[[CollectorRegistry], object]] = {
    "relay": RelayMetrics.on,
    "agent": AgentMetrics.on,
    "controller": ControllerMetrics.on,
}


def programs() -> list[click.Command]:
    """The console scripts of the package, by name."""
    scripts = distribution("outrelay").entry_points.select(group="console_scripts")
    return [script.load() for script in sorted(scripts, key=lambda each: each.name)]


def pages(commands: Sequence[click.Command]) -> dict[str, str]:
    """The pages of the reference: file name to text."""
    flags = [FLAGS, *(section for command in commands for section in _program(command))]
    metrics = [METRICS, *(_metric(*each) for each in declared_metrics())]
    return {
        "events.md": "\n".join(_events()),
        "flags.md": "\n".join(flags),
        "metrics.md": "\n".join(metrics),
        "stream-states.md": STATES.format(diagram=diagram()),
        **wire.pages(),
    }


def declared_metrics() -> list[tuple[Declaration, list[str]]]:
    """Every metric, and the services that have it."""
    found: dict[str, tuple[Declaration, list[str]]] = {}
    for service, declare in _SERVICES.items():
        catalogue = Catalogue()
        ProcessMetrics(catalogue)
        declare(catalogue)
        for each in catalogue.declared:
            found.setdefault(each.name, (each, []))[1].append(service)
    return list(found.values())


def _metric(metric: Declaration, services: Sequence[str]) -> str:
    labels = [f"- `{name}`: {meaning}" for name, meaning in metric.labels.items()]
    lines = [
        *(f"## {metric.name}", "", f"{metric.kind.capitalize()} of {_listed(services)}.", ""),
        *(metric.text, ""),
        *([*labels, ""] if labels else []),
        f"**What to do.** {metric.todo}",
    ]
    return "\n".join(lines) + "\n"


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _events() -> Iterator[str]:
    yield EVENTS + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in COMMON.items())
    for title, events in SECTIONS.items():
        yield f"## {title}\n\n| event | who, level | fields | |\n|---|---|---|---|"
        yield "\n".join(map(_event, events)) + "\n"


def _event(event: Event) -> str:
    who = f"{', '.join(event.who.split())}; {', '.join(event.levels.split())}"
    fields = " ".join(f"`{name}`" for name in event.names.split())
    return f"| {event.phrase} | {who} | {fields} | {event.meaning} |"


def _program(program: click.Command) -> Iterator[str]:
    ctx = click.Context(program, info_name=program.name, **program.context_settings)
    yield from _command(program, ctx, heading="##")


def _command(command: click.Command, ctx: click.Context, *, heading: str) -> Iterator[str]:
    """A section for ``command`` and one for each of its subcommands."""
    lines = [f"{heading} {ctx.command_path}", "", _text(command), "", f"    {_usage(command, ctx)}"]
    rows = [_row(param, ctx) for param in command.params if _is_shown(param)]
    if rows:
        lines += ["", "| flag | variable | default | |", "|---|---|---|---|", *rows]
    yield "\n".join(lines) + "\n"
    if isinstance(command, ServiceCommand):
        for name, other in command.others.items():
            other_ctx = click.Context(
                other, info_name=f"{ctx.info_name} {name}", **other.context_settings
            )
            yield from _command(other, other_ctx, heading="###")
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            inner_ctx = click.Context(inner, info_name=name, parent=ctx)
            yield from _command(inner, inner_ctx, heading="###")


def _text(command: click.Command) -> str:
    return inspect.cleandoc((command.help or "").split("\f")[0]).replace("\b\n", "").strip()


def _usage(command: click.Command, ctx: click.Context) -> str:
    return " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])


def _is_shown(param: click.Parameter) -> bool:
    return isinstance(param, click.Option) and not param.hidden and param.name != "help"


def _row(param: click.Parameter, ctx: click.Context) -> str:
    assert isinstance(param, click.Option)
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    value = "" if param.is_flag else f" {param.make_metavar(ctx)}"
    repeated = " (may be repeated)" if param.multiple else ""
    cells = (names + value, variable(param, ctx), default_of(param), f"{param.help}{repeated}")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def variable(param: click.Option, ctx: click.Context) -> str:
    """The variable that stands for a flag, between backquotes; empty where there is none."""
    only_acts = param.is_flag and not param.expose_value
    if ctx.auto_envvar_prefix is None or only_acts or param.name is None:
        return ""
    return f"`{ctx.auto_envvar_prefix}_{param.name.upper()}`"


def default_of(param: click.Option) -> str:
    """The default as one would write it; nothing for flags that are off and values unset."""
    default = param.to_info_dict()["default"]
    if default in (None, False, "", ()) or param.required:
        return "required" if param.required else ""
    values = default if isinstance(default, list | tuple) else [default]
    return f"`{','.join(str(value) for value in values)}`"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when a page is not current.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=REFERENCE,
    help="Folder of the pages.",
)
def main(check: bool, out: Path) -> None:
    """Write docs/reference from the code."""
    stale = []
    for name, text in pages(programs()).items():
        path = out / name
        if check and (not path.exists() or path.read_text() != text):
            stale.append(name)
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        names = ", ".join(stale)
        raise click.ClickException(f"{out}: not current: {names}; run `make docs-reference`")


if __name__ == "__main__":
    main()
