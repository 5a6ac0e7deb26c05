"""Shell. The journal's file: LMDB in a directory that only one process has open for writing.

LMDB is a copy-on-write B-tree: a commit writes new pages, syncs them, then writes one page that makes them the
tree, and syncs that. So after a crash at any time the file holds exactly the state of some commit, and a commit
that fails, for lack of space for example, leaves the state before it. (https://www.symas.com/mdb; "How LMDB
works".)

Threads: a write transaction belongs to the thread that began it, because of LMDB's lock. So a thread of its own
commits one transaction and begins the next, and in between the event loop's thread fills it, which only changes
memory. So the syncs run in parallel with the event loop, and the many small steps change no threads. It is safe
because the two threads alternate: nothing is put into the transaction while `commit` or `roll_back` runs.

Records are keyed by their sequence number, which only grows: LMDB then appends, which is its fastest operation.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from milena_cache.journal import directory as journal_directory
from milena_cache.journal import file as journal_file
from milena_cache.journal import identity as journal_identity
from milena_cache.journal.disk import CannotOpen, DiskFailed, DiskFull
from milena_cache.journal.disk_thread import DiskThread
from milena_cache.journal.file import DATA_FILE, ENGINE

RECORDS, REJECTED, DAMAGED, META = b"records", b"refused", b"damaged", b"meta"
DATABASES = (RECORDS, REJECTED, DAMAGED, META)
# Not in journals of the version before, which does not read it.
TOMBSTONES = b"tombstones"
LOCK_FILE = "lock.mdb"
# Bytes of address space only; the file grows as it is filled.
MIN_MAP = 2**30
# Threads and processes that may read at once.
READERS = 64
LOCK_FILE_BYTES = 2**13
# Reader slots of processes that ended while they read are freed once in so many commits.
COMMITS_PER_CHECK = 1000
# A reader's page, in records and bytes.
PAGE_RECORDS, PAGE_BYTES = 1000, 2**24
MIN_ROOM = 2**20
# Records from this many bytes are copied in the disk's thread, because the copy would block the event loop.
LARGE_BYTES = 2**16
# LMDB reports the cause of an error only as text.
_NO_SPACE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

T = TypeVar("T")


def key_of(seq: int) -> bytes:
    """Return the LMDB key of a record: big-endian, so that the order of bytes is the order of numbers."""
    return seq.to_bytes(8, "big")


class Unreadable(Exception):
    """The tree of pages is damaged, and not only a record."""


class LmdbDisk:
    """An open journal directory. Implements `disk.Disk`."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """Open or create the journal; it can hold `max_bytes` bytes of records. Raises CannotOpen."""
        self.directory = directory
        self._lock = journal_directory.take(directory)
        if journal_identity.is_unborn(directory):
            (directory / DATA_FILE).unlink(missing_ok=True)
        is_new = not (directory / DATA_FILE).exists()
        try:
            journal_file.check(directory)
            identity = journal_identity.check(directory)
        except CannotOpen:
            self._lock.close()
            raise
        try:
            _allocate(directory / LOCK_FILE)
            # More than the records need: pages that a commit frees are used again only by the next commit but one,
            # and a large value needs contiguous pages.
            self._env = lmdb.open(
                str(directory),
                map_size=MIN_MAP + 3 * max_bytes,
                max_dbs=len(DATABASES) + 1,
                max_readers=READERS,
                mode=0o600,
                lib_version=ENGINE,
            )
            self._env.reader_check()
            with self._env.begin(write=True) as setup:
                dbs = [self._env.open_db(name, setup) for name in (*DATABASES, TOMBSTONES)]
                # A removal need not look into them while they are empty, as they mostly are.
                self._may_be_rejected, self._may_be_damaged = (setup.stat(db)["entries"] > 0 for db in dbs[1:3])
            self._records, self._rejected, self._damaged, self._meta, self._tombstones = dbs
            journal_directory.sync(directory)
            self.identity = journal_identity.keep(directory, identity)
        except (lmdb.Error, OSError) as error:
            if is_new:  # a part of its head may be there, which the next start could not open either
                (directory / DATA_FILE).unlink(missing_ok=True)
            self._lock.close()
            raise CannotOpen(_why(directory, error)) from None
        self._worker = DiskThread("journal")
        self._open: lmdb.Transaction | None = None
        self._large: list[tuple[int, bytes]] = []
        self._commits = 0
        self._bytes = 0

    # ---- into the open transaction

    def put_record(self, seq: int, raw: bytes) -> None:
        self._bytes += len(raw)
        if self._large or len(raw) >= LARGE_BYTES:
            self._large.append((seq, raw))  # and all later records: LMDB's append needs growing numbers
        else:
            self._put(seq, raw)

    def _put(self, seq: int, raw: bytes) -> None:
        assert self._open is not None
        try:
            above = self._open.put(seq.to_bytes(8, "big"), raw, append=True, db=self._records)
        except lmdb.Error as error:
            raise _translated(error) from None
        if not above:
            raise DiskFailed(f"record {seq} is not above the last one")

    def remove_record(self, seq: int) -> None:
        txn, key = self._open, key_of(seq)
        assert txn is not None
        try:
            txn.delete(key, db=self._records)
            if self._may_be_rejected:
                txn.delete(key, db=self._rejected)
            if self._may_be_damaged:
                txn.delete(key, db=self._damaged)
        except lmdb.Error as error:
            raise _translated(error) from None

    def reject_record(self, seq: int, reason: str, at: float) -> None:
        raw = json.dumps({"reason": reason, "at": at}).encode()
        self._may_be_rejected = True
        self._do(lambda txn: txn.put(key_of(seq), raw, db=self._rejected))

    def clear_rejection(self, seq: int) -> None:
        self.reject_record(seq, "", 0.0)

    def quarantine(self, seq: int) -> None:
        self._may_be_damaged = True

        def work(txn: lmdb.Transaction) -> None:
            raw = txn.pop(key_of(seq), db=self._records)
            txn.put(key_of(seq), raw or b"", db=self._damaged)

        self._do(work)

    def drop_quarantined(self) -> None:
        self._do(lambda txn: txn.drop(self._damaged, delete=False))

    def put_tombstone(self, number: int, raw: bytes) -> None:
        self._do(lambda txn: txn.put(key_of(number), raw, db=self._tombstones))

    def remove_tombstone(self, number: int) -> None:
        self._do(lambda txn: txn.delete(key_of(number), db=self._tombstones))

    def set_metadata(self, name: str, text: str) -> None:
        self._do(lambda txn: txn.put(name.encode(), text.encode(), db=self._meta))

    def _do(self, work: Any) -> None:
        assert self._open is not None
        try:
            work(self._open)
        except lmdb.Error as error:
            raise _translated(error) from None

    def read_record(self, seq: int) -> bytes | None:
        """Return the bytes of a committed record; None if there is none of that number."""
        with self._env.begin(db=self._records) as txn:
            found: bytes | None = txn.get(key_of(seq))
            return found

    def read_records(self, seqs: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with self._env.begin(db=self._records) as txn:
            for seq in seqs:
                raw: bytes | None = txn.get(seq.to_bytes(8, "big"))
                if raw is not None:
                    found[seq] = raw
        return found

    # ---- in the disk's thread

    def commit(self) -> Awaitable[None]:
        return self._worker.run(self._commit)

    async def roll_back(self) -> None:
        await self._worker.run(self._roll_back)

    async def close(self) -> None:
        """Discard the open transaction, and release the directory."""
        await self._worker.run(self._abort)
        self._worker.close()
        self._env.close()
        self._lock.close()

    def _commit(self) -> None:
        for seq, raw in self._large:
            self._put(seq, raw)
        self._large.clear()
        txn, self._open = self._open, None
        assert txn is not None
        try:
            txn.commit()
            self._commits += 1
            self._bytes = 0
            if not self._commits % COMMITS_PER_CHECK:
                self._env.reader_check()
            self._open = self._env.begin(write=True)
        except lmdb.Error as error:
            # If the disk has room for only a part of a write, LMDB reports EIO, and not ENOSPC. Taken for a failed
            # disk, it would stop the node; so it is tried whether the file may grow.
            if str(error).endswith(os.strerror(errno.EIO)) and not self._may_grow():
                raise DiskFull(f"{error}, for lack of space") from None
            raise _translated(error) from None

    def _may_grow(self) -> bool:
        """Return True if the disk has room for twice the bytes of the transaction and MIN_ROOM."""
        number = os.open(self.directory / DATA_FILE, os.O_RDWR)
        try:
            size = os.fstat(number).st_size
            os.posix_fallocate(number, size, 2 * self._bytes + MIN_ROOM)
            os.ftruncate(number, size)
        except OSError as error:
            return error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        finally:
            os.close(number)
        return True

    def _roll_back(self) -> None:
        self._abort()
        try:
            self._env.reader_check()
            self._open = self._env.begin(write=True)
        except lmdb.Error as error:
            raise DiskFailed(str(error)) from None

    def _abort(self) -> None:
        self._bytes = 0
        self._large.clear()
        txn, self._open = self._open, None
        if txn is not None:
            txn.abort()

    # ---- before the first transaction

    @contextmanager
    def _reading(self, db: Any, **options: Any) -> Iterator[Any]:
        try:
            with self._env.begin(db=db, **options) as txn:
                yield txn
        except (lmdb.Error, ValueError) as error:
            raise CannotOpen(f"{self.directory}: {error}; look at it with `milena journal verify`") from None

    def metadata(self) -> dict[str, str]:
        with self._reading(self._meta) as txn:
            return _metadata(txn)

    def records(self, after: int, limit: int) -> list[tuple[int, memoryview]]:
        """Return at most `limit` records with numbers above `after`; their bytes are valid until `roll_back`."""
        with self._reading(self._records, buffers=True) as txn:
            cursor = txn.cursor()
            if not cursor.set_range(key_of(after + 1)):
                return []
            return [(int.from_bytes(key, "big"), raw) for key, raw in islice(cursor.iternext(), limit)]

    def rejections(self) -> dict[int, tuple[str, float]]:
        """Return the reason and time (seconds since 1970) of every rejection, by record number."""
        with self._reading(self._rejected) as txn:
            return _rejections(txn)

    def tombstones(self) -> list[tuple[int, bytes]]:
        """Return the committed tombstones by number, in order."""
        with self._reading(self._tombstones) as txn:
            return [(int.from_bytes(key, "big"), raw) for key, raw in txn.cursor()]

    def damaged(self) -> int:
        """Return the number of quarantined records."""
        with self._reading(self._damaged) as txn:
            return int(txn.stat(self._damaged)["entries"])

    @property
    def used_bytes(self) -> int:
        """Return the size of the file in bytes."""
        return (self.directory / DATA_FILE).stat().st_size


class LmdbReader:
    """A journal that is opened for reading only, also while a node writes it.

    Nothing is written, and the node's lock is not touched. Records are read in pages of one short transaction each,
    and yielded after it has ended: LMDB cannot reuse pages that a reader can still see, so a slow consumer inside a
    transaction would make the file grow. Concurrent changes of the node may or may not be seen.
    """

    def __init__(self, directory: Path) -> None:
        """Open the journal in `directory`. Raises CannotOpen."""
        self.directory = directory
        journal_file.check(directory, whole=False)
        try:
            self.bytes_on_disk = (directory / DATA_FILE).stat().st_size
            self._env = lmdb.open(
                str(directory),
                map_size=0,  # the writer's
                max_dbs=len(DATABASES),
                max_readers=READERS,
                readonly=True,
                create=False,
                lib_version=ENGINE,
                # A directory without a lock file, such as a copy, has no writer that must be kept from reusing
                # pages.
                lock=(directory / LOCK_FILE).exists(),
            )
            self._dbs = {name: self._env.open_db(name, create=False) for name in DATABASES}
            with self._env.begin() as txn:
                self.entries = int(txn.stat(self._dbs[RECORDS])["entries"])
                self.metadata = _metadata(txn, self._dbs[META])
                rejections = _rejections(txn, self._dbs[REJECTED])
            self.rejections = {seq: rejection for seq, rejection in rejections.items() if rejection[0]}
        except FileNotFoundError:
            raise CannotOpen(f"{directory}: is no journal, there is no {DATA_FILE}") from None
        except (lmdb.Error, OSError) as error:
            raise CannotOpen(_why(directory, error)) from None
        except ValueError as error:
            raise CannotOpen(f"{directory}: its pages are damaged: {error}") from None

    def records(self, look: Callable[[int, memoryview], T]) -> Iterator[T]:
        """Yield the result of `look(number, bytes)` for each record, in order. Raises Unreadable."""
        return self._pages(RECORDS, look)

    def quarantined(self, look: Callable[[int, memoryview], T]) -> Iterator[T]:
        """Yield the result of `look(number, bytes)` for each quarantined record. Raises Unreadable."""
        return self._pages(DAMAGED, look)

    def _pages(self, name: bytes, look: Callable[[int, memoryview], T]) -> Iterator[T]:
        last = -1
        while page := self._page(name, last + 1, look):
            last = page[-1][0]
            yield from (seen for _, seen in page)

    def _page(self, name: bytes, first: int, look: Callable[[int, memoryview], T]) -> list[tuple[int, T]]:
        page: list[tuple[int, T]] = []
        size = 0
        try:
            with self._env.begin(db=self._dbs[name], buffers=True) as txn:
                cursor = txn.cursor()
                found = cursor.set_range(key_of(first))
                while found and len(page) < PAGE_RECORDS and size < PAGE_BYTES:
                    key, raw = cursor.item()
                    seq = int.from_bytes(key, "big")
                    page.append((seq, look(seq, raw)))
                    size += len(raw)
                    found = cursor.next()
        except lmdb.Error as error:
            raise Unreadable(f"{self.directory}: {error}") from None
        return page

    def close(self) -> None:
        self._env.close()


def _metadata(txn: lmdb.Transaction, db: Any = None) -> dict[str, str]:
    return {bytes(name).decode(): bytes(text).decode() for name, text in txn.cursor(db)}


def _rejections(txn: lmdb.Transaction, db: Any = None) -> dict[int, tuple[str, float]]:
    found = {}
    for key, raw in txn.cursor(db):
        rejection = json.loads(bytes(raw))
        found[int.from_bytes(key, "big")] = (str(rejection["reason"]), float(rejection["at"]))
    return found


def _allocate(lock_file: Path) -> None:
    """Allocate the blocks of the lock file, which LMDB maps: on a full disk a write to a hole is a SIGBUS."""
    with os.fdopen(os.open(lock_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
        file.write(bytes(max(0, LOCK_FILE_BYTES - file.tell())))


def _why(directory: Path, error: lmdb.Error | OSError) -> str:
    rejection = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{directory}: ")
    return f"{directory}: {rejection}"


def _translated(error: lmdb.Error) -> Exception:
    text = str(error)
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)) or text.endswith(_NO_SPACE):
        return DiskFull(text)
    return DiskFailed(text)
