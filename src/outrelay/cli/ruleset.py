"""The file that holds the whole rule set of a tenant, and how two sets differ.

    tenant: acme
    rules:
    - caller: outrelay://acme/agent/*
      target: db
      decision: allow

Also known: ``method``, ``expires`` (a time with its zone), ``p2p_mode``, ``relay_mode``.
A rule in a file is its content: it has no id, and two sets differ by what their rules say.
The text is read as YAML's nodes, not as Python's values: they know their lines, and a
target that reads ``yes`` or ``007`` stays what was written.

Source: commands.md, policy apply.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import yaml

from outrelay.cli.output import printable, word
from outrelay.lib.control.v1 import policy_pb2 as pb
from outrelay.lib.errors import ConfigError

DECISIONS = {"allow": pb.DECISION_ALLOW, "deny": pb.DECISION_DENY}
P2P_MODES = {
    "allowed": pb.P2P_ALLOWED,
    "forbidden": pb.P2P_FORBIDDEN,
    "required": pb.P2P_REQUIRED,
}
RELAY_MODES = {"splice": pb.RELAY_MODE_SPLICE, "forward": pb.RELAY_MODE_FORWARD}

LONGEST_TEXT = 1024
"""Characters of a pattern; the controller takes no more."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LATEST = 2**63 - 1
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """What a file says.

    Args:
        tenant: Whose rules they are; empty when the file leaves it open.
        rules: All of them, without ids.
    """

    tenant: str
    rules: tuple[pb.PolicyRule, ...]


@dataclass(slots=True, kw_only=True)
class Difference:
    """How the rules there are become the rules that are wanted.

    Args:
        result: The wanted rules in their order; those that were there have their ids.
        added: Those that were not.
        removed: Those there are that nobody wants.
    """

    result: list[pb.PolicyRule] = field(default_factory=list)
    added: list[pb.PolicyRule] = field(default_factory=list)
    removed: list[pb.PolicyRule] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """How many rules stay as they are."""
        return len(self.result) - len(self.added)


def difference(current: Iterable[pb.PolicyRule], wanted: Iterable[pb.PolicyRule]) -> Difference:
    """How ``current`` becomes ``wanted``; of rules that say the same the oldest stay."""
    there: defaultdict[bytes, deque[pb.PolicyRule]] = defaultdict(deque)
    for rule in current:
        there[_content(rule)].append(rule)
    found = Difference()
    for rule in wanted:
        if same := there[_content(rule)]:
            found.result.append(same.popleft())
        else:
            found.result.append(rule)
            found.added.append(rule)
    found.removed = [rule for rules in there.values() for rule in rules]
    return found


def dump(tenant: str, rules: Iterable[pb.PolicyRule]) -> str:
    """The file that says these rules."""
    content = {"tenant": tenant, "rules": [_record(rule) for rule in rules]}
    return yaml.safe_dump(content, sort_keys=False, width=10_000)


def line_of(rule: pb.PolicyRule) -> str:
    """A rule in one line, for people."""
    record = _record(rule)
    head = f"{record.pop('decision')} {record.pop('caller')} -> {record.pop('target')}"
    return printable(", ".join([head, *(f"{key} {value}" for key, value in record.items())]))


