"""Newer files of our credentials: which are used, when, and which are not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from outrelay.lib import renewal
from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.certs import Credentials, load_credentials
from outrelay.lib.identity.verify import Usage
from outrelay.lib.renewal import Renewal
from outrelay.lib.tasks import beside
from tests.support.events import Events, events
from tests.support.pki import TestPki, save, save_trust

pytestmark = pytest.mark.both_loops

PKI = TestPki()
FIRST = PKI.agent()
NOT_USED = "new certificate not used"


def newer() -> Credentials:
    """The next certificate of ours, with a key of its own."""
    return PKI.issue(FIRST.identity, lifetime=timedelta(hours=3))


@pytest.fixture
def seen() -> Iterator[Events]:
    with events() as seen:
        yield seen


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are looked at only when somebody asks."""
    monkeypatch.setattr(renewal, "LOOK", 3600.0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at all the time."""
    monkeypatch.setattr(renewal, "LOOK", 0.01)


class Files:
    """The files, and what was made of them."""

    def __init__(self, folder: Path) -> None:
        self.stem = folder / "agent"
        self.cert, self.key = self.save(FIRST)
        self.ca = save_trust(PKI.trust, folder / "ca.pem")
        self.shown: list[Credentials] = []
        self.useless = False

    def save(self, credentials: Credentials) -> tuple[Path, Path]:
        """Put them there."""
        files = save(credentials, self.stem)
        return files.cert, files.key

    def renewal(self) -> Renewal:
        """What follows them."""
        return Renewal(
            FIRST,
            partial(load_credentials, self.cert, self.key),
            cert=self.cert,
            key=self.key,
            ca=self.ca,
            usage=Usage.CLIENT,
            show=self._show,
        )

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """They are looked at in the context."""
        async with beside(self.renewal().run(), name="renewal"):
            await asyncio.sleep(0)  # until it hears signals
            yield

    async def _show(self, credentials: Credentials) -> None:
        if self.useless:
            raise IdentityError("certificate", "cannot be used for TLS")
        self.shown.append(credentials)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.usefixtures("soon")
async def test_newer_files_are_noticed(files: Files, seen: Events) -> None:
    async with files.followed():
        for count in (1, 2):
            files.save(newer())
            line = await seen.wait("certificate renewed", count=count)
    assert line["identity"] == FIRST.identity
    held = load_credentials(files.cert, files.key)
    assert files.shown[-1].private_key_pem == held.private_key_pem
    assert not seen.of(NOT_USED)


@pytest.mark.usefixtures("never")
async def test_a_signal_has_them_looked_at_at_once(files: Files, seen: Events) -> None:
    async with files.followed():
        hang_up()
        await seen.wait("certificate unchanged")
        files.save(newer())
        hang_up()
        await seen.wait("certificate renewed")
    assert len(files.shown) == 1


def _another(files: Files) -> None:
    files.save(PKI.agent())


def _of_another_ca(files: Files) -> None:
    files.save(TestPki().issue(FIRST.identity))


def _expired(files: Files) -> None:
    files.save(PKI.issue(FIRST.identity, lifetime=timedelta(seconds=-1)))


def _without_its_key(files: Files) -> None:
    files.cert.write_bytes(newer().certificate_pem)


def _damaged(files: Files) -> None:
    files.key.write_text("no key")


def _missing(files: Files) -> None:
    files.cert.unlink()


def _useless(files: Files) -> None:
    files.save(newer())
    files.useless = True


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_another, "is now the certificate of outrelay://acme/agent/"),
        (_of_another_ca, "agent.pem: "),
        (_expired, "expired"),
        (_without_its_key, "is not the key of"),
        (_damaged, "holds no PEM private key"),
        (_missing, "cannot be read"),
        (_useless, "cannot be used for TLS"),
    ],
)
async def test_what_is_of_no_use_is_told_once_and_the_old_one_stays(
    files: Files, seen: Events, spoil: Callable[[Files], None], fault: str
) -> None:
    following = files.renewal()
    spoil(files)
    for _ in range(4):
        await following._look()
    [line] = seen.of(NOT_USED)
    assert line["level"] == "warning"
    assert fault in str(line["error"])
    assert not files.shown
    files.useless = False
    files.save(newer())
    for _ in range(4):
        await following._look()
    assert len(seen.of(NOT_USED)) == len(files.shown) == len(seen.of("certificate renewed")) == 1


async def test_files_that_are_being_written_are_left_alone(files: Files, seen: Events) -> None:
    """A certificate that is there already, while its key is still on its way, is no fault."""
    following, certificate = files.renewal(), newer()
    files.cert.write_bytes(certificate.certificate_pem)
    await following._look()
    files.save(certificate)
    await following._look()
    assert not files.shown
    await following._look()
    assert len(files.shown) == 1
    assert not seen.of(NOT_USED)
