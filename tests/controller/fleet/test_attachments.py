"""Attachments without a wire: what they hold, and what is left of them."""

from __future__ import annotations

import asyncio

import pytest

from outrelay.controller.fleet import attachments as module
from outrelay.controller.fleet.attachments import PENDING_COMMANDS, Attachments
from outrelay.lib.control.v1 import fleet_pb2 as pb
from outrelay.lib.errors import ControlError
from outrelay.lib.tasks import beside

KILL = pb.RelayCommand(kill=pb.KillStreamRequest())


async def test_a_relay_that_takes_no_commands_loses_its_attachment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.0)
    attachments = Attachments()
    with attachments.attached("r1") as attachment:
        for _ in range(PENDING_COMMANDS + 1):
            (answer,) = await attachments.ask(KILL)
            assert not answer.complete
        with pytest.raises(ControlError, match="fell more than 64") as raised:
            await anext(attachment.commands())
        assert raised.value.status == "RESOURCE_EXHAUSTED"


async def test_questions_at_the_same_time_have_answers_of_their_own() -> None:
    attachments = Attachments()

    async def answer_backwards() -> None:
        commands = attachment.commands()
        asked = [await anext(commands) for _ in range(3)]
        for command in reversed(asked):
            report = pb.RelayReport(request_id=command.request_id, last=True)
            report.killed = int(command.kill.stream_id)
            attachment.take(report)

    with attachments.attached("r1") as attachment:
        async with beside(answer_backwards(), name="relay"):
            answers = await asyncio.gather(
                *(
                    attachments.ask(pb.RelayCommand(kill=pb.KillStreamRequest(stream_id=str(n))))
                    for n in range(3)
                )
            )
    assert [answer.killed for (answer,) in answers] == [0, 1, 2]
    assert await attachments.ask(KILL) == []


async def test_a_controller_that_stops_ends_them_all_and_takes_none() -> None:
    attachments = Attachments()
    with attachments.attached("r1") as attachment:
        attachments.close()
        with pytest.raises(ControlError, match="is stopping"):
            await anext(attachment.commands())
        with pytest.raises(ControlError, match="is stopping"), attachments.attached("r2"):
            pass
