"""Pure. What the owner of slots sends to a holder of their copies, and what the holder replies, as bytes.

One command carries one frame, over a connection that has named the holder's process (MILENA.HELLO):

    MILENA.COPY <epoch> <owner> <process> <session> <serial> <frame>

epoch: of the newest ring that the owner has; owner, process: its gRPC address and process id; session, serial: see
below. The reply is a `Reply`, as an integer, once everything in the frame is durable at the holder: records are in
its journal, and what was released cannot come back from it. Any error, and no reply, means that it is unknown how
much of the frame the holder has.

A frame is one byte of flags, and then items in the order in which they take effect, each with a head:

    0   kind        u8
    1   flags       u8
    2   length      u32, of what follows

    RECORD              the journal's record as the owner has it (`milena_cache.journal.record`), with its checksums
    RELEASE             deleted at f64, version 2 x u64, cache key
    BEGIN, END          slots as text, `0-99,200-200`; in a BEGIN that is kept after u64, the epoch of the move

All little-endian.

**Order.** The frames of a session take effect in the order of their serial numbers, 1, 2, 3, and so do the items of
a frame; the holder begins them in the order in which they arrive, and only the replies wait. The owner may have
several frames in flight. A record replaces the holder's copy of its key if that is older, or unconfirmed, whatever
its version; a newer one that is confirmed stays: the owner sends what it has while new writes go on, and a new one
may have been sent first. A restored record replaces any.

**Sessions.** `session` counts the sessions of one owner's process with one holder's process. The holder knows the
last session and serial of each owner's process. It takes a frame with that session and the next serial, or with a
greater session and serial 1, and replies UNKNOWN_SESSION to any other one: a frame of a connection that the owner
has given up arrives late, or one before it is missing. In both cases the owner begins a new session. A holder that
has restarted knows no session, and takes serial 1 of any.

**BEGIN and END.** What the holder has of the slots of a BEGIN is unconfirmed from then on: it may miss writes, and
may have what is superseded. RECORD and RELEASE confirm their key. END drops what of its slots is still
unconfirmed. The owner sends BEGIN for all slots of which the ring lists the holder when a session begins, and for
those that are added later; then everything of these slots that it has not released, between new writes, in pieces;
then END. It reports the holder as complete when the frame with END was confirmed. A slot that is begun again before
its END begins anew. After a loss in between the holder uses what is unconfirmed: it may be all there is. A BEGIN
that is *kept* leaves everything as it is, and has no END: the owner before has handed these slots over to the
sender, so that the sender has the same writes as that owner and its complete holders. From then on a holder takes
nothing of them from the owner before, whose frames may be late: see `Holder`.

**Who may send.** The holder replies STALE, and takes nothing of the frame, if it has a ring newer than `epoch` in
which the sender is neither the owner of a slot of the frame nor the destination of its pending move. It takes
frames of an epoch newer than its own ring's, also if its own ring does not list it, and keeps such copies at least
until it has a ring of that epoch.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from milena_cache.handover.frames import Range, decode_ranges, encode_ranges
from milena_cache.journal.record import Damaged, Record, decode
from milena_cache.objects.version import Version
from milena_common.api.errors import InvalidRequest
from milena_common.resp.encoding import command

COMMAND = b"MILENA.COPY"

# Bytes of the items of one frame, unless one alone has more.
MAX_FRAME_BYTES = 2**20

# Flag of a frame: what it releases is to be durable soon, because an acknowledgement waits for it. Without it a
# frame without records may wait for the next commit of the holder's journal, at most about 50 ms.
_URGENT = 1

# Flags of items; see `CopiedRecord`, `Release` and `Begin`.
_RESTORED, _UNCONFIRMED = 1, 2
_TOMBSTONE = 1
_KEPT = 1

_ITEM = struct.Struct("<2BI")
_RELEASED = struct.Struct("<d2Q")
_EPOCH = struct.Struct("<Q")


class Kind(IntEnum):
    """The kinds of items.

    RECORD: a write that is acknowledged once all holders have it, or was before
    RELEASE: S3 has a version of the key, or a later one, or the owner has given up its writes up to that: a copy of
    that version or an earlier one is dropped
    BEGIN, END: the beginning and the end of everything that the owner has of some slots
    """

    RECORD = 1
    RELEASE = 2
    BEGIN = 3
    END = 4


class Reply(IntEnum):
    """The replies of a holder.

    TAKEN: everything in the frame is durable
    FULL: there is no room for its records (DIRTY_COPY_BYTES, or the disk is full), of which none was taken; its
    other items took effect durably. The session goes on
    STALE: the holder has a newer ring, in which the sender does not own one of the slots; nothing took effect
    UNKNOWN_SESSION: the frame is not the next one of the session; nothing took effect
    """

    TAKEN = 1
    FULL = 2
    STALE = 3
    UNKNOWN_SESSION = 4


class Sender(NamedTuple):
    """Who sends a frame, in which session; see the module's docstring.

    address: the owner's gRPC address, host:port
    process: the id of its process
    """

    epoch: int
    address: str
    process: str
    session: int
    serial: int


class CopiedRecord:
    """A write of the owner.

    raw: the record's bytes, with the number that it has in the owner's journal
    restored: True if it replaces a later write too, which has not become durable everywhere
    unconfirmed: True if another node may have a later write that S3 has: after a promotion it is compared with S3
    before it is served
    """

    __slots__ = ("raw", "restored", "unconfirmed")

    def __init__(self, raw: memoryview, restored: bool, unconfirmed: bool) -> None:
        self.raw = raw
        self.restored = restored
        self.unconfirmed = unconfirmed

    def decode(self, *, with_value: bool = True) -> tuple[Record, int]:
        """Return the record and the size of its value, after checking its checksums. Raises InvalidRequest."""
        try:
            # The record's own number, which `decode` compares with.
            (number,) = struct.unpack_from("<Q", self.raw, 20)
            return decode(number, self.raw, with_value=with_value)
        except (struct.error, Damaged) as error:
            raise InvalidRequest(f"a copied write cannot be read: {error}") from None


class Release(NamedTuple):
    """S3 has `version` of `key`, or a later one; or the owner has given up the writes up to `version`.

    deleted_at: if it is a delete of which the owner keeps a tombstone: when S3 had it, in seconds since 1970; else
    None
    """

    key: bytes
    version: Version
    deleted_at: float | None = None


class Begin(NamedTuple):
    """The owner begins to send everything that it has of these slots, or has taken them over with it.

    kept: then the epoch of the move, and so that since which the owner has them; else 0
    """

    slots: tuple[Range, ...]
    kept: int = 0


class End(NamedTuple):
    """The owner has sent everything that it has of these slots."""

    slots: tuple[Range, ...]


Item = CopiedRecord | Release | Begin | End


# As numbers, which are compared in C.
_RECORD, _RELEASE, _BEGIN, _END = map(int, Kind)

# The heads of most records, but for the length.
_PLAIN_RECORD = struct.Struct("<HI")


def record_head(size: int) -> bytes:
    """Return the head of a record of `size` bytes without flags, which is followed by the record."""
    return _PLAIN_RECORD.pack(_RECORD, size)


def record_parts(raw: bytes, *, restored: bool = False, unconfirmed: bool = False) -> tuple[bytes, bytes]:
    """Return a record, as the owner's journal stores it, as an item in two parts, to be joined with others."""
    return _ITEM.pack(_RECORD, _RESTORED * restored | _UNCONFIRMED * unconfirmed, len(raw)), raw


