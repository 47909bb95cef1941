"""The doctor's round: from the files to the relays, each finding printed as it is made.

Exit codes: 0 an agent with these flags works from here, 1 something keeps it from working,
78 its files or flags cannot be used at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import click

from outrelay.agent.app import load_identity
from outrelay.agent.carriers import open_carriers
from outrelay.agent.doctor import local, nat, opens, relays
from outrelay.agent.doctor.findings import (
    Finding,
    as_json,
    as_text,
    has_failed,
    of_alternatives,
)
from outrelay.agent.options import AgentOptions
from outrelay.agent.session.proof import Proof
from outrelay.lib.identity.certs import Credentials, Trust, load_trust


async def run(options: AgentOptions, log_format: str) -> int:
    """Examine what an agent with these options would meet; the exit code.

    Args:
        options: Those the agent runs with.
        log_format: ``text`` or ``json``: how findings are printed.

    Raises:
        ConfigError: A file cannot be used.
    """
    show = as_json if log_format == "json" else as_text
    findings = []
    async for finding in examine(options):
        findings.append(finding)
        click.echo(show(finding))
    return 1 if has_failed(findings) else 0


async def examine(options: AgentOptions) -> AsyncIterator[Finding]:
    """Everything the doctor finds, in the order in which people look for it."""
    credentials, trust = load_identity(options), load_trust(options.ca)
    yield local.certificate(credentials, trust, local.now())
    for finding in local.key_file(options.key):
        yield finding
    for finding in await _relays(options, credentials, trust):
        yield finding
    for finding in await asyncio.gather(*map(local.backend, options.expose)):
        yield finding


async def _relays(options: AgentOptions, credentials: Credentials, trust: Trust) -> list[Finding]:
    async with open_carriers(options, credentials, trust) as carriers:
        route = carriers.ways.route
        tried = await asyncio.gather(
            *(
                relays.check(
                    relays.Way(
                        endpoint=each,
                        route=route(each),
                        server_name=options.server_name,
                    ),
                    credentials.identity,
                )
                for each in options.endpoints
            )
        )
        opened = []
        if options.opens:
            proof = Proof(credentials.expires)
            opened = await opens.check(options, credentials.identity, proof, carriers.ways)
    answers = [answer for each in tried for answer in each]
    found = of_alternatives([answer.finding for answer in answers])
    if clock := relays.clock(answers):
        found.append(clock)
    found += nat.judge(answer.vantage for answer in answers if answer.vantage)
    return found + opened
