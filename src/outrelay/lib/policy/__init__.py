"""Who may call what: the pure evaluation of policy rules.

Relay and controller decide with the same code. Two sides are asked about a call: the
*caller side* (may this caller reach this service?) and the *callee side* (does this
provider accept this caller?); ``Verdict.combined`` joins them.

Source: control-plane.md, Policy, Evaluation.
"""

from __future__ import annotations

from outrelay.lib.policy.evaluate import evaluate, evaluate_callee
from outrelay.lib.policy.explain import Considered, Explanation, explain
from outrelay.lib.policy.index import PolicySet
from outrelay.lib.policy.rule import REGISTER, Decision, P2PMode, RelayMode, Rule, Verdict

__all__ = [
    "REGISTER",
    "Considered",
    "Decision",
    "Explanation",
    "P2PMode",
    "PolicySet",
    "RelayMode",
    "Rule",
    "Verdict",
    "evaluate",
    "evaluate_callee",
    "explain",
]
