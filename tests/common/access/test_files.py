"""The files of users and tokens: read at the start, and again when their content changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_common.access.access import Tokens
from milena_common.access.files import AccessFiles
from milena_common.access.settings import AccessSettings, insecure_ports, load_access
from milena_common.api.errors import ConfigError
from milena_common.network.addresses import Address, Port
from milena_common.process.env import Environment
from tests.support.fake_clock import FakeClock

TOKEN = "a" * 16


@pytest.fixture
def files(tmp_path: Path) -> AccessFiles:
    (tmp_path / "acl").write_text("user app on >x ~* +@all\n")
    (tmp_path / "token").write_text(f"{TOKEN}\n\n{'b' * 16}\n")
    return AccessFiles(AccessSettings(str(tmp_path / "acl"), token_file=str(tmp_path / "token")), "main")


def test_users_and_tokens_come_from_the_files(files: AccessFiles) -> None:
    access = files.open_access(FakeClock())
    assert list(access.users) == ["app", "default"]
    assert access.tokens == Tokens((TOKEN, "b" * 16))
    assert access.requires_login


def test_a_change_is_taken_whole_or_not_at_all(files: AccessFiles, tmp_path: Path) -> None:
    access = files.open_access(FakeClock())
    load = access.load
    assert load is not None
    (tmp_path / "acl").write_text("user other on >x ~* +@all\nwrong\n")
    with pytest.raises(ConfigError, match="line 2"):
        load()
    assert "app" in access.users
    (tmp_path / "acl").write_text("user other on >x ~* +@all\n")
    (tmp_path / "token").write_text("c" * 16)
    load()
    assert "other" in access.users
    assert access.tokens == Tokens(("c" * 16,))
    assert files.reloads == {"ok": 1, "error": 1}
    (tmp_path / "acl").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load()
    assert "other" in access.users


@pytest.mark.parametrize("content", ["", "short", "with space in it that is long", "ä" * 20, "x" * 5000])
def test_wrong_tokens_are_rejected_and_not_shown(files: AccessFiles, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError, match="CLUSTER_TOKEN_FILE") as raised:
        files.open_access(FakeClock())
    assert not content or content not in str(raised.value)


def test_without_files_anyone_may_do_everything_unless_that_is_excluded() -> None:
    assert AccessFiles(AccessSettings()).open_access(FakeClock()).is_open
    with pytest.raises(ConfigError, match="REQUIRE_AUTH"):
        AccessFiles(AccessSettings(require_auth=True)).open_access(FakeClock())


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"ACL_FILE": "users"}, "CLUSTER_TOKEN_FILE: got nothing"),
        ({"CLUSTER_TOKEN": "short"}, "CLUSTER_TOKEN: got a value that is not shown"),
        ({"CLUSTER_TOKEN": TOKEN, "CLUSTER_TOKEN_FILE": "token"}, "not together"),
        ({"REQUIRE_AUTH": "maybe"}, "REQUIRE_AUTH"),
        ({"AUDIT_KEYS": "maybe"}, "AUDIT_KEYS"),
    ],
)
def test_wrong_settings_are_named(variables: dict[str, str], problem: str) -> None:
    env = Environment(variables)
    settings = load_access(env)
    with pytest.raises(ConfigError, match=problem) as raised:
        env.check()
    assert "short" not in str(raised.value)
    assert TOKEN not in repr(settings)


def test_ports_that_other_machines_can_reach() -> None:
    ports = [Port(Address(host, 1), "X") for host in ("127.0.0.1", "0.0.0.0", "::1", "10.0.0.1", "localhost")]
    assert [port.address.host for port in insecure_ports(ports)] == ["0.0.0.0", "10.0.0.1"]