def encode_release(release: Release) -> bytes:
    """Return a release as an item."""
    key, (epoch, seq), at = release
    head = _RELEASED.pack(at or 0.0, epoch, seq)
    flags = _TOMBSTONE if at is not None else 0
    return b"".join((_ITEM.pack(_RELEASE, flags, len(head) + len(key)), head, key))


def encode_slots(item: Begin | End) -> bytes:
    """Return the begin or the end of slots as an item."""
    text = encode_ranges(item.slots)
    if isinstance(item, Begin):
        if item.kept:
            text = _EPOCH.pack(item.kept) + text
        return _ITEM.pack(_BEGIN, _KEPT * bool(item.kept), len(text)) + text
    return _ITEM.pack(_END, 0, len(text)) + text


def encode_frame(items: Sequence[bytes], *, urgent: bool = False) -> bytes:
    """Return a frame of encoded items, or of parts of such. `urgent`: an acknowledgement waits for its releases."""
    return b"".join((_URGENT.to_bytes(1) if urgent else b"\0", *items))


def is_urgent(frame: bytes) -> bool:
    """Return True if the holder is to commit the frame's releases soon. Raises InvalidRequest."""
    if not frame:
        raise InvalidRequest("a frame of copies is empty")
    return bool(frame[0] & _URGENT)