def parse(text: bytes, *, source: str) -> RuleSet:
    """What a file says.

    Args:
        text: What is in the file.
        source: What it is called in messages.

    Raises:
        ConfigError: It cannot be used; the message names the line.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        where = f"{source}:{place.line + 1}" if place else source
        raise ConfigError(where, f"is no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(source, "is no YAML: " + " ".join(str(error).split())) from error
    except RecursionError as error:
        raise ConfigError(source, "is nested too deeply") from error
    if root is None:
        raise ConfigError(source, "is empty", "write `rules: []` to remove every rule")
    return _Reader(source).rule_set(root)


class _Reader:
    """Reads nodes; every fault names the line of its node."""

    def __init__(self, source: str) -> None:
        self._source = source

    def rule_set(self, root: yaml.Node) -> RuleSet:
        entries = self._entries(root, ("tenant", "rules"), needed=("rules",))
        rules = entries["rules"]
        if not isinstance(rules, yaml.SequenceNode):
            raise self._fault(rules, "rules: must be a list")
        tenant = self._text("tenant", entries["tenant"]) if "tenant" in entries else ""
        return RuleSet(tenant=tenant, rules=tuple(self._rule(node) for node in rules.value))

    def _rule(self, node: yaml.Node) -> pb.PolicyRule:
        entries = self._entries(node, _FIELDS, needed=("caller", "target", "decision"))
        rule = pb.PolicyRule()
        for key, value in entries.items():
            text = self._text(key, value)
            name, read = _FIELDS[key]
            try:
                setattr(rule, name, read(text))
            except ValueError as error:
                raise self._fault(value, f"{key}: {error}") from error
        return rule

    def _entries(
        self, node: yaml.Node, known: Iterable[str], *, needed: Sequence[str]
    ) -> dict[str, yaml.Node]:
        """A mapping by its keys; those without a value count as absent."""
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(node, f"must be a mapping of {', '.join(known)}")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            if name not in known:
                raise self._fault(key, f"unknown key {name!r}", f"known are {', '.join(known)}")
            if name in found:
                raise self._fault(key, f"{name} is there twice")
            found[name] = value
        given = {name: value for name, value in found.items() if value.tag != _NULL}
        for name in needed:
            if name not in given:
                raise self._fault(node, f"{name} is missing")
        return given

    def _text(self, key: str, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._fault(node, f"{key}: must be one text")
        text = str(node.value)
        if len(text) > LONGEST_TEXT:
            fault = f"has {len(text)} characters, at most {LONGEST_TEXT} are allowed"
            raise self._fault(node, f"{key}: {fault}")
        if not text.isprintable():
            raise self._fault(node, f"{key}: must be printable text in one line")
        return text

    def _fault(self, node: yaml.Node, fault: str, fix: str = "") -> ConfigError:
        return ConfigError(f"{self._source}:{node.start_mark.line + 1}", fault, fix)


def _given(text: str) -> str:
    if not text:
        raise ValueError("must be given")
    return text


def _one_of(choices: Mapping[str, int]) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text not in choices:
            raise ValueError(f"{text!r:.80} is none of {', '.join(choices)}")
        return choices[text]

    return read


def _unix_ms(text: str) -> int:
    """Milliseconds since the epoch of a time; very late ones are written as that number."""
    if text.isdecimal() and len(text) <= len(str(_LATEST)):
        return min(int(text), _LATEST)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r:.80} is no time; write 2030-12-31T23:59:59Z") from None
    if time.tzinfo is None:
        raise ValueError(f"{text} names no time zone; write 2030-12-31T23:59:59Z")
    return max(1, (time - _EPOCH) // _MS)


def _time(unix_ms: int) -> str:
    try:
        time = _EPOCH + unix_ms * _MS
    except OverflowError:
        return str(unix_ms)
    spec = "milliseconds" if unix_ms % 1000 else "seconds"
    return time.isoformat(timespec=spec).replace("+00:00", "Z")


_FIELDS: dict[str, tuple[str, Callable[[str], object]]] = {
    "caller": ("caller_pattern", _given),
    "target": ("target_pattern", _given),
    "method": ("method_pattern", str),
    "decision": ("decision", _one_of(DECISIONS)),
    "expires": ("expires_unix_ms", _unix_ms),
    "p2p_mode": ("p2p_mode", _one_of(P2P_MODES)),
    "relay_mode": ("relay_mode", _one_of(RELAY_MODES)),
}
"""Key in the file -> field of the message, and how its text is read."""


def _record(rule: pb.PolicyRule) -> dict[str, str]:
    record = {"caller": rule.caller_pattern, "target": rule.target_pattern}
    if rule.method_pattern:
        record["method"] = rule.method_pattern
    record["decision"] = word(pb.Decision.DESCRIPTOR, rule.decision)
    if rule.expires_unix_ms:
        record["expires"] = _time(rule.expires_unix_ms)
    if rule.p2p_mode:
        record["p2p_mode"] = word(pb.P2PMode.DESCRIPTOR, rule.p2p_mode)
    if rule.relay_mode:
        record["relay_mode"] = word(pb.RelayMode.DESCRIPTOR, rule.relay_mode)
    return record


def _content(rule: pb.PolicyRule) -> bytes:
    """What two rules that say the same have in common."""
    content = pb.PolicyRule()
    content.CopyFrom(rule)
    for name in ("id", "tenant", "created_at_unix_ms"):
        content.ClearField(name)
    return content.SerializeToString(deterministic=True)
