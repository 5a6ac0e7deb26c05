"""What an owner sends to a holder is what the holder reads."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.copies.frames import (
    Begin,
    CopiedRecord,
    End,
    Item,
    Release,
    Reply,
    Sender,
    decode_reply,
    decode_sender,
    encode_command,
    encode_frame,
    encode_release,
    encode_slots,
    is_urgent,
    items,
    record_head,
    record_parts,
)
from milena_cache.handover.frames import ranges_of
from milena_cache.journal.record import Record, encode
from milena_cache.objects.version import ABSENT, UNKNOWN, Version
from milena_common.api.errors import InvalidRequest
from milena_common.cluster.slots import SLOTS
from milena_common.resp.parser import CommandReader

# A record with its flags, restored and unconfirmed.
Copy = tuple[Record, bool, bool]
Sent = Copy | Release | Begin | End

U64 = st.integers(0, 2**64 - 1)
SECONDS = st.floats(min_value=0, max_value=1e12)
KEYS = st.binary(min_size=1, max_size=1100)
VERSIONS = st.builds(Version, U64, U64)
RECORDS = st.builds(
    Record,
    cache_key=KEYS,
    version=VERSIONS,
    value=st.none() | st.binary(max_size=3000),
    base=st.sampled_from([UNKNOWN, ABSENT]) | st.text(max_size=100),
    conditional=st.booleans(),
    owned_since=U64,
    written_at=SECONDS,
    expires_at=SECONDS,
    keeps=st.booleans(),
    number=st.just(0),
)
# A write that another node has handed over has a number of its own, and no epoch since which this node owns it.
MERGED = st.builds(lambda record, number: record._replace(number=number, owned_since=0), RECORDS, st.integers(1, 9))
COPIES = st.tuples(RECORDS | MERGED, st.booleans(), st.booleans())
RANGES = st.sets(st.integers(0, SLOTS - 1), min_size=1, max_size=50).map(lambda slots: tuple(ranges_of(slots)))
ITEMS = st.lists(
    COPIES
    | st.builds(Release, KEYS, VERSIONS, st.none() | SECONDS)
    | st.builds(Begin, RANGES, st.booleans())
    | st.builds(End, RANGES),
    max_size=8,
)


def encoded(item: Sent) -> tuple[bytes, ...]:
    if isinstance(item, Release):
        return (encode_release(item),)
    if isinstance(item, (Begin, End)):
        return (encode_slots(item),)
    record, restored, unconfirmed = item
    return record_parts(encode(record), restored=restored, unconfirmed=unconfirmed)


def read(item: Item) -> Sent:
    return (item.decode()[0], item.restored, item.unconfirmed) if isinstance(item, CopiedRecord) else item


@given(ITEMS, st.booleans())
def test_items_are_read_in_the_order_in_which_they_were_sent(sent: list[Sent], urgent: bool) -> None:
    frame = encode_frame([part for item in sent for part in encoded(item)], urgent=urgent)
    assert [read(item) for item in items(frame)] == sent
    assert is_urgent(frame) is urgent


@given(RECORDS)
def test_the_head_of_a_record_without_flags_is_the_same_made_faster(record: Record) -> None:
    raw = encode(record)
    assert (record_head(len(raw)), raw) == record_parts(raw)


def test_a_command_names_its_sender_and_has_the_frame_last() -> None:
    sender = Sender(1_700_000_000_000, "node-1:50052", "process-1", 3, 77)
    frame = encode_frame([encode_release(Release(b"k", Version(1, 2)))])
    reader = CommandReader(2**20, 2**20)
    commands: list[list[bytes]] = []
    reader.feed(encode_command(sender, frame))
    reader.read(commands.append)
    (argv,) = commands
    assert (decode_sender(argv), argv[6:]) == (sender, [frame])


@given(RECORDS, st.data())
def test_a_changed_record_is_rejected(record: Record, data: st.DataObject) -> None:
    frame = bytearray(encode_frame(record_parts(encode(record))))
    place = data.draw(st.integers(7, len(frame) - 1))
    frame[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidRequest):
        next(map(read, items(bytes(frame))))


@given(ITEMS.filter(bool), st.data())
def test_a_frame_that_was_cut_off_has_no_other_items(sent: list[Sent], data: st.DataObject) -> None:
    frame = encode_frame([part for item in sent for part in encoded(item)])
    found = []
    with contextlib.suppress(InvalidRequest):
        for item in items(frame[: data.draw(st.integers(1, len(frame) - 1))]):
            found.append(read(item))
    assert found == sent[: len(found)]
    assert len(found) < len(sent)


@pytest.mark.parametrize(
    "frame", [b"", b"\0\x01", b"\0\x09\0\0\0\0\0", b"\0\x02\0\x01\0\0\0x", b"\0\x03\0\x01\0\0\0x"]
)
def test_what_is_no_frame_is_rejected(frame: bytes) -> None:
    with pytest.raises(InvalidRequest):
        list(items(frame))


@pytest.mark.parametrize("argv", [[], [b"MILENA.COPY", b"1"], [b"", b"x", b"a", b"p", b"1", b"1", b""]])
def test_what_names_no_sender_is_rejected(argv: list[bytes]) -> None:
    with pytest.raises(InvalidRequest):
        decode_sender(argv)


def test_replies_are_integers() -> None:
    assert [decode_reply(int(reply)) for reply in Reply] == list(Reply)
    for other in (0, 99, b"1", None):
        with pytest.raises(InvalidRequest):
            decode_reply(other)
