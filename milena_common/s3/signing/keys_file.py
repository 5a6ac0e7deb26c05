"""Shell. Reads S3_KEYS_FILE, and reads it again when its content changes.

It is polled by content, as the other files of secrets are. A file that is wrong, or half written, changes nothing;
that is logged once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from milena_common.api.errors import ConfigError
from milena_common.runtime.clock import Clock
from milena_common.s3.signing.identities import MAX_BYTES, AccessKey, parse_keys

log = logging.getLogger(__name__)

RELOAD_SECONDS: Final = 5.0


class KeysFile:
    """The access keys of the file `name`; none if that is "". `keys`: by name.

    A file that is not there yet, in a folder that is, as with an optional Secret of Kubernetes, has no keys: all
    requests that are signed are rejected until it comes.
    """

    def __init__(self, name: str) -> None:
        """Read the file. Raises ConfigError."""
        self._name = name
        self._content = b""
        self._problem = ""
        self.keys: Mapping[str, AccessKey] = {}
        if not name:
            return
        if Path(name).parent.is_dir() and not Path(name).exists():
            self._problem = self._unreadable("No such file or directory")
            log.warning("%s: requests at S3_LISTEN_ADDR are rejected until it is there", self._problem)
            return
        self._content = self._read()
        self.keys = parse_keys(self._content)

    async def watch(self, clock: Clock) -> None:
        """Replace the keys when the content of the file has changed, for ever."""
        while self._name:
            await clock.sleep(RELOAD_SECONDS)
            try:
                content = await asyncio.to_thread(self._read)
                if content != self._content:
                    self.keys = parse_keys(content)
                    self._content = content
                    log.info("access keys were read again: %d", len(self.keys))
                self._problem = ""
            except ConfigError as error:
                problem = "; ".join(error.problems)
                if problem != self._problem:
                    log.error("access keys stay as they were: %s", problem)
                self._problem = problem

    def _read(self) -> bytes:
        try:
            with Path(self._name).open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError([self._unreadable(error.strerror)]) from None

    def _unreadable(self, reason: str | None) -> str:
        return f"S3_KEYS_FILE: {self._name!r} cannot be read: {reason}"
