"""Folding: whatever floods, every decision is counted, and few events come of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.control.v1 import audit_pb2 as audit
from outrelay.relay.audit import folding as folding_module
from outrelay.relay.audit.folding import HOLD, LUMPED, MOST_OF_CALLER, REJECT, Folding

NOW = 1000.0


class Room:
    """Which tenants have none."""

    def __init__(self) -> None:
        self.full: set[str] = set()

    def __call__(self, tenant: str) -> bool:
        return tenant not in self.full


def refusal(target: str = "db", *, caller: str = "a", tenant: str = "acme") -> audit.AuditEvent:
    return audit.AuditEvent(
        tenant=tenant, caller=caller, target=target, reason="403 no", event=REJECT, stream_id="1f"
    )


def registration(target: str, *, caller: str = "a") -> audit.AuditEvent:
    return audit.AuditEvent(tenant="acme", caller=caller, target=target, method="REGISTER")


def times(event: audit.AuditEvent) -> int:
    found = re.search(r"\((\d+) times\)$", event.reason)
    return int(found[1]) if found else 1


def counts(events: Iterable[audit.AuditEvent]) -> dict[tuple[str, str], int]:
    return {(event.caller, event.target): times(event) for event in events}


def test_equal_events_of_a_second_are_one_with_a_count() -> None:
    folding = Folding(Room())
    for offset in (0.0, 0.5, 0.9):
        folding.add(refusal(), NOW + offset)
    folding.add(refusal("web"), NOW + 0.5)
    assert folding.next_due() == NOW + HOLD
    assert not list(folding.due(NOW + 0.99))

    (event,) = folding.due(NOW + HOLD)
    assert (event.reason, event.stream_id) == ("403 no (3 times)", "1f")
    assert folding.next_due() == NOW + 0.5 + HOLD
    assert [each.reason for each in folding.due(NOW + 9)] == ["403 no"]
    assert folding.next_due() is None
    assert len(folding) == 0


def test_a_second_later_equal_events_are_another_one() -> None:
    folding = Folding(Room())
    folding.add(refusal(), NOW)
    assert len(list(folding.due(NOW + HOLD))) == 1
    folding.add(refusal(), NOW + HOLD)
    assert len(list(folding.due(NOW + 2 * HOLD))) == 1


def test_a_refused_and_an_allowed_registration_are_two() -> None:
    folding = Folding(Room())
    folding.add(registration("db"), NOW)
    refused = registration("db")
    refused.event = REJECT
    folding.add(refused, NOW)
    assert len(list(folding.due(NOW + HOLD))) == 2


def test_a_flood_of_different_refusals_is_lumped_and_costs_its_caller_alone() -> None:
    folding = Folding(Room())
    for number in range(1000):
        folding.add(refusal(f"s{number}", caller="bad"), NOW)
    folding.add(refusal(), NOW)
    for number in range(200):
        folding.add(registration(f"s{number}", caller="bad"), NOW)
    events = list(folding.due(NOW + HOLD))

    (lump,) = [event for event in events if event.reason.startswith(LUMPED)]
    assert times(lump) == 1000 - MOST_OF_CALLER
    assert (lump.caller, lump.target, lump.stream_id, lump.event) == ("bad", "", "", REJECT)
    assert ("a", "db") in counts(events)
    assert sum(event.method == "REGISTER" for event in events) == 200


def test_a_caller_has_all_its_refusals_again_in_the_next_second() -> None:
    folding = Folding(Room())
    for second in (NOW, NOW + HOLD):
        for number in range(MOST_OF_CALLER):
            folding.add(refusal(f"s{number}"), second)
        assert len(list(folding.due(second + HOLD))) == MOST_OF_CALLER


def test_many_callers_of_a_tenant_leave_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding_module, "MOST_HELD", 100)
    folding = Folding(Room())
    for number in range(200):
        folding.add(refusal(caller=f"bad-{number}", tenant="bad"), NOW)
    folding.add(refusal(), NOW)
    events = list(folding.due(NOW + HOLD))

    assert sum(event.tenant == "bad" and event.target == "db" for event in events) == 50
    assert sum(times(event) for event in events) == 201
    assert ("a", "db") in counts(events)


def test_lumps_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding_module, "MOST_LUMPS", 3)
    room = Room()
    folding = Folding(room)
    room.full.add("acme")
    for number in range(10):
        folding.add(refusal(caller=f"c{number}"), NOW)
    assert len(folding) == 4

    room.full.clear()
    assert counts(folding.due(NOW + HOLD)) == {
        ("c0", ""): 1,
        ("c1", ""): 1,
        ("c2", ""): 1,
        ("", ""): 7,
    }


def test_what_there_is_no_room_for_waits_as_a_count() -> None:
    room = Room()
    folding = Folding(room)
    for _ in range(3):
        folding.add(refusal("db"), NOW)
    folding.add(refusal(caller="o", tenant="other"), NOW)
    room.full.add("acme")
    assert counts(folding.due(NOW + HOLD)) == {("o", "db"): 1}
    folding.add(refusal("web"), NOW + HOLD)
    assert folding.next_due() == NOW + 2 * HOLD
    assert list(folding.due(NOW + 2 * HOLD)) == []
    assert folding.next_due() == NOW + 3 * HOLD

    room.full.clear()
    assert counts(folding.due(NOW + 3 * HOLD)) == {("a", ""): 4}


def test_room_that_is_taken_while_events_are_due_is_taken() -> None:
    room = Room()
    folding = Folding(room)
    for target in ("db", "web"):
        folding.add(refusal(target), NOW)
    for event in folding.due(NOW + HOLD):
        assert event.target == "db"
        room.full.add("acme")
    assert len(folding) == 1


def test_in_the_end_everything_comes_out_room_or_not() -> None:
    room = Room()
    folding = Folding(room)
    folding.add(refusal(), NOW)
    room.full.add("acme")
    folding.add(refusal("web"), NOW)
    folding.add(refusal("web"), NOW)
    assert counts(folding.all()) == {("a", "db"): 1, ("a", ""): 2}
    assert len(folding) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "due", "full", "room"]),
            st.integers(0, 3),
            st.integers(0, 300),
            st.floats(0, 2),
        ),
        max_size=200,
    )
)
def test_whatever_happens_every_decision_is_counted_once(
    steps: list[tuple[str, int, int, float]],
) -> None:
    room = Room()
    folding = Folding(room)
    now = NOW
    told = Counter[str]()
    taken = Counter[str]()
    for what, caller, target, later in steps:
        tenant = f"t{caller % 2}"
        if what == "add":
            told[tenant] += 1
            folding.add(refusal(f"s{target}", caller=f"c{caller}", tenant=tenant), now)
        elif what == "due":
            now += later
            for event in folding.due(now):
                assert room(event.tenant)
                taken[event.tenant] += times(event)
        elif what == "full":
            room.full.add(tenant)
        else:
            room.full.discard(tenant)
    for event in folding.all():
        taken[event.tenant] += times(event)
    assert +taken == +told
