"""The level of the log is changed by who may touch every tenant, and by nobody else."""

from __future__ import annotations

import grpc
import pytest

from outrelay.lib.control.v1 import admin_pb2
from outrelay.lib.observe import logs
from tests.controller.live import LiveController, refused
from tests.support.events import events


@pytest.fixture(autouse=True)
def usual() -> None:
    logs.configure("controller", level="info")


async def test_the_admin_socket_changes_what_is_logged(controller: LiveController) -> None:
    async with controller.admin() as stubs:
        with events() as seen:
            answer = await stubs.admin.SetLogLevel(admin_pb2.SetLogLevelRequest(level="debug"))
        assert (answer.level, answer.before, logs.level()) == ("debug", "info", "debug")
        (line,) = seen.of("log level changed")
        assert (line["to"], line["by"]) == ("debug", "the admin socket")

        told = await stubs.admin.SetLogLevel(admin_pb2.SetLogLevelRequest())
        assert (told.level, told.before) == ("debug", "debug")


async def test_a_level_that_is_none_is_refused(controller: LiveController) -> None:
    refusal = refused(grpc.StatusCode.INVALID_ARGUMENT, "level", "debug, info")
    async with controller.admin() as stubs, refusal:
        await stubs.admin.SetLogLevel(admin_pb2.SetLogLevelRequest(level="loud"))

    assert logs.level() == "info"


async def test_an_operator_of_one_tenant_may_not(controller: LiveController) -> None:
    refusal = refused(grpc.StatusCode.PERMISSION_DENIED, "acme", "the admin socket")
    async with controller.as_operator("acme") as stubs, refusal:
        await stubs.admin.SetLogLevel(admin_pb2.SetLogLevelRequest(level="debug"))

    assert logs.level() == "info"
