"""Shell. Reads the files of users and tokens, and reads them again when their content changes.

They are polled by content: Kubernetes swaps a link to a directory, which no notification of the system reports, and
no time of modification shows. A file that is wrong, or half written, changes nothing; that is logged once.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from milena_common.access.access import MAX_CREDENTIAL_BYTES, Access, Audit, Tokens, no_audit
from milena_common.access.acl_file import MAX_BYTES, OPEN, parse_users
from milena_common.access.rules import User
from milena_common.access.settings import MIN_TOKEN, AccessSettings
from milena_common.api.errors import ConfigError
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

RELOAD_SECONDS: Final = 5.0


class AccessFiles:
    """The files of `settings`. `default_bucket`: the name of the default bucket, "" if it is not known.

    reloads: how often the files were read again since the start, by result: ok, error
    """

    def __init__(self, settings: AccessSettings, default_bucket: str = "") -> None:
        self._settings = settings
        self._default_bucket = default_bucket
        self._content: tuple[bytes, bytes] = (b"", b"")
        self._wrong: tuple[bytes, bytes] | None = None
        self.reloads: Counter[str] = Counter({"ok": 0, "error": 0})

    def open_access(self, clock: Clock, audit: Audit = no_audit) -> Access:
        """Return the access of the process. Raises ConfigError with every wrong line of the files."""
        if self._settings.require_auth and not self._settings.acl_file:
            raise ConfigError(["ACL_FILE: got nothing; allowed: a file of users, since REQUIRE_AUTH is true"])
        self._content = self._read()
        access = Access(
            clock,
            self._users(self._content[0]),
            self._tokens(self._content[1]),
            audit,
            self._settings.cluster_names,
        )
        if self._settings.acl_file:
            access.load = lambda: self._take(access, self._read())
        return access

    async def watch(self, access: Access, clock: Clock) -> None:
        """Replace users and tokens when the content of a file has changed, for ever."""
        if not self._settings.acl_file and not self._settings.token_file:
            return
        while True:
            await clock.sleep(RELOAD_SECONDS)
            content: tuple[bytes, bytes] | None = None
            try:
                content = await asyncio.to_thread(self._read)
                if content not in (self._content, self._wrong):
                    self._take(access, content)
                    log.info("users and tokens were read again: %d users", len(access.users))
            except ConfigError as error:
                if content is None or content != self._wrong:
                    log.error("users and tokens stay as they were: %s", "; ".join(error.problems))
                self._wrong = content

    def _take(self, access: Access, content: tuple[bytes, bytes]) -> None:
        """Replace users and tokens by `content`, or nothing. Raises ConfigError."""
        try:
            users, tokens = self._users(content[0]), self._tokens(content[1])
        except ConfigError as error:
            self.reloads["error"] += 1
            access.record("acl_reload_failed", problems=len(error.problems))
            raise
        self._content, self._wrong = content, None
        self.reloads["ok"] += 1
        if tokens != access.tokens:
            access.replace_tokens(tokens)
        if self._settings.acl_file:
            access.replace_users(users)

    def _read(self) -> tuple[bytes, bytes]:
        """Return the contents of the files, b"" where there is none. Raises ConfigError."""
        return (
            _content_of(self._settings.acl_file, "ACL_FILE"),
            _content_of(self._settings.token_file, "CLUSTER_TOKEN_FILE"),
        )

    def _users(self, content: bytes) -> Mapping[str, User]:
        return parse_users(content, self._default_bucket) if self._settings.acl_file else OPEN

    def _tokens(self, content: bytes) -> Tokens:
        settings = self._settings
        if not settings.token_file:
            return Tokens((settings.token,) if settings.token else ())
        texts = [line.strip().decode(errors="replace") for line in content.splitlines() if line.strip()]
        allowed = f"{MIN_TOKEN} to {MAX_CREDENTIAL_BYTES} visible ASCII characters in a line"
        if not texts:
            raise ConfigError([f"CLUSTER_TOKEN_FILE: is empty; allowed: {allowed}"])
        if any(
            not re.fullmatch(r"[\x21-\x7e]+", text) or not MIN_TOKEN <= len(text) <= MAX_CREDENTIAL_BYTES
            for text in texts
        ):
            raise ConfigError([f"CLUSTER_TOKEN_FILE: got a line that is not shown here; allowed: {allowed}"])
        return Tokens(tuple(texts))


def _content_of(name: str, variable: str) -> bytes:
    if not name:
        return b""
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{variable}: {name!r} cannot be read: {error.strerror}"]) from None
    return content
