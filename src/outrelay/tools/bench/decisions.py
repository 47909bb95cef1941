"""What a policy decision costs a relay that holds many rules.

A decision is both sides of it, as the relay takes it for every stream: may the caller reach
the service, and does the provider accept the caller. It *hits* when both answers are in the
cache, and *misses* when neither is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from outrelay.lib.policy import Decision, PolicySet, Rule

_TENANT = "acme"
_CALLERS = 100
_TRIES = 3
_SEARCHED_EVERY, _GLOB_EVERY, _CALLEE_EVERY = 200, 5, 10


def rules(count: int) -> Iterator[Rule]:
    """As many rules, of every kind: exact names, globs at one end and both, callee-side."""
    for number in range(count):
        target, caller = f"service-{number}", f"outrelay://{_TENANT}/agent/*"
        if number % _SEARCHED_EVERY == 0:
            target = f"*middle-{number}*"  # nothing to file it under: tried at every miss
        elif number % _GLOB_EVERY == 0:
            target = f"service-{number}-*"
        elif number % _CALLEE_EVERY == 1:
            target, caller = caller, _agent(number)
        yield Rule(
            id=str(number),
            tenant=_TENANT,
            caller_pattern=caller,
            target_pattern=target,
            decision=Decision.ALLOW,
            created_ms=number,
        )


def measure(rule_count: int, times: int) -> tuple[list[float], list[float]]:
    """Seconds of ``times`` decisions that miss, and of as many that hit.

    Each is the best of a few tries: what others do to the machine is not its cost.
    """
    policies = PolicySet(rules(rule_count))
    questions = [
        (_agent(number % _CALLERS), f"service-{number % rule_count}", _agent(number))
        for number in range(times)
    ]
    misses = [
        min(_seconds(policies, *question, method=f"{n}-{try_}") for try_ in range(_TRIES))
        for n, question in enumerate(questions)
    ]
    few = questions[:_CALLERS]
    for question in few:
        _seconds(policies, *question, method="")
    hits = [
        min(_seconds(policies, *few[n % len(few)], method="") for _ in range(_TRIES))
        for n in range(times)
    ]
    return misses, hits


def _agent(number: int) -> str:
    return f"outrelay://{_TENANT}/agent/{number:08x}-0000-4000-8000-000000000000"


def _seconds(policies: PolicySet, caller: str, target: str, provider: str, *, method: str) -> float:
    start = time.perf_counter()
    policies.decide(tenant=_TENANT, caller=caller, target=target, method=method, now_ms=1)
    policies.decide_callee(
        tenant=_TENANT, provider=provider, caller=caller, method=method, now_ms=1
    )
    return time.perf_counter() - start
