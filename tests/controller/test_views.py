"""What a controller shows: where it can be called, and which relays are on the line."""

from __future__ import annotations

from pathlib import Path

from outrelay.controller.certificate import Certificate
from outrelay.controller.fleet.attachments import Attachments
from outrelay.controller.options import load_identity
from outrelay.controller.views import Shown, views_of
from outrelay.lib.observe.metrics import new_registry
from outrelay.lib.observe.views import status_of
from tests.controller.live import options_for
from tests.support.pki import TestPki


def test_it_is_ready_from_the_first_listener_to_the_stop() -> None:
    shown = Shown(Attachments())

    assert shown.unready() == ["the database is not open yet"]
    shown.targets = {"tls": "127.0.0.1:7444"}
    assert shown.unready() == []
    assert shown.status()["listeners"] == {"tls": "127.0.0.1:7444"}
    shown.stopping()
    assert shown.unready() == ["this controller is stopping"]


def test_it_shows_the_relays_on_the_line() -> None:
    attachments = Attachments()
    shown = Shown(attachments)

    with attachments.attached("r2"), attachments.attached("r1") as attachment:
        status = shown.status()
        assert status["attached"] == 2
        assert isinstance(status["relays"], list)
        first, second = status["relays"]
        assert first == {"relay_id": "r1", "since_unix_ms": attachment.since_ms}
        assert second["relay_id"] == "r2"
    assert shown.status()["attached"] == 0


def test_who_it_is_stands_in_its_certificate(tmp_path: Path) -> None:
    shown, identity = Shown(Attachments()), load_identity(options_for(tmp_path, TestPki()))
    assert identity
    credentials = identity.credentials

    status = status_of(views_of(shown, Certificate(identity), new_registry()))
    assert status["identity"] == credentials.identity.uri
    assert status["certificate_not_after_unix_ms"] == int(credentials.expires * 1000)
    assert status_of(views_of(shown, None, new_registry()))["identity"] is None
