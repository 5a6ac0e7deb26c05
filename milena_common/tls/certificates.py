"""Shell. The newest valid content of the files of TLS, for new connections.

The files are looked at by their content: a mounted secret is replaced by exchanging a link to its folder, which
neither a modification time nor a notification of the file shows. New content counts when two looks have found the
same, and everything in it fits: a file that is being written is not taken half. Otherwise what was there before
stays in use, which is logged once for each reason.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from time import monotonic, sleep, time
from typing import Self

from milena_common.api.errors import ConfigError
from milena_common.network.security import PeerChain
from milena_common.runtime.clock import Clock
from milena_common.tls import failures
from milena_common.tls.material import (
    CertificateProblem,
    Contexts,
    FilesReplaced,
    Material,
    OtherKey,
    make_contexts,
    read_files,
)
from milena_common.tls.settings import TlsFiles
from milena_common.tls.validity import Validity

log = logging.getLogger(__name__)

# Seconds between two looks at new content.
CONFIRM_SECONDS = 0.5
# Looks, and the pause between them, at files that are being replaced while a process or client starts.
START_LOOKS = 20
START_PAUSE_SECONDS = 0.05
# Seconds between two looks of a client at the files, when it makes calls.
REFRESH_SECONDS = 10.0
# The port for metrics and health, which shows health to clients without a certificate too.
HEALTH_PORT = "http"


class Certificates:
    """The content of `files`, loaded at once. Thread-safe.

    - `number`: grows with each new content.
    - `reloads`: how many new contents were taken ("ok"), and how many were not ("failed").
    - `rejected`: handshakes of clients that failed, by port and reason.

    Raises ConfigError if the files cannot be used.
    """

    def __init__(self, files: TlsFiles, wall: Callable[[], float] = time) -> None:
        self.files = files
        self.number = 1
        self.reloads = {"ok": 0, "failed": 0}
        self.rejected: Counter[tuple[str, str]] = Counter()
        self._wall = wall
        self._lock = threading.Lock()
        self._problem = ""
        for look in range(START_LOOKS):
            try:
                self.material, self._contexts = self._load()
                break
            except (OtherKey, FilesReplaced) as error:
                if look + 1 == START_LOOKS:
                    problem = str(error) or f"{files.variables[0]}: the files change all the time"
                    raise ConfigError([problem]) from None
                sleep(START_PAUSE_SECONDS)
            except CertificateProblem as error:
                raise ConfigError([str(error)]) from None
        self._seen = self.material
        self._look_at = monotonic()

    def _load(self, material: Material | None = None) -> tuple[Material, Contexts]:
        material = read_files(self.files) if material is None else material
        contexts = make_contexts(self.files, material)
        valid, now = contexts.validity, self._wall()
        if valid is not None and not valid.begins_at <= now <= valid.expires_at:
            name = f"{self.files.variables[0]}: the certificate in {self.files.certificate}"
            if now > valid.expires_at:
                raise CertificateProblem(f"{name} has expired at {_date(valid.expires_at)}")
            raise CertificateProblem(f"{name} is not valid before {_date(valid.begins_at)}")
        return material, contexts

    def look(self) -> bool:
        """Look at the files; return True if there is something new, which the next look has to confirm."""
        with self._lock:
            try:
                material = read_files(self.files)
                if material == self.material:
                    self._seen, self._problem = material, ""
                    return False
                if material != self._seen:
                    self._seen = material
                    return True
                _, contexts = self._load(material)
            except FilesReplaced:
                return True
            except CertificateProblem as error:
                if self._problem != str(error):
                    self._problem = str(error)
                    self.reloads["failed"] += 1
                    log.error("new certificates are not used, the ones before stay in use: %s", error)
                return False
            self.material, self._contexts, self._problem = material, contexts, ""
            self.number += 1
            self.reloads["ok"] += 1
            until = f", valid until {_date(contexts.validity.expires_at)}" if contexts.validity else ""
            log.info("new certificates are used for new connections%s", until)
            return False

    async def run(self, clock: Clock, seconds: float) -> None:
        """Look at the files every `seconds`, until cancelled."""
        self._look_at = inf  # `refreshed` has nothing to do
        while True:
            await clock.sleep(seconds)
            while await asyncio.to_thread(self.look):
                await clock.sleep(min(seconds, CONFIRM_SECONDS))

    def refreshed(self, seconds: float) -> Self:
        """Look at the files if that was `seconds` ago; for a process that has no task for it."""
        now = monotonic()
        if now >= self._look_at:
            self._look_at = now + seconds
            if self.look():
                self._look_at = now + min(seconds, CONFIRM_SECONDS)
        return self

    @property
    def validity(self) -> Validity | None:
        """Return when the certificate in use is valid; None without one."""
        return self._contexts.validity

    # ---- opening connections

    def client_context(self) -> ssl.SSLContext:
        """Return what connections are opened with."""
        return self._contexts.client

    def server_name(self, host: str) -> str:
        """Return the name that the certificate of the server at `host` must have."""
        return self.files.server_name or host

    def failure(self, error: BaseException, host: str) -> str:
        """Return what `error` of a handshake with the server at `host` means; "" if it is not one of TLS."""
        return failures.failure(error, self.server_name(host), self.authorities)

    def hint(self) -> str:
        """Return why a server may have ended a connection that had just begun."""
        return failures.rejection_hint(self._contexts.validity, self._wall(), self.files.variables[0])

    @property
    def authorities(self) -> str:
        """Return by what certificates of servers are verified, for messages."""
        return self.files.variables[2] if self.files.authorities else "the system's authorities"

    # ---- accepting connections

    def server_context(self, port: str) -> ssl.SSLContext:
        """Return what connections to `port` are accepted with. There must be a certificate."""
        context = self._contexts.health if port == HEALTH_PORT else self._contexts.server
        assert context is not None
        return context

    def accepts(self, chain: PeerChain) -> bool:
        """Return True if a client with this chain would be accepted now."""
        return chain.authority in self._contexts.authorities and self._wall() <= chain.expires_at

    def count_rejection(self, port: str, error: BaseException) -> None:
        """Count a client whose handshake failed."""
        self.rejected[port, failures.rejection_reason(error)] += 1


class Refreshed:
    """The security of connections that a client library opens: `certificates`, looked at before each of them."""

    def __init__(self, certificates: Certificates, seconds: float = REFRESH_SECONDS) -> None:
        self._certificates = certificates
        self._seconds = seconds
        self.server_name = certificates.server_name
        self.failure = certificates.failure
        self.hint = certificates.hint

    def client_context(self) -> ssl.SSLContext:
        return self._certificates.refreshed(self._seconds).client_context()


def _date(timestamp: float) -> str:
    try:
        return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "never"
