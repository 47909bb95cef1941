"""The control contract as other implementations have it: none of our extensions.

Made from the tables below alone, so that it also tells when our own ``.proto`` files leave
the contract. Fields that are not here are unknown to these messages, as they are to plain
peers: kept on no way, shown by ``unknown``.

Source: control-plane.md, the tables of Registry, Policy and Audit without what is **ext**.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

PACKAGE = "outrelay.control.v1"
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "bool": _Field.TYPE_BOOL,
    # Enums travel as int32.
    "enum": _Field.TYPE_INT32,
}

EVENT_KIND_REGISTER, EVENT_KIND_DEREGISTER = 1, 2
DECISION_ALLOW, DECISION_DENY = 1, 2
POLICY_KIND_ADDED, POLICY_KIND_REMOVED, POLICY_KIND_SNAPSHOT_END = 1, 2, 3

MESSAGES = {
    "RegisterServiceRequest": "tenant service_name agent_uri relay_id local_addr",
    "RegisterServiceResponse": "service_id",
    "DeregisterAgentRequest": "tenant agent_uri relay_id",
    "DeregisterAgentResponse": "",
    "ResolveRequest": "tenant service_name caller_region",
    "Provider": "service_id agent_uri relay_id local_addr updated_at_unix_ms:int64 relay_endpoint",
    "ResolveResponse": "providers:*Provider",
    "WatchRequest": "tenant service_names:*string",
    "WatchEvent": "kind:enum provider:Provider service_name",
    "UpsertRelayRequest": "id region endpoint",
    "UpsertRelayResponse": "",
    "PolicyRule": "id tenant caller_pattern target_pattern method_pattern decision:enum"
    " expires_unix_ms:int64 created_at_unix_ms:int64 p2p_mode:enum relay_mode:enum",
    "AddPolicyRequest": "rule:PolicyRule",
    "AddPolicyResponse": "id",
    "RemovePolicyRequest": "tenant id",
    "RemovePolicyResponse": "removed:bool",
    "ListPoliciesRequest": "tenant",
    "ListPoliciesResponse": "rules:*PolicyRule",
    "WatchPoliciesRequest": "tenant",
    "PolicyEvent": "kind:enum rule:PolicyRule removed_id",
    "AuditEvent": "ts_unix_ms:int64 tenant caller target method decision:enum reason stream_id",
    "RecordAuditRequest": "event:AuditEvent",
    "RecordAuditResponse": "",
    "QueryAuditRequest": "tenant caller target since_unix_ms:int64 limit:int32",
}
"""Fields in the order of their numbers, from 1; text unless it says otherwise; * is repeated."""

RPCS = {
    "Registry/RegisterService": ("RegisterServiceRequest", "RegisterServiceResponse"),
    "Registry/DeregisterAgent": ("DeregisterAgentRequest", "DeregisterAgentResponse"),
    "Registry/Resolve": ("ResolveRequest", "ResolveResponse"),
    "Registry/Watch": ("WatchRequest", "*WatchEvent"),
    "Registry/UpsertRelay": ("UpsertRelayRequest", "UpsertRelayResponse"),
    "Policy/AddPolicy": ("AddPolicyRequest", "AddPolicyResponse"),
    "Policy/RemovePolicy": ("RemovePolicyRequest", "RemovePolicyResponse"),
    "Policy/ListPolicies": ("ListPoliciesRequest", "ListPoliciesResponse"),
    "Policy/Watch": ("WatchPoliciesRequest", "*PolicyEvent"),
    "Audit/Record": ("RecordAuditRequest", "RecordAuditResponse"),
    "Audit/Query": ("QueryAuditRequest", "*AuditEvent"),
}
"""Request and response; * is a stream of them."""


def _build() -> Mapping[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="plain_contract.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields.split(), 1):
            field, _, kind = text.partition(":")
            repeated, kind = kind.startswith("*"), kind.lstrip("*") or "string"
            added = message.field.add(name=field, number=number)
            added.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind in _SCALARS:
                added.type = _SCALARS[kind]
            else:
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()  # a world of its own: ours have the same names
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in MESSAGES
    }


CLASSES = _build()
"""The messages, by name."""


def make(name: str, **fields: object) -> Message:
    """A message of the contract."""
    return CLASSES[name](**fields)


def unknown(message: Message) -> set[int]:
    """Numbers of the fields in ``message`` and all it holds that the contract does not have."""
    fields = UnknownFieldSet(message)
    found = {fields[place].field_number for place in range(len(fields))}
    for field, value in message.ListFields():
        if field.message_type:
            for each in value if isinstance(value, list) or hasattr(value, "append") else [value]:
                found |= unknown(each)
    return found
