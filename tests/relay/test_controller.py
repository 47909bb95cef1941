"""The line to the controller: what fails is a ControlError, and a dead line is renewed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import ConfigError, ControlError
from outrelay.lib.tasks import beside
from outrelay.relay.controller import Answers, Controller, Services, follow
from outrelay.relay.lag import DIRECTORY
from tests.relay.fake_controller import FakeController, fake_controller
from tests.support.pki import TestPki


async def beat(controller: Controller, timeout: float = 5.0) -> None:
    request = registry.UpsertRelayRequest(id="r1")
    await controller.call(
        lambda services, limit: services.registry.UpsertRelay(request, timeout=limit),
        timeout=timeout,
    )


class Follower:
    """A ``Watch`` that notes what it sees."""

    name = "directory"
    kind = DIRECTORY

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.extended: bool | None = None
        self.changed = asyncio.Event()

    def open(self, services: Services) -> Answers[registry.WatchEvent]:
        self._note("open")
        return services.registry.Watch(registry.WatchRequest())

    def begun(self, *, extended: bool) -> None:
        self.extended = extended

    def refused(self) -> None:
        self._note("refused")

    def take(self, event: registry.WatchEvent) -> None:
        self._note(event.service_name)

    def lost(self) -> None:
        self._note("lost")

    def _note(self, what: str) -> None:
        self.seen.append(what)
        self.changed.set()

    async def until(self, seen: list[str]) -> None:
        while self.seen[: len(seen)] != seen:
            self.changed.clear()
            await self.changed.wait()


async def test_a_call_that_fails_is_a_control_error(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        await beat(controller)
        fake.failures["UpsertRelay"] = grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(ControlError, match="UpsertRelay fails") as caught:
            await beat(controller)

        assert caught.value.status == "PERMISSION_DENIED"
        assert caught.value.controller == fake.target


async def test_a_call_has_a_deadline(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        fake.silent = True
        with pytest.raises(ControlError) as caught:
            await beat(controller, timeout=0.05)

        assert caught.value.status == "DEADLINE_EXCEEDED"


async def test_a_target_that_is_none_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        Controller(("nowhere",), credentials=None, trust=None)


async def test_a_silent_line_is_renewed_and_what_hung_on_it_fails(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        fake.silent = True
        async with asyncio.TaskGroup() as group:
            hanging = group.create_task(_error_of(controller), name="hanging call")
            await fake.calls.number("UpsertRelay", 1)
            await controller.renew_after(ControlError("DEADLINE_EXCEEDED", "silent"))

            assert (await hanging).status == "UNAVAILABLE"
        fake.silent = False
        await beat(controller)


async def _error_of(controller: Controller) -> ControlError:
    with pytest.raises(ControlError) as caught:
        await beat(controller)
    return caught.value


async def test_a_call_that_is_cancelled_is_cancelled(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        fake.silent = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await beat(controller)


async def test_controllers_take_turns_when_one_is_gone(tmp_path: Path) -> None:
    async with fake_controller(tmp_path, "second") as second:
        gone = f"unix:{tmp_path}/gone.sock"
        async with Controller((gone, second.target), credentials=None, trust=None) as controller:
            with pytest.raises(ControlError) as caught:
                await beat(controller)
            await controller.renew_after(caught.value)

            assert controller.target == second.target
            await beat(controller)


@pytest.mark.parametrize("status", ["UNAVAILABLE", "PERMISSION_DENIED"])
async def test_a_line_to_the_only_controller_is_not_given_up_for_nothing(
    tmp_path: Path, status: str
) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        follower = Follower()
        async with beside(follow(controller, follower), name="follow"):
            await fake.calls.number("Watch directory", 1)
            await controller.renew_after(ControlError(status, "not silent"))
            await fake.tell("directory", registry.WatchEvent(service_name="a"))

            await follower.until(["open", "a"])


async def test_a_watch_that_breaks_off_begins_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="outrelay")
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        follower = Follower()
        async with beside(follow(controller, follower), name="follow"):
            await fake.tell("directory", registry.WatchEvent(service_name="a"))
            await follower.until(["open", "a"])
            fake.hang_up()
            await follower.until(["open", "a", "lost", "open"])
            await fake.tell("directory", registry.WatchEvent(service_name="b"))

            await follower.until(["open", "a", "lost", "open", "b"])
    assert caplog.text.count("controller is away") == 1
    assert caplog.text.count("controller is back") == 1


async def test_a_watch_that_hung_on_a_dead_line_begins_again(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        follower = Follower()
        async with beside(follow(controller, follower), name="follow"):
            await fake.calls.number("Watch directory", 1)
            await controller.renew_after(ControlError("DEADLINE_EXCEEDED", "silent"))

            await follower.until(["open", "lost", "open"])


async def test_a_line_in_plaintext_has_nothing_to_show(tmp_path: Path) -> None:
    async with fake_controller(tmp_path) as fake, fake.line() as controller:
        follower = Follower()
        async with beside(follow(controller, follower), name="follow"):
            await fake.calls.number("Watch directory", 1)
            await controller.show(TestPki().relay())
            await fake.tell("directory", registry.WatchEvent(service_name="a"))

            await follower.until(["open", "a"])


async def test_a_watch_is_tried_until_the_controller_is_there(tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/c.sock"
    follower = Follower()
    async with (
        Controller((target,), credentials=None, trust=None) as controller,
        beside(follow(controller, follower), name="follow"),
    ):
        await follower.until(["open", "lost", "open", "lost"])
        async with fake_controller(tmp_path) as fake:
            await fake.tell("directory", registry.WatchEvent(service_name="a"))
            while "a" not in follower.seen:
                follower.changed.clear()
                await follower.changed.wait()
            assert isinstance(fake, FakeController)
