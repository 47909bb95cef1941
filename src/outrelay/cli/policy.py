"""``outrelay-cli policy``: who may call what.

Source: commands.md, outrelay-cli.
"""

from __future__ import annotations

import time

import click

from outrelay.cli.flags import calls_controller, examples
from outrelay.cli.output import Column, moment, print_json, print_table, record_of, word
from outrelay.cli.session import TIMEOUT, Session
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.control.v1.policy_pb2_grpc import PolicyStub
from outrelay.lib.errors import ControlError
from outrelay.lib.options import DURATION

DECISIONS = {"allow": pb.DECISION_ALLOW, "deny": pb.DECISION_DENY}
P2P_MODES = {
    "allowed": pb.P2P_ALLOWED,
    "forbidden": pb.P2P_FORBIDDEN,
    "required": pb.P2P_REQUIRED,
}
RELAY_MODES = {"splice": pb.RELAY_MODE_SPLICE, "forward": pb.RELAY_MODE_FORWARD}

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
        extra=True,
    ),
    Column(
        title="RELAY",
        text=lambda rule: word(pb.RelayMode.DESCRIPTOR, rule.relay_mode) if rule.relay_mode else "",
        extra=True,
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
    if session.output == "json":
        print_json({"id": response.id})
    else:
        click.echo(response.id)


@policy.command(name="list", epilog=examples("outrelay-cli policy list --tenant acme"))
@calls_controller
async def list_(session: Session) -> None:
    """Show the rules of a tenant, oldest first."""
    async with session.channel() as channel:
        request = pb.ListPoliciesRequest(tenant=session.required_tenant)
        response = await PolicyStub(channel).ListPolicies(request, timeout=TIMEOUT)
    if session.output == "json":
        for rule in response.rules:
            print_json(record_of(rule))
    else:
        print_table(COLUMNS, response.rules)


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
