"""Credentials that expire: renewed ahead of their end, and never used past it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import boto3
import pytest

from milena_cache.origin.s3.credentials import (
    FILES_SECONDS,
    RENEW_AHEAD_SECONDS,
    RENEW_PAUSE_SECONDS,
    Credentials,
    CredentialsUnavailable,
)
from milena_cache.origin.s3.settings import S3Settings, load_s3
from milena_common.api.errors import ConfigError
from milena_common.process.env import Environment

SETTINGS = S3Settings("us-east-1", "", 1, 1, proxy_url="http://user:pw@proxy:3128")
SECRET = "a-secret-that-is-long"


class Source:
    """Stands in for boto3's sessions: each look brings credentials that live for `life` seconds more."""

    def __init__(self, life: float | None) -> None:
        self.wall = 1_700_000_000.0
        self.life = life
        self.token = "a-token-that-is-long"
        self.failing = False
        self.sessions = 0
        self.fetched = 0
        self.credentials = Credentials(SETTINGS, self._session, lambda: self.wall)

    def _session(self) -> boto3.Session:
        self.sessions += 1
        return cast(boto3.Session, SimpleNamespace(get_credentials=self._find))

    def _find(self) -> Any:
        if self.failing:
            raise ConnectionError(f"the provider answers 500: {SECRET}")
        self.fetched += 1
        frozen = SimpleNamespace(access_key=f"KEY{self.fetched}", secret_key=SECRET, token=self.token)
        found = SimpleNamespace(get_frozen_credentials=lambda: frozen)
        if self.life is not None:
            found._expiry_time = datetime.fromtimestamp(self.wall + self.life, UTC)
        return found

    async def key(self) -> str:
        return (await self.credentials.obtain()).access_key


async def test_credentials_that_do_not_expire_are_fetched_once() -> None:
    source = Source(None)
    for _ in range(3):
        assert await source.key() == "KEY1"
        source.wall += 10**6


@pytest.mark.parametrize(("life", "until"), [(75.0, 56.0), (3600.0, 3600.0 - RENEW_AHEAD_SECONDS - 1)])
async def test_temporary_ones_are_renewed_ahead_of_their_real_end(life: float, until: float) -> None:
    source = Source(life)
    held = await source.credentials.obtain()
    assert held.expires_at == source.wall + life
    source.wall += until
    assert await source.key() == "KEY1"
    source.wall += 2
    assert await source.key() == "KEY2"


async def test_while_no_new_ones_can_be_had_the_old_ones_are_used_until_their_end_and_no_longer() -> None:
    source = Source(100.0)
    await source.key()
    source.failing = True
    source.wall += 90
    assert await source.key() == "KEY1"
    source.wall += 9.9
    assert await source.key() == "KEY1"
    source.wall += 0.1
    with pytest.raises(CredentialsUnavailable) as caught:
        await source.key()
    assert SECRET not in str(caught.value)
    source.failing = False
    assert await source.key() == "KEY2"


async def test_credentials_that_have_expired_already_are_not_used() -> None:
    source = Source(-1.0)
    with pytest.raises(CredentialsUnavailable, match="have expired"):
        await source.key()


async def test_expired_credentials_are_fetched_anew_once_for_all_requests() -> None:
    source = Source(3600.0)
    await source.key()
    assert await source.credentials.renew(0)
    assert await source.credentials.renew(0), "another one has done it already"
    assert await source.key() == "KEY2"
    assert source.sessions == 2
    assert not await source.credentials.renew(1), "not again and again"
    source.wall += RENEW_PAUSE_SECONDS
    assert await source.credentials.renew(1)


async def test_lasting_credentials_are_not_fetched_anew() -> None:
    source = Source(None)
    source.token = ""
    await source.key()
    assert not await source.credentials.renew(0)


async def test_credentials_are_stripped_and_those_that_no_request_can_carry_are_rejected() -> None:
    source = Source(None)
    source.token = " a-token-that-is-long\n"
    assert (await source.credentials.obtain()).token == "a-token-that-is-long"
    source = Source(None)
    source.token = "a-token\nof-two-lines"
    with pytest.raises(CredentialsUnavailable) as caught:
        await source.key()
    assert "token" not in str(caught.value)


async def test_no_secret_stays_in_a_text() -> None:
    source = Source(None)
    await source.key()
    text = source.credentials.redact(f"bad {SECRET!r}, a-token-that-is-long via http://user:pw@proxy:3128")
    assert text == "bad '***', *** via http://***@proxy:3128"


async def test_files_are_read_again_and_kept_while_they_cannot_be(tmp_path: Path) -> None:
    variables = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key"}
    for name in ("secret", "token"):
        (tmp_path / name).write_text(f"first-{name}\n")
    variables["AWS_SECRET_ACCESS_KEY_FILE"] = str(tmp_path / "secret")
    variables["AWS_SESSION_TOKEN_FILE"] = str(tmp_path / "token")
    wall = 1000.0

    def no_session() -> boto3.Session:
        raise AssertionError

    credentials = Credentials(load_s3(Environment(variables)), no_session, lambda: wall)
    held = await credentials.obtain()
    assert held[:3] == ("key", "first-secret", "first-token")
    (tmp_path / "secret").write_text("second-secret")
    assert await credentials.obtain() is held
    wall += FILES_SECONDS
    assert (await credentials.obtain())[:3] == ("key", "second-secret", "first-token")
    assert "second-secret" not in credentials.redact("with second-secret")
    (tmp_path / "secret").unlink()
    wall += FILES_SECONDS
    assert (await credentials.obtain()).secret_key == "second-secret"
    (tmp_path / "secret").write_text("third-secret")
    wall += RENEW_PAUSE_SECONDS
    assert (await credentials.obtain()).secret_key == "third-secret"


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        (
            {"AWS_SECRET_ACCESS_KEY": "s", "AWS_SECRET_ACCESS_KEY_FILE": "f", "AWS_ACCESS_KEY_ID": "k"},
            "not together",
        ),
        ({"AWS_ACCESS_KEY_ID_FILE": "f"}, "AWS_SECRET_ACCESS_KEY: got nothing"),
    ],
)
def test_a_credential_is_in_one_place_and_has_its_other_half(variables: dict[str, str], problem: str) -> None:
    env = Environment({"AWS_REGION": "us-east-1", **variables})
    load_s3(env)
    with pytest.raises(ConfigError, match=problem):
        env.check()
