"""Shell. The credentials of both S3 clients: found by boto3's provider chain, renewed ahead of their expiry.

Temporary credentials are used until the expiry time that their source gives, and no longer. New ones are fetched
when three quarters of their lifetime have passed, ten minutes before the expiry at the earliest. If that fails, the
old ones are used until they expire. If S3 reports that they have expired earlier, the chain is walked again.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import boto3

from milena_cache.origin.s3.proxy import Proxy
from milena_cache.origin.s3.settings import CredentialFiles, S3Settings, StaticCredentials

# Seconds before their expiry at which credentials are renewed at the earliest.
RENEW_AHEAD_SECONDS = 600.0
# The share of their lifetime after which short-lived credentials are renewed.
RENEW_SHARE = 0.75
# Seconds between two attempts to get new ones while the old ones are still valid, and between two forced renewals.
RENEW_PAUSE_SECONDS = 5.0
# Seconds after which files with credentials are read again, and the bytes that one may have.
FILES_SECONDS = 10.0
MAX_FILE_BYTES = 16 * 1024
# Shorter secrets are not redacted from messages: such texts occur in many words.
MIN_SECRET_LENGTH = 8

_HEADER_TEXT = re.compile(r"[\x21-\x7e]*")


def _content(name: str) -> str:
    with Path(name).open("rb") as file:
        return file.read(MAX_FILE_BYTES).decode(errors="replace").strip()


class Held(NamedTuple):
    """Credentials in use. Times are seconds since 1970; `expires_at` is None if they never expire."""

    access_key: str
    secret_key: str
    token: str
    expires_at: float | None
    renew_at: float | None


class CredentialsUnavailable(Exception):
    """There are no valid credentials."""


class Credentials:
    """Credentials for one node. `make_session` walks boto3's chain again; `wall` is in seconds since 1970.

    `generation` grows when earlier credentials must not be used any more. `proxy`: the way to S3.
    """

    def __init__(
        self,
        settings: S3Settings,
        make_session: Callable[[], boto3.Session],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.generation = 0
        # boto3's sessions are not thread-safe: held while one creates a client or looks for credentials.
        self.making = threading.Lock()
        self._make_session = make_session
        self._wall = wall
        self._session: boto3.Session | None = None
        self._held: Held | None = None
        self._renewal = asyncio.Lock()
        self._renewed_at = float("-inf")
        self._secrets: set[str] = set()
        self.proxy = Proxy(settings)
        self._files = settings.credentials if isinstance(settings.credentials, CredentialFiles) else None
        given = self._files.given if self._files is not None else settings.credentials
        if isinstance(given, StaticCredentials):
            self._remember(given.secret_key, given.token)

    async def obtain(self) -> Held:
        """Return valid credentials. Raises CredentialsUnavailable."""
        async with self._renewal:
            held = self._held
            now = self._wall()
            if held is not None and (held.renew_at is None or now < held.renew_at):
                return held
            try:
                self._held = await asyncio.to_thread(self._fetch)
            except Exception as error:
                if held is None or (held.expires_at is not None and now >= held.expires_at):
                    self._held = None
                    text = self.redact(f"{type(error).__name__}: {error}".split("\n")[0][:300])
                    raise CredentialsUnavailable(text) from None
                again = now + RENEW_PAUSE_SECONDS
                self._held = held._replace(renew_at=min(again, held.expires_at or again))
            return self._held

    async def renew(self, generation: int) -> bool:
        """Walk the chain again, because S3 reports that the credentials of `generation` have expired.

        Return False if that would return the same: they are not temporary, or were renewed less than
        RENEW_PAUSE_SECONDS ago.
        """
        if generation != self.generation:
            return True
        now = self._wall()
        if now - self._renewed_at < RENEW_PAUSE_SECONDS or self._held is None or not self._held.token:
            return False
        self._renewed_at = now
        self._session = None
        self._held = None
        self.generation += 1
        return True

    def redact(self, text: str) -> str:
        """Return `text` without any secret that is or was in use."""
        text = self.proxy.redact(text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _read(self, files: CredentialFiles) -> Held:
        """Return the credentials in `files`, to be read again after FILES_SECONDS."""
        given = (files.given.access_key, files.given.secret_key, files.given.token)
        names = (files.access_key, files.secret_key, files.token)
        access_key, secret_key, token = (
            _content(name) if name else text for name, text in zip(names, given, strict=True)
        )
        self._secrets.clear()
        self._remember(secret_key, token)
        if not (access_key and secret_key):
            raise ValueError("a file with AWS credentials is empty")
        if not all(_HEADER_TEXT.fullmatch(text) for text in (access_key, secret_key, token)):
            raise ValueError("the AWS credentials have characters that no request can carry")
        return Held(access_key, secret_key, token, None, self._wall() + FILES_SECONDS)

    def _remember(self, *secrets: str) -> None:
        self._secrets.update(secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH)

    def _fetch(self) -> Held:
        if self._files is not None:
            return self._read(self._files)
        with self.making:
            if self._session is None:
                self._session = self._make_session()
            found = self._session.get_credentials()
        if found is None:
            raise LookupError("no AWS credentials found")
        frozen = found.get_frozen_credentials()
        access_key, secret_key, token = (
            (text or "").strip() for text in (frozen.access_key, frozen.secret_key, frozen.token)
        )
        # Only of the current ones, so that a process that runs for years does not accumulate them.
        self._secrets.clear()
        self._remember(secret_key, token)
        if not all(_HEADER_TEXT.fullmatch(text) for text in (access_key, secret_key, token)):
            raise ValueError("the AWS credentials have characters that no request can carry")
        # botocore has no public name for it; without it the credentials count as permanent.
        expiry: datetime | None = getattr(found, "_expiry_time", None)
        if expiry is None:
            return Held(access_key, secret_key, token, None, None)
        expires_at, now = expiry.timestamp(), self._wall()
        if expires_at <= now:
            raise ValueError("the AWS credentials that were found have expired")
        ahead = min(RENEW_AHEAD_SECONDS, (expires_at - now) * (1 - RENEW_SHARE))
        return Held(access_key, secret_key, token, expires_at, expires_at - ahead)
