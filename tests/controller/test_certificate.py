"""The controller's certificate: which one callers are shown, in real handshakes."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from outrelay.controller.app import serving
from outrelay.lib.control.channel import CONTROLLER_NAME
from outrelay.lib.control.v1 import policy_pb2
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.values import parse_address
from tests.controller.live import LiveController, options_for, policy_rule
from tests.support.events import Events, events
from tests.support.patience import PATIENCE
from tests.support.pki import TestPki, save

LATER = timedelta(hours=3)


@dataclass(frozen=True)
class Renewing:
    """A controller whose certificate is renewed, and what it logs."""

    live: LiveController
    folder: Path
    log: Events

    @property
    def pki(self) -> TestPki:
        return self.live.pki

    async def shown(self) -> bytes:
        """The certificate that a relay sees which comes now, DER."""
        caller = save(self.pki.relay(), self.folder / "caller")
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(caller.cert, caller.key)
        context.set_alpn_protocols(["h2"])
        host, port = parse_address(self.live.targets["tls"])
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=CONTROLLER_NAME
            )
            certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
        return certificate

    async def renew(self, renewed: Credentials, event: str) -> None:
        """Put it into the files, tell the controller, and wait for what it makes of it."""
        save(renewed, self.folder / "controller")
        count = len(self.log.of(event)) + 1
        os.kill(os.getpid(), signal.SIGHUP)
        await self.log.wait(event, count=count)


@pytest.fixture
async def renewing(tmp_path: Path) -> AsyncIterator[Renewing]:
    pki = TestPki()
    options = options_for(tmp_path, pki)
    with events() as log:
        async with serving(options) as targets:
            yield Renewing(LiveController(pki, options, targets), tmp_path, log)


async def test_who_comes_is_shown_the_newest_and_who_is_there_stays(renewing: Renewing) -> None:
    async with renewing.live.as_relay() as relay, renewing.live.admin() as admin:
        watch = relay.policy.Watch(policy_pb2.WatchPoliciesRequest(tenant="acme"))
        await watch.read()
        shown = [await renewing.shown()]
        for hours in (2, 3):
            renewed = renewing.pki.controller(lifetime=timedelta(hours=hours))
            await renewing.renew(renewed, "certificate renewed")
            shown += [await renewing.shown(), await renewing.shown()]
        first, *pairs = shown
        assert len(set(shown)) == 3
        assert pairs[0] == pairs[1] != pairs[2] == pairs[3]
        assert first not in pairs
        await admin.policy.AddPolicy(policy_pb2.AddPolicyRequest(rule=policy_rule()))
        event = await watch.read()
        assert isinstance(event, policy_pb2.PolicyEvent)
        assert event.kind == policy_pb2.PolicyEvent.POLICY_KIND_ADDED


async def test_clients_of_grpc_get_in_with_a_key_of_another_kind(renewing: Renewing) -> None:
    """The test's own handshakes are OpenSSL's; relays have BoringSSL's."""
    key = rsa.generate_private_key(65537, 2048)
    names = ("localhost", CONTROLLER_NAME)
    identity = renewing.pki.controller().identity
    renewed = renewing.pki.forge(identity, dns_names=names, private_key=key)
    await renewing.renew(renewed, "certificate renewed")
    async with renewing.live.as_relay() as relay:
        await relay.policy.ListPolicies(policy_pb2.ListPoliciesRequest(tenant="acme"))


async def test_callers_without_a_certificate_are_refused_after_a_renewal_as_well(
    renewing: Renewing,
) -> None:
    await renewing.renew(renewing.pki.controller(lifetime=LATER), "certificate renewed")
    context = ssl.create_default_context(cafile=renewing.folder / "ca.pem")
    host, port = parse_address(renewing.live.targets["tls"])
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=CONTROLLER_NAME
        )
        assert not await reader.read()  # HTTP/2 would begin with settings
        writer.close()


def _nameless(pki: TestPki) -> Credentials:
    return pki.forge(pki.controller().identity, dns_names=("localhost",))


def _expired(pki: TestPki) -> Credentials:
    return pki.controller(lifetime=timedelta(seconds=-1))


def _anothers(pki: TestPki) -> Credentials:
    return pki.controller(name="c2")


def _of_another_ca(pki: TestPki) -> Credentials:
    return TestPki().issue(pki.controller().identity)


def _unknown_kind(pki: TestPki) -> Credentials:
    names = ("localhost", CONTROLLER_NAME)
    key = ed25519.Ed25519PrivateKey.generate()
    return pki.forge(pki.controller().identity, dns_names=names, private_key=key)


@pytest.mark.parametrize(
    ("spoiled", "fault"),
    [
        (_nameless, "clients would refuse it"),
        (_expired, "clients would refuse it"),
        (_anothers, "is now the certificate of outrelay://local/controller/c2"),
        (_of_another_ca, "clients would refuse it"),
        (_unknown_kind, "is an Ed25519 key"),
    ],
)
async def test_one_that_is_of_no_use_is_told_and_the_old_one_stays(
    renewing: Renewing, spoiled: Callable[[TestPki], Credentials], fault: str
) -> None:
    before = await renewing.shown()
    await renewing.renew(spoiled(renewing.pki), "new certificate not used")
    (line,) = renewing.log.of("new certificate not used")
    assert (line["level"], line["hint"]) == ("warning", "the old one stays")
    assert fault in str(line["error"])
    assert await renewing.shown() == before
    await renewing.renew(renewing.pki.controller(lifetime=LATER), "certificate renewed")
    assert await renewing.shown() != before


async def test_one_that_cannot_be_read_is_told_and_the_old_one_stays(renewing: Renewing) -> None:
    before = await renewing.shown()
    (renewing.folder / "controller.pem").unlink()
    os.kill(os.getpid(), signal.SIGHUP)
    line = await renewing.log.wait("new certificate not used")
    assert "controller.pem: cannot be read" in str(line["error"])
    assert await renewing.shown() == before
