"""Channels to a controller: whom they believe, and what people read when a call fails.

The controller here is any gRPC server with the right or the wrong certificate.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import grpc.aio
import pytest

from outrelay.lib.control import channel
from outrelay.lib.control.channel import CONTROLLER_NAME, control_errors, open_channel
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.control.v1.policy_pb2_grpc import (
    PolicyServicer,
    PolicyStub,
    add_PolicyServicer_to_server,
)
from outrelay.lib.errors import ConfigError, ControlError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from tests.support.pki import Hostile, TestPki
from tests.support.ports import unused_port

Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"


class AnyPolicy(PolicyServicer):
    """Answers ListPolicies and refuses the rest, each call in another way."""

    async def ListPolicies(  # noqa: N802
        self, request: policy_pb2.ListPoliciesRequest, context: Context
    ) -> policy_pb2.ListPoliciesResponse:
        if request.tenant == "unavailable":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the controller is stopping")
        return policy_pb2.ListPoliciesResponse()

    async def AddPolicy(  # noqa: N802
        self, _request: policy_pb2.AddPolicyRequest, context: Context
    ) -> policy_pb2.AddPolicyResponse:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "you\nmay not")

    async def RemovePolicy(  # noqa: N802
        self, _request: policy_pb2.RemovePolicyRequest, context: Context
    ) -> policy_pb2.RemovePolicyResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED)

    Watch = ReplacePolicies = Explain = None  # type: ignore[assignment]


@asynccontextmanager
async def server(pki: TestPki, credentials: Credentials | None) -> AsyncIterator[str]:
    """A server of these credentials; without any, one that speaks plaintext."""
    made = grpc.aio.server()
    add_PolicyServicer_to_server(AnyPolicy(), made)
    if credentials is None:
        port = made.add_insecure_port("127.0.0.1:0")
    else:
        pair = (credentials.private_key_pem, credentials.certificate_pem)
        secure = grpc.ssl_server_credentials([pair], pki.trust.pem, require_client_auth=True)
        port = made.add_secure_port("127.0.0.1:0", secure)
    await made.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await made.stop(None)


async def call(
    target: str,
    *,
    credentials: Credentials | None = None,
    trust: Trust | None = None,
    rpc: str = "ListPolicies",
    tenant: str = "",
    timeout: float = 10.0,
) -> None:
    async with open_channel(target, credentials=credentials, trust=trust) as channel:
        with control_errors(target, credentials=credentials, trust=trust):
            request = policy_pb2.ListPoliciesRequest(tenant=tenant)
            await getattr(PolicyStub(channel), rpc)(request, timeout=timeout)


@pytest.fixture
def pki() -> TestPki:
    return TestPki()


async def test_a_controller_is_called_over_mutual_tls(pki: TestPki) -> None:
    async with server(pki, pki.controller()) as target:
        await call(target, credentials=pki.relay(), trust=pki.trust)


def test_a_line_is_tried_no_more_often_than_plain_controllers_bear() -> None:
    """They drop who sends an HTTP/2 PING within five minutes of the last one."""
    assert dict(channel._OPTIONS)["grpc.keepalive_time_ms"] > 300_000


async def test_without_credentials_it_is_called_in_plaintext(pki: TestPki) -> None:
    async with server(pki, None) as target:
        await call(target)


async def faulty(**arguments: object) -> ControlError:
    with pytest.raises(ControlError) as raised:
        await call(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"controller {arguments['target']}: ")
    return raised.value


class TestWhomItBelieves:
    @pytest.mark.parametrize("role", [Role.RELAY, Role.AGENT, Role.OPERATOR])
    async def test_no_other_role_is_taken_for_a_controller(self, pki: TestPki, role: Role) -> None:
        async with server(pki, pki.of_role(role)) as target:
            error = await faulty(target=target, credentials=pki.relay(), trust=pki.trust)
        assert error.status == "UNAUTHENTICATED"
        assert f"is no controller: its certificate is not for {CONTROLLER_NAME}" in error.reason

    async def test_nor_one_of_another_ca(self, pki: TestPki) -> None:
        async with server(pki, pki.controller()) as target:
            error = await faulty(target=target, credentials=pki.relay(), trust=TestPki().trust)
        assert error.status == "UNAUTHENTICATED"
        assert "its certificate does not lead to a CA we trust" in error.reason


class TestWhyItFailed:
    @pytest.mark.parametrize(
        ("fault", "text"),
        [
            (Hostile.WRONG_CA, "refused our certificate, which does not lead to a CA we trust"),
            (Hostile.EXPIRED, "refused our certificate, which expired at"),
        ],
    )
    async def test_a_refused_certificate_is_told_with_its_fault(
        self, pki: TestPki, fault: Hostile, text: str
    ) -> None:
        liar = pki.hostile(fault, role=Role.RELAY, usage=Usage.CLIENT)
        async with server(pki, pki.controller()) as target:
            error = await faulty(target=target, credentials=liar, trust=pki.trust)
        assert error.status == "UNAUTHENTICATED"
        assert text in error.reason

    async def test_one_that_looks_fine_from_here_may_be_of_a_ca_it_does_not_trust(
        self, pki: TestPki
    ) -> None:
        stranger = TestPki()
        both = Trust(certificates=(*pki.trust.certificates, *stranger.trust.certificates))
        async with server(pki, pki.controller()) as target:
            error = await faulty(target=target, credentials=stranger.relay(), trust=both)
        assert "which may come from a CA it does not trust" in error.reason

    async def test_tls_and_plaintext_do_not_meet(self, pki: TestPki) -> None:
        async with server(pki, None) as plaintext, server(pki, pki.controller()) as tls:
            error = await faulty(target=plaintext, credentials=pki.relay(), trust=pki.trust)
            assert "does not speak TLS at this address" in error.reason
            error = await faulty(target=tls)
            assert "does not take plaintext at this address" in error.reason

    async def test_nobody_listens(self, pki: TestPki) -> None:
        target = f"127.0.0.1:{unused_port()}"
        for who in ({}, {"credentials": pki.relay(), "trust": pki.trust}):
            error = await faulty(target=target, **who)
            assert error.status == "UNAVAILABLE"
            assert error.reason == "nobody listens there (connection refused); is it running?"

    async def test_a_name_nobody_has(self) -> None:
        error = await faulty(target="nobody.invalid:7444")
        assert error.status == "UNAVAILABLE"
        assert error.reason == "its name cannot be resolved"

    async def test_a_socket_that_is_not_there_or_that_nobody_serves(self, tmp_path: Path) -> None:
        error = await faulty(target=f"unix:{tmp_path / 'none.sock'}")
        assert error.reason == "the socket cannot be opened (no such file or directory)"
        dead = tmp_path / "dead.sock"
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(dead))
        error = await faulty(target=f"unix:{dead}")
        assert "nobody listens there" in error.reason

    async def test_something_that_answers_with_anything_else(self, silent: str) -> None:
        error = await faulty(target=silent, timeout=0.2)
        assert error.status == "DEADLINE_EXCEEDED"
        assert error.reason == "did not answer in time"

    async def test_what_the_controller_says_is_one_line(self, pki: TestPki) -> None:
        async with server(pki, None) as target:
            error = await faulty(target=target, rpc="AddPolicy")
            assert (error.status, error.reason) == ("PERMISSION_DENIED", "you may not")
            error = await faulty(target=target, rpc="RemovePolicy")
            assert error.status == "UNIMPLEMENTED"
            assert "does not know this call" in error.reason

    async def test_a_controller_that_is_there_but_not_available_says_why(
        self, pki: TestPki
    ) -> None:
        who = {"credentials": pki.relay(), "trust": pki.trust}
        async with server(pki, pki.controller()) as target:
            error = await faulty(target=target, tenant="unavailable", **who)
        assert error.status == "UNAVAILABLE"
        assert error.reason == "is not available (the controller is stopping)"

    async def test_what_is_wrong_with_a_connection_otherwise_is_told(self, tmp_path: Path) -> None:
        no_socket = tmp_path / "file"
        no_socket.touch()
        error = await faulty(target=f"unix:{no_socket / 'x.sock'}")
        assert "cannot be reached" in error.reason

    @pytest.fixture
    def silent(self) -> Iterator[str]:
        """An address where somebody takes connections and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("target", ["controller", "http://x:1/", "1.2.3.4:99999", ""])
def test_a_target_of_no_known_form_is_a_config_error(target: str) -> None:
    with pytest.raises(ConfigError, match="or unix:PATH for an admin socket"):
        open_channel(target)
