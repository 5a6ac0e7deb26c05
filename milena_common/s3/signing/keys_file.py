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
    """The access keys of the file `name`; none if that is "". `keys`: by name."""

    def __init__(self, name: str) -> None:
        """Read the file. Raises ConfigError."""
        self._name = name
        self._content = self._read() if name else b""
        self._wrong: bytes | None = None
        self.keys: Mapping[str, AccessKey] = parse_keys(self._content) if name else {}

    async def watch(self, clock: Clock) -> None:
        """Replace the keys when the content of the file has changed, for ever."""
        while self._name:
            await clock.sleep(RELOAD_SECONDS)
            content: bytes | None = None
            try:
                content = await asyncio.to_thread(self._read)
                if content not in (self._content, self._wrong):
                    self.keys = parse_keys(content)
                    self._content, self._wrong = content, None
                    log.info("access keys were read again: %d", len(self.keys))
            except ConfigError as error:
                if content is None or content != self._wrong:
                    log.error("access keys stay as they were: %s", "; ".join(error.problems))
                self._wrong = content

    def _read(self) -> bytes:
        try:
            with Path(self._name).open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            text = f"S3_KEYS_FILE: {self._name!r} cannot be read: {error.strerror}"
            raise ConfigError([text]) from None
