"""Shell. The identity of a journal: a file `identity.json` beside it, which distinguishes it from its copies.

Two nodes on two copies of one journal would each upload their records, the older over the newer. A copy has the
same `identity.json`, but its data file is another file on the disk, with another inode. So a node that finds
another inode than the recorded one does not start, until `milena journal adopt` declares that the copy replaces the
original. A volume that is moved as a whole, or a directory that is renamed, keeps its inodes.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from milena_cache.journal import directory as journal_directory
from milena_cache.journal import file as journal_file
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.file import DATA_FILE

log = logging.getLogger(__name__)

IDENTITY_FILE = "identity.json"
# Two pages of the smallest size.
MIN_BYTES = 1024


@dataclass(frozen=True, slots=True)
class JournalIdentity:
    """The identity of a journal.

    journal: its id, a random one made with the journal.
    inode: the inode of its data file.
    node: the address of the node that opened it last, "" before the first node was in a ring.
    """

    journal: str
    inode: int
    node: str = ""


def find(directory: Path) -> JournalIdentity | None:
    """Return the identity in `directory`, None if there is none. Raises CannotOpen if it cannot be read."""
    path = directory / IDENTITY_FILE
    try:
        found = json.loads(path.read_bytes())
        return JournalIdentity(str(found["journal"]), int(found["inode"]), str(found.get("node", "")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotOpen(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CannotOpen(
            f"{path}: has other contents than Milena writes; if no other node has a copy of this journal, run "
            f"`milena journal adopt {directory}`"
        ) from None


def is_unborn(directory: Path) -> bool:
    """Return True if there is no journal yet: no data file, or a part of a head that a crash left of a new one.

    The identity is written after the data file is complete, so a directory with an identity has had a journal, even
    if its file is empty now. Raises CannotOpen if the directory cannot be read.
    """
    try:
        return not (directory / IDENTITY_FILE).exists() and (directory / DATA_FILE).stat().st_size < MIN_BYTES
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        raise CannotOpen(f"{directory}: {error.strerror}") from None


def check(directory: Path) -> JournalIdentity | None:
    """Return the identity of the journal in `directory`, None if it has none. Raises CannotOpen for a copy."""
    identity = find(directory)
    if identity is None or not (directory / DATA_FILE).exists():
        return None
    inode = (directory / DATA_FILE).stat().st_ino
    if inode != identity.inode:
        of = f" of node {identity.node}" if identity.node else ""
        raise CannotOpen(
            f"{directory}: is a copy of journal {identity.journal}{of}. Two nodes on two copies of one journal "
            "overwrite newer objects with older ones; if the original is never used again, replace it by this copy "
            "with "
            f"`milena journal adopt {directory}`"
        )
    return identity


def keep(directory: Path, identity: JournalIdentity | None) -> JournalIdentity:
    """Write `identity`, a new one if it is None, with the inode of the data file in `directory`; return it.

    Raises OSError.
    """
    inode = (directory / DATA_FILE).stat().st_ino
    kept = replace(identity, inode=inode) if identity is not None else JournalIdentity(uuid.uuid4().hex, inode)
    if kept != find_or_none(directory):
        write(directory, kept)
    return kept


def adopt(directory: Path) -> JournalIdentity:
    """Make the copy in `directory` the journal itself. Raises CannotOpen if it is in use, or no journal."""
    if not (directory / DATA_FILE).exists():
        raise CannotOpen(f"{directory}: is no journal, there is no {DATA_FILE}")
    with journal_directory.take(directory):
        journal_file.check(directory)
        return keep(directory, find_or_none(directory))


def record_node(directory: Path, identity: JournalIdentity, node: str) -> None:
    """Record that the node at address `node` uses the journal. Raises OSError."""
    if identity.node != node:
        if identity.node:
            log.warning("journal %s was used by node %s before; this is node %s", directory, identity.node, node)
        write(directory, replace(identity, node=node))


def find_or_none(directory: Path) -> JournalIdentity | None:
    """Return the identity in `directory`, None if there is none that can be read."""
    try:
        return find(directory)
    except CannotOpen:
        return None


def write(directory: Path, identity: JournalIdentity) -> None:
    """Replace the identity file durably: after a crash it has the old identity or the new one, whole."""
    path = directory / IDENTITY_FILE
    temporary = path.with_suffix(".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(identity), file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
