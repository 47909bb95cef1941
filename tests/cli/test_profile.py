"""``outrelay-cli profile``: what is kept, where, and when it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrelay.cli import profiles
from outrelay.cli.profiles import Profiles, Settings
from outrelay.lib.errors import ConfigError
from tests.cli.running import Cli, identity_files
from tests.controller.live import LiveController

HERE = str(Path.cwd())


def file_of(cli: Cli) -> Path:
    return Path(cli.environment["XDG_CONFIG_HOME"]) / "outrelay" / "cli.toml"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def user(tmp_path: Path) -> Cli:
    """Somebody with nothing in the environment."""
    return Cli(tmp_path, {"XDG_CONFIG_HOME": str(tmp_path / "config")})


async def test_the_first_profile_is_in_use_at_once(user: Cli, controller: LiveController) -> None:
    files = identity_files(user.directory, controller, controller.pki.operator())
    await user.ok(
        "profile", "add", "prod", "--controller", controller.targets["tls"],
        "--cert", files["OUTRELAY_CLI_CERT"], "--key", files["OUTRELAY_CLI_KEY"],
        "--ca", files["OUTRELAY_CLI_CA"],
    )  # fmt: skip
    assert await user.records("policy", "list") == []
    await user.ok("profile", "add", "other", "--controller", "127.0.0.1:1")
    assert await user.records("policy", "list") == []


async def test_flags_count_before_the_profile(user: Cli, controller: LiveController) -> None:
    await user.ok("profile", "add", "p", "--controller", "127.0.0.1:1", "--tenant", "acme")
    admin = ("--controller", controller.targets["admin"])
    assert await user.records("policy", "list", *admin) == []
    environment = {**user.environment, "OUTRELAY_CLI_CONTROLLER": controller.targets["admin"]}
    assert await Cli(user.directory, environment).records("policy", "list") == []


async def test_use_and_the_profile_flag_choose_another(
    user: Cli, controller: LiveController
) -> None:
    await user.ok("profile", "add", "first", "--controller", "unix:/nowhere")
    admin = controller.targets["admin"]
    await user.ok("profile", "add", "second", "--controller", admin, "--tenant", "acme")
    await user.ok("--profile", "second", "policy", "list")
    await user.ok("profile", "use", "second")
    await user.ok("policy", "list")
    assert "there is no profile third" in await user.fails(3, "profile", "use", "third")
    line = await user.fails(78, "--profile", "third", "policy", "list")
    assert "profile third: does not exist; there are: first, second" in line


async def test_list_shows_what_is_kept(user: Cli) -> None:
    await user.ok("profile", "add", "a", "--plaintext", "--tenant", "acme")
    await user.ok("profile", "add", "b", "--controller", "x:1", "--cert", user.directory / "c.pem")
    assert await user.records("profile", "list") == [
        {"name": "a", "current": True, "tenant": "acme", "plaintext": True},
        {
            "name": "b",
            "current": False,
            "controller": "x:1",
            "cert": str(user.directory / "c.pem"),
        },
    ]
    lines = (await user.ok("profile", "list")).splitlines()
    assert lines[1].split() == ["*", "a", "acme"]


async def test_add_again_changes_what_is_given_and_keeps_the_rest(user: Cli) -> None:
    await user.ok("profile", "add", "a", "--controller", "x:1", "--tenant", "acme")
    await user.ok("profile", "add", "a", "--controller", "y:2")
    (kept,) = await user.records("profile", "list")
    assert (kept["controller"], kept["tenant"]) == ("y:2", "acme")


async def test_relative_paths_are_kept_absolute(user: Cli) -> None:
    await user.ok("profile", "add", "a", "--cert", "op.pem")
    (kept,) = await user.records("profile", "list")
    assert kept["cert"] == HERE + "/op.pem"


async def test_the_file_is_the_users_alone(user: Cli) -> None:
    await user.ok("profile", "add", "a", "--tenant", 'quo"ted\\')
    assert mode(file_of(user)) == 0o600
    assert mode(file_of(user).parent) == 0o700
    assert profiles.load(file_of(user)).get("").tenant == 'quo"ted\\'


async def test_a_name_must_be_one(user: Cli) -> None:
    result = await user.run("profile", "add", "a.b")
    assert result.exit_code == 2
    assert "use letters, digits, - and _" in result.stderr


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("not toml", "is not TOML"),
        ("current = 3", "does not hold profiles"),
        ("profiles = 3", "does not hold profiles"),
        ("[profiles.a]\ncolour = 'red'", "a: is no profile; its keys are controller"),
        ("profiles.a = 1", "a: is no profile"),
        ("[profiles.a]\nplaintext = 'yes'", "a: plaintext: must not be 'yes'"),
        ("current = 'b'\n[profiles.a]", "profile b: does not exist"),
    ],
)
async def test_a_file_that_is_not_ours_is_told_by_its_fault(
    user: Cli, text: str, fault: str
) -> None:
    write(file_of(user), text)
    line = await user.fails(78, "policy", "list")
    assert fault in line


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_a_place_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        profiles.save(file / "cli.toml", Profiles(settings={}))
    with pytest.raises(ConfigError, match="cannot be read"):
        profiles.load(file / "cli.toml")


def test_the_file_is_below_the_home_directory_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert profiles.profiles_path() == Path("/home/somebody/.config/outrelay/cli.toml")


def test_without_a_profile_nothing_is_said() -> None:
    assert Profiles(settings={}).get("") == Settings()