def encode_command(sender: Sender, frame: bytes) -> bytes:
    """Return the command that sends `frame`."""
    epoch, address, process, session, serial = sender
    return command(
        COMMAND, b"%d" % epoch, address.encode(), process.encode(), b"%d" % session, b"%d" % serial, frame
    )


def decode_sender(argv: Sequence[bytes]) -> Sender:
    """Return the sender from the arguments of the command, its name first. Raises InvalidRequest."""
    try:
        epoch, address, process, session, serial = argv[1:6]
        return Sender(int(epoch), address.decode(), process.decode(), int(session), int(serial))
    except ValueError:  # also UnicodeDecodeError
        raise InvalidRequest("the sender of a copy: allowed: epoch, address, process, session, serial") from None


def items(frame: bytes) -> list[Item]:
    """Return the items of a frame. Raises InvalidRequest."""
    is_urgent(frame)
    found: list[Item] = []
    view = memoryview(frame)
    at, end = 1, len(frame)
    while at < end:
        try:
            kind, flags, length = _ITEM.unpack_from(view, at)
        except struct.error:
            raise InvalidRequest("a frame of copies ends in the head of an item") from None
        at += _ITEM.size
        body = view[at : at + length]
        at += length
        if at > end:
            raise InvalidRequest("a frame of copies ends in an item")
        if kind == _RECORD:
            found.append(CopiedRecord(body, bool(flags & _RESTORED), bool(flags & _UNCONFIRMED)))
        elif kind == _RELEASE:
            found.append(_decode_release(flags, body))
        elif kind == _BEGIN:
            found.append(_decode_begin(flags, bytes(body)))
        elif kind == _END:
            found.append(End(decode_ranges(bytes(body))))
        else:
            raise InvalidRequest(f"a frame of copies has an item of kind {kind}")
    return found


def _decode_begin(flags: int, body: bytes) -> Begin:
    if not flags & _KEPT:
        return Begin(decode_ranges(body))
    try:
        (epoch,) = _EPOCH.unpack_from(body)
    except struct.error:
        raise InvalidRequest("the beginning of slots that were taken over is too short") from None
    return Begin(decode_ranges(body[_EPOCH.size :]), epoch)


def _decode_release(flags: int, body: memoryview) -> Release:
    try:
        at, epoch, seq = _RELEASED.unpack_from(body)
    except struct.error:
        raise InvalidRequest("a release of a copy is too short") from None
    key = bytes(body[_RELEASED.size :])
    return Release(key, Version(epoch, seq), at if flags & _TOMBSTONE else None)


def decode_reply(reply: object) -> Reply:
    """Return a holder's reply. Raises InvalidRequest if it is none."""
    try:
        if isinstance(reply, int):
            return Reply(reply)
    except ValueError:
        pass
    raise InvalidRequest(f"the reply to {COMMAND.decode()} is none: {reply!r:.80}")
