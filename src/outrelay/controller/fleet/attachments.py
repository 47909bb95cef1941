"""The relays that are attached, and how they are asked.

Words: an *attachment* is one Attach call of a relay. A *command* goes out on it; the reports
with the command's request id are its *answer*, the last of them says that it is.

Invariants: a relay has one attachment, the newest. A relay holds up nobody: one that does
not answer in time is *silent*, what it says later is dropped, and one that takes no
commands any more loses its attachment. An answer holds no more streams or agents than were
asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from outrelay.controller.clock import now_ms
from outrelay.controller.feed import Subscription
from outrelay.lib.control.v1 import fleet_pb2 as pb
from outrelay.lib.control.v1 import registry_pb2
from outrelay.lib.errors import ControlError
from outrelay.lib.tasks import spawn

ANSWER_TIMEOUT = 2.0
"""Seconds a relay has to answer a command."""

MOST_RELAYS = 4096
PENDING_COMMANDS = 64


@dataclass(slots=True, kw_only=True)
class Answer:
    """What one relay answers.

    Args:
        relay_id: Which relay.
        most: How many streams, or agents, are kept; what exceeds it is only noted.
    """

    relay_id: str
    most: int
    streams: list[pb.StreamInfo] = field(default_factory=list)
    agents: list[registry_pb2.AgentInfo] = field(default_factory=list)
    status: pb.RelayStatus = field(default_factory=pb.RelayStatus)
    draining: registry_pb2.DrainRelayResponse | None = None
    killed: int = 0
    complete: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, report: pb.RelayReport) -> None:
        """Add a report to the answer."""
        self.streams += report.streams[: self.most - len(self.streams)]
        self.agents += report.agents[: self.most - len(self.agents)]
        self.status.MergeFrom(report.status)
        if report.HasField("draining"):
            self.draining = report.draining
        self.killed += report.killed
        if report.last:
            self.complete = True
            self.over.set()


class Attachment:
    """One relay on the line; make it with ``Attachments.attached``."""

    def __init__(self, relay_id: str) -> None:
        self.relay_id = relay_id
        self.since_ms = now_ms()
        self._commands: Subscription[pb.RelayCommand] = Subscription(
            lambda _: True, PENDING_COMMANDS
        )
        self._answers: dict[int, Answer] = {}
        self._request_ids = count(1)

    def commands(self) -> AsyncIterator[pb.RelayCommand]:
        """What to send to the relay, as it comes.

        Raises:
            ControlError: The attachment is at its end.
        """
        return aiter(self._commands)

    def take(self, report: pb.RelayReport) -> None:
        """Take a report of the relay; one that nobody waits for is dropped."""
        if answer := self._answers.get(report.request_id):
            answer.take(report)

    async def ask(self, command: pb.RelayCommand, *, most: int = 0) -> Answer:
        """What the relay answers in time; not complete when it does not."""
        answer = Answer(relay_id=self.relay_id, most=most)
        request_id = next(self._request_ids)
        self._answers[request_id] = answer
        own = pb.RelayCommand()
        own.CopyFrom(command)
        own.request_id = request_id
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                self._commands.offer(own)
                await answer.over.wait()
        except TimeoutError:
            pass
        finally:
            del self._answers[request_id]
        return answer

    def end(self, reason: ControlError) -> None:
        """Let the call end with ``reason``; who waits for an answer waits no longer."""
        self._commands.end(reason)
        for answer in self._answers.values():
            answer.over.set()


class Attachments:
    """All relays on the line."""

    def __init__(self) -> None:
        self._attached: dict[str, Attachment] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._attached)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(self._attached.values())

    def find(self, relay_id: str) -> Attachment | None:
        """The attachment of a relay, if it is on the line."""
        return self._attached.get(relay_id)

    @contextmanager
    def attached(self, relay_id: str) -> Iterator[Attachment]:
        """A relay is on the line until the block ends; an earlier attachment of it ends now.

        Raises:
            ControlError: UNAVAILABLE: the controller stops. RESOURCE_EXHAUSTED: there are too
                many relays.
        """
        if self._closed:
            raise _stopping()
        if relay_id not in self._attached and len(self._attached) >= MOST_RELAYS:
            text = f"{MOST_RELAYS} relays are attached to this controller already"
            raise ControlError("RESOURCE_EXHAUSTED", text)
        attachment = Attachment(relay_id)
        if earlier := self._attached.get(relay_id):
            earlier.end(ControlError("ABORTED", f"relay {relay_id} has attached once more"))
        self._attached[relay_id] = attachment
        try:
            yield attachment
        finally:
            attachment.end(_stopping())
            if self._attached.get(relay_id) is attachment:
                del self._attached[relay_id]

    async def ask(self, command: pb.RelayCommand, *, most: int = 0) -> list[Answer]:
        """Ask all relays at once.

        Args:
            command: What to ask; its request id is given here.
            most: How many streams, or agents, each may answer with.
        """
        async with asyncio.TaskGroup() as group:
            asked = [
                spawn(group, each.ask(command, most=most), name=f"fleet: ask {each.relay_id}")
                for each in self._attached.values()
            ]
        return [task.result() for task in asked]

    def close(self) -> None:
        """End every attachment, now and later: relays look for another controller."""
        self._closed = True
        for attachment in self._attached.values():
            attachment.end(_stopping())


def silent(answers: Iterable[Answer]) -> list[str]:
    """The relays that did not answer in time."""
    return sorted(answer.relay_id for answer in answers if not answer.complete)


def _stopping() -> ControlError:
    return ControlError("UNAVAILABLE", "the controller is stopping")
