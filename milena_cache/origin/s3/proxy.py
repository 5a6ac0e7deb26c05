"""Shell. The proxy on the way to S3: that of the settings, or of a file that is read again when it changes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

from milena_cache.origin.s3.settings import PROXY_ALLOWED, S3Settings, proxy_of
from milena_common.api.errors import ConfigError

log = logging.getLogger(__name__)

# Seconds between two looks at the file, and the bytes that it may have.
FILE_SECONDS = 10.0
MAX_FILE_BYTES = 4096


class Proxy:
    """The proxy of `settings`. Thread-safe: two threads may read the file at once, and find the same.

    Raises ConfigError if its file cannot be used; later such a file changes nothing, which is logged once.
    """

    def __init__(self, settings: S3Settings, now: Callable[[], float] = monotonic) -> None:
        self._file = settings.proxy_file
        self._now = now
        self._wrong = ""
        self._look_at = now() + FILE_SECONDS
        try:
            self._url = self._read() if self._file else settings.proxy_url
        except ValueError as error:
            raise ConfigError([f"{settings.proxy_variable}: {self._file} {error}"]) from None
        # User and password of the proxy in use, and of the one before, whose errors may still arrive.
        self._users = _user(self._url), ""

    def url(self) -> str:
        """Return the URL of the proxy, "" for none."""
        if self._file and self._now() >= self._look_at:
            self._look_at = self._now() + FILE_SECONDS
            self._look()
        return self._url

    def redact(self, text: str) -> str:
        """Return `text` without user and password of the proxy, and of the one before."""
        for user in self._users:
            if user:
                text = text.replace(f"{user}@", "***@")
        return text

    def _look(self) -> None:
        try:
            url, self._wrong = self._read(), ""
        except ValueError as error:
            if self._wrong != str(error):
                log.error("the proxy for S3 stays as it was: %s %s", self._file, error)
            self._wrong = str(error)
            return
        if url != self._url:
            self._users = _user(url), self._users[0]
            self._url = url
            log.info("another proxy for S3 is used from now on")

    def _read(self) -> str:
        """Return the file's URL. Raises ValueError, whose text does not show what is in the file."""
        try:
            with Path(self._file).open("rb") as file:
                text = file.read(MAX_FILE_BYTES).decode(errors="replace").strip()
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        try:
            if not re.fullmatch(r"[\x21-\x7e]+", text):
                raise ValueError
            return proxy_of(text)
        except ValueError:
            raise ValueError(f"has a value that is not shown here; allowed: {PROXY_ALLOWED}") from None


def _user(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[0]
