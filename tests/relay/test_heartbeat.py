"""The heartbeat: regular, at once when there is news, and the judge of the line."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.tasks import beside
from outrelay.relay.controller import Controller, follow
from outrelay.relay.directory import Directory
from outrelay.relay.directory_watch import DirectoryWatch
from outrelay.relay.edge.session import Roster
from outrelay.relay.heartbeat import MOST_SKEW, Heartbeat, skew_of
from outrelay.relay.registrations import Registrations
from tests.relay.fake_controller import fake_controller


class State:
    """What there is to tell."""

    draining = False

    def describe(self) -> registry.UpsertRelayRequest:
        return registry.UpsertRelayRequest(
            id="r1", region="local", endpoint="127.0.0.1:7443", draining=self.draining
        )


async def test_it_beats_and_beats_again(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        heartbeat = Heartbeat(controller, State().describe, interval=0.01)
        async with beside(heartbeat.run(), name="heartbeat"):
            await fake.calls.number("UpsertRelay", 3)

        [first, *_] = fake.calls.of("UpsertRelay", registry.UpsertRelayRequest)
        assert (first.id, first.region, first.endpoint) == ("r1", "local", "127.0.0.1:7443")


async def test_news_are_told_at_once(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        state = State()
        heartbeat = Heartbeat(controller, state.describe, interval=3600)
        async with beside(heartbeat.run(), name="heartbeat"):
            await fake.calls.number("UpsertRelay", 1)
            state.draining = True
            heartbeat.hurry()
            await fake.calls.number("UpsertRelay", 2)

        beats = fake.calls.of("UpsertRelay", registry.UpsertRelayRequest)
        assert [beat.draining for beat in beats] == [False, True]


async def test_a_refusal_is_logged_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="outrelay")
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        fake.failures["UpsertRelay"] = grpc.StatusCode.PERMISSION_DENIED
        heartbeat = Heartbeat(controller, State().describe, interval=0.01)
        async with beside(heartbeat.run(), name="heartbeat"):
            await fake.calls.number("UpsertRelay", 3)
            fake.failures.clear()
            await fake.calls.number("UpsertRelay", 6)
    assert caplog.text.count("heartbeat not taken") == 1
    assert caplog.text.count("heartbeat taken") == 1


async def test_a_clock_that_differs_is_told_of_once_until_it_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1_000_000
    said = iter((0, now, now + MOST_SKEW, now + MOST_SKEW + 1, now + 9_000, now, now - 6_000, now))
    async with fake_controller(tmp_path) as fake, fake.line() as controller:

        def next_time() -> registry.UpsertRelayRequest:
            fake.time_ms = next(said, now)
            return State().describe()

        heartbeat = Heartbeat(controller, next_time, interval=0.01, now_ms=lambda: now)
        async with beside(heartbeat.run(), name="heartbeat"):
            await fake.calls.number("UpsertRelay", 9)
    told = [line for line in caplog.messages if "clocks differ" in line]
    assert ["'ahead_seconds': 5.0" in told[0], "'ahead_seconds': -6.0" in told[1]] == [True, True]
    assert len(told) == 2


def test_what_a_slow_answer_explains_is_no_skew() -> None:
    sent, received = 1_000, 9_000
    assert [skew_of(theirs, sent, received) for theirs in (1_000, 5_000, 9_000)] == [0, 0, 0]
    assert skew_of(10_000, sent, received) == 1_000
    assert skew_of(500, sent, received) == -500


async def test_it_finds_the_controller_that_answers(tmp_path: Path) -> None:
    async with fake_controller(tmp_path, "second") as second:
        gone = f"unix:{tmp_path}/gone.sock"
        async with Controller((gone, second.target), credentials=None, trust=None) as controller:
            heartbeat = Heartbeat(controller, State().describe)
            async with beside(heartbeat.run(), name="heartbeat"):
                await second.calls.number("UpsertRelay", 1)


async def test_a_watch_that_breaks_off_has_it_look_for_another_controller(tmp_path: Path) -> None:
    async with (
        fake_controller(tmp_path, "first") as first,
        fake_controller(tmp_path, "second") as second,
        first.line(second.target) as controller,
    ):
        heartbeat = Heartbeat(controller, State().describe, interval=3600)
        directory = Directory(Roster(1))
        watch = DirectoryWatch(directory, Registrations(controller, directory, "r1"), "")
        async with (
            beside(heartbeat.run(), name="heartbeat"),
            beside(follow(controller, watch), name="watch"),
        ):
            await first.calls.number("UpsertRelay", 1)
            await first.followed("directory")
            first.failures |= {
                "UpsertRelay": grpc.StatusCode.UNAVAILABLE,
                "Watch directory": grpc.StatusCode.UNAVAILABLE,
            }
            first.hang_up()

            await second.calls.number("UpsertRelay", 1)
            await second.calls.number("Watch directory", 1)
