"""Shell. The journal's directory, which one process at a time may use; the disk cache's is held in the same way.

The process holds a lock (flock) on a file there, which the kernel releases when the process ends in any way. The
file contains the process id of its last holder, for the error text of a second process.
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
# Every lock of the system: "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF"; the sixth field is device and inode.
LOCKS = Path("/proc/locks")
NO_HOLDER = "no process"


class Held(CannotOpen):
    """Another process has the directory."""


def take(directory: Path, what: str = "journal") -> IO[str]:
    """Create the directory with mode 0700 if necessary, and lock it until the returned file is closed.

    `what` is in it. Raises CannotOpen, or Held with the process id if another process has the lock.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            try:
                directory.chmod(0o700)
            except PermissionError:
                log.warning("%s %s is accessible to other users, and its mode cannot be changed", what, directory)
        lock = (directory / LOCK).open("a+")
    except OSError as error:
        raise CannotOpen(f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with lock:
            lock.seek(0)
            recorded = lock.read(100).strip() or "unknown"
        raise Held(
            f"{directory}: another process has it ({recorded}); each node needs a {what} of its own"
        ) from None
    with suppress(OSError):  # on a full disk the lock is held all the same; only the process id is missing
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"pid {os.getpid()}\n".encode())
    return lock


def holder(directory: Path) -> str:
    """Return the process that has the directory, as "pid 4711"; "no process"; "unknown" without /proc/locks.

    The lock is not touched: a node that starts at this time must find it free.
    """
    try:
        file = (directory / LOCK).stat()
        recorded = (directory / LOCK).read_text().strip()
    except FileNotFoundError:
        return NO_HOLDER
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
    return NO_HOLDER


def sync(directory: Path) -> None:
    """Sync the directory after a file was created there: otherwise a crash may lose the file's directory entry."""
    for each in (directory, directory.parent):
        number = os.open(each, os.O_RDONLY)
        try:
            with suppress(PermissionError):
                os.fsync(number)
        finally:
            os.close(number)
