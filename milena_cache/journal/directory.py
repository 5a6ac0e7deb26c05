"""Shell. The journal's directory: it is its node's alone, and one process at a time has it.

What a process has is a lock (flock) on a file there, which ends with the process, however that ends. The file names
the process that took it last, for whoever comes too late.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from milena_cache.journal.disk import CannotOpen

log = logging.getLogger(__name__)

LOCK = "lock"
# Every lock of the system: "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", device and inode in the sixth place.
LOCKS = Path("/proc/locks")


def take(directory: Path) -> IO[str]:
    """Make the directory if it is not there, with mode 0700, and take it until the file that is returned is closed.

    Raises CannotOpen; if another process has the directory, naming that.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            try:
                directory.chmod(0o700)
            except PermissionError:
                log.warning("journal %s can be entered by others, and is not ours to close to them", directory)
        lock = (directory / LOCK).open("a+")
    except OSError as error:
        raise CannotOpen(f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with lock:
            lock.seek(0)
            recorded = lock.read(100).strip() or "unknown"
        raise CannotOpen(
            f"{directory}: another process has it ({recorded}); each node needs a journal of its own"
        ) from None
    with suppress(OSError):  # on a full disk the lock holds as well, and is only told of less
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"pid {os.getpid()}\n".encode())
    return lock


def holder(directory: Path) -> str:
    """Which process has the directory, as "pid 4711"; "nobody"; "unknown" where the system does not tell.

    The lock is not touched: a node that starts at this moment must find it free.
    """
    try:
        file = (directory / LOCK).stat()
        recorded = (directory / LOCK).read_text().strip()
    except FileNotFoundError:
        return "nobody"
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return "unknown"
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    for line in lines:
        _, kind, _, _, pid, locked, *_ = line.replace("-> ", "").split()
        where, _, inode = locked.rpartition(":")
        # Some file systems give their files another device than the system's list of locks does.
        if kind == "FLOCK" and inode == str(file.st_ino) and (where == device or recorded == f"pid {pid}"):
            return f"pid {pid}"
    return "nobody"


def sync(directory: Path) -> None:
    """Make sure of a file that has just been made: a crash may take it away while its directory is not synced."""
    for each in (directory, directory.parent):
        number = os.open(each, os.O_RDONLY)
        try:
            with suppress(PermissionError):
                os.fsync(number)
        finally:
            os.close(number)
