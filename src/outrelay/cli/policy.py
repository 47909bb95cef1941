"""``outrelay-cli policy``: who may call what.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import time

import click

from outrelay.cli.apply import apply
from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import (
    TABLE,
    WIDE,
    YAML,
    Column,
    moment,
    print_record,
    print_rows,
    print_table,
    printable,
    record_of,
    word,
)
from outrelay.cli.plain import explained
from outrelay.cli.ruleset import DECISIONS, P2P_MODES, RELAY_MODES, dump
from outrelay.cli.session import STREAM_TIMEOUT, TIMEOUT, Session
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.errors import ControlError
from outrelay.lib.options import DURATION

COLUMNS: tuple[Column[pb.PolicyRule], ...] = (
    Column(title="ID", text=lambda rule: rule.id, whole=True),
    Column(
        title="DECISION",
        text=lambda rule: word(pb.Decision.DESCRIPTOR, rule.decision),
        whole=True,
    ),
    Column(title="CALLER", text=lambda rule: rule.caller_pattern),
    Column(title="TARGET", text=lambda rule: rule.target_pattern),
    Column(title="METHOD", text=lambda rule: rule.method_pattern),
    Column(
        title="P2P",
        text=lambda rule: word(pb.P2PMode.DESCRIPTOR, rule.p2p_mode) if rule.p2p_mode else "",
        least=WIDE,
    ),
    Column(
        title="RELAY",
        text=lambda rule: word(pb.RelayMode.DESCRIPTOR, rule.relay_mode) if rule.relay_mode else "",
        least=WIDE,
    ),
    Column(
        title="EXPIRES",
        text=lambda rule: moment(rule.expires_unix_ms) if rule.expires_unix_ms else "",
    ),
)


@click.group()
def policy() -> None:
    """Who may call what.

    Without a rule that allows it a call is denied. Of the rules that match, the most
    specific decides: exact target before pattern, then the longer target, then the caller,
    then the method; between equals, deny.
    """


@policy.command(
    epilog=examples(
        """
        outrelay-cli policy add --caller '*' --target db --decision allow
        outrelay-cli policy add --caller 'outrelay://acme/agent/*' --target 'web-*' \\
            --decision deny --expires 24h
        """
    )
)
@click.option("--caller", required=True, help="Agents that call; * matches any characters.")
@click.option("--target", required=True, help="Services they call; * matches any characters.")
@click.option("--method", default="", show_default="all", help="Methods of the calls.")
@click.option("--decision", type=click.Choice(list(DECISIONS)), required=True, help="What it says.")
@click.option("--expires", type=DURATION, show_default="never", help="How long it holds: 24h, 90d.")
@click.option(
    "--p2p-mode",
    type=click.Choice(list(P2P_MODES)),
    default="allowed",
    help="Whether the agents may, must not or must talk directly.",
)
@click.option(
    "--relay-mode",
    type=click.Choice(list(RELAY_MODES)),
    default="splice",
    help="Whether the relay splices the streams or forwards them end-to-end encrypted.",
)
@calls_controller
async def add(
    session: Session,
    *,
    caller: str,
    target: str,
    method: str,
    decision: str,
    expires: float | None,
    p2p_mode: str,
    relay_mode: str,
) -> None:
    """Add a rule and print its id.

    A rule whose target is an outrelay:// pattern speaks for a provider: --caller is the
    provider, --target the agents that may call it.
    """
    rule = pb.PolicyRule(
        tenant=session.required_tenant,
        caller_pattern=caller,
        target_pattern=target,
        method_pattern=method,
        decision=DECISIONS[decision],
        expires_unix_ms=0 if expires is None else int((time.time() + expires) * 1000),
        p2p_mode=P2P_MODES[p2p_mode],
        relay_mode=RELAY_MODES[relay_mode],
    )
    async with session.channel() as channel:
        request = pb.AddPolicyRequest(rule=rule)
        response = await PolicyStub(channel).AddPolicy(request, timeout=TIMEOUT)
    if session.output == TABLE:
        click.echo(response.id)
    else:
        print_record(session.output, {"id": response.id})


@policy.command(
    name="list",
    epilog=examples(
        """
        outrelay-cli policy list --tenant acme
        outrelay-cli policy list --output yaml > rules.yaml
        """
    ),
)
@calls_controller
async def list_(session: Session) -> None:
    """Show the rules of a tenant, oldest first; as YAML, the file that `apply` takes."""
    tenant = session.required_tenant
    async with session.channel() as channel:
        request = pb.ListPoliciesRequest(tenant=tenant)
        response = await PolicyStub(channel).ListPolicies(request, timeout=STREAM_TIMEOUT)
    if session.output == YAML:
        click.echo(dump(tenant, response.rules), nl=False)
    else:
        print_rows(session.output, COLUMNS, response.rules, record_of)


@policy.command(epilog=examples("outrelay-cli policy remove --id $ID"))
@click.option("--id", "rule_id", required=True, help="The rule's id, as add and list print it.")
@calls_controller
async def remove(session: Session, *, rule_id: str) -> None:
    """Remove a rule; what it alone allowed is denied from now on."""
    tenant = session.required_tenant
    async with session.channel() as channel:
        request = pb.RemovePolicyRequest(tenant=tenant, id=rule_id)
        response = await PolicyStub(channel).RemovePolicy(request, timeout=TIMEOUT)
    if not response.removed:
        fault = f"{tenant} has no policy rule {rule_id}; see: outrelay-cli policy list"
        raise ControlError("NOT_FOUND", fault, controller=session.controller)


def _of_rule(column: Column[pb.PolicyRule]) -> Column[pb.ConsideredRule]:
    return Column(
        title=column.title,
        text=lambda each: column.text(each.rule),
        whole=column.whole,
        least=column.least,
    )


EXPLAINED: tuple[Column[pb.ConsideredRule], ...] = (
    Column(title="", text=lambda each: "*" if each.decides else ""),
    *map(_of_rule, COLUMNS),
    Column(title="WHY", text=lambda each: each.why),
)


@policy.command(
    epilog=examples(
        """
        outrelay-cli policy explain --caller outrelay://acme/agent/$UUID --target db
        outrelay-cli policy explain --caller $CALLER --target db --method GET --provider $PROVIDER
        """
    )
)
@click.option("--caller", required=True, help="URI of the agent that would call.")
@click.option("--target", required=True, help="Service it would call.")
@click.option("--method", default="", show_default="none", help="Method of the call.")
@click.option("--provider", default="", help="URI of a provider whose side is asked too.")
@calls_controller
async def explain(
    session: Session, *, caller: str, target: str, method: str, provider: str
) -> None:
    """Tell what would be decided about a call, and why: every rule, those that decide marked *."""
    request = pb.ExplainRequest(
        tenant=session.required_tenant,
        caller=caller,
        target=target,
        method=method,
        provider=provider,
    )
    async with session.channel() as channel:
        answer = await explained(PolicyStub(channel), request)
    if session.output != TABLE:
        print_record(session.output, _explanation(answer))
        return
    decision = word(pb.Decision.DESCRIPTOR, answer.decision)
    click.echo(printable(f"{decision}: {answer.reason}"))
    if answer.considered:
        print_table(EXPLAINED, answer.considered)


def _explanation(answer: pb.ExplainResponse) -> dict[str, object]:
    return {
        "decision": word(pb.Decision.DESCRIPTOR, answer.decision),
        "matched_rule_id": answer.matched_rule_id,
        "reason": answer.reason,
        "considered": [
            {
                "rule": record_of(each.rule),
                "decides": each.decides,
                "why": each.why,
                "callee_side": each.callee_side,
            }
            for each in answer.considered
        ],
    }


policy.add_command(apply)
