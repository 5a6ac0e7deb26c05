"""What is read ahead of which reads of large objects."""

from __future__ import annotations

import random

from milena_cache.blocks.layout import Version
from milena_cache.blocks.sequential_reads import MAX_READERS, SequentialReads
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Ref
from milena_common.api.ahead import MAX_BLOCKS
from milena_common.api.byte_range import ByteRange

BLOCK = 100
SIZE = 100_050


def version(key: str = "k", etag: str = '"e"') -> Version:
    return Version(Object(key.encode(), Ref("bucket", key)), etag, SIZE)


def test_more_and_more_is_read_ahead_of_a_sequential_reader_each_byte_once() -> None:
    reads = SequentialReads(BLOCK)
    proposed = [reads.next_ahead(version(), ByteRange(offset, 250)) for offset in range(0, 5000, 250)]
    assert proposed[:4] == [None, ByteRange(500, 100), ByteRange(800, 200), ByteRange(1000, 400)]
    ahead = [each for each in proposed if each is not None]
    ends = [part.offset + part.length for part in ahead]
    assert all(end <= part.offset for end, part in zip(ends, ahead[1:], strict=False))
    # From the latest read's end to the end of what is read ahead.
    assert ends[-1] == 5000 + MAX_BLOCKS * BLOCK
    assert all(part.offset % BLOCK == part.length % BLOCK == 0 for part in ahead)


def test_small_steps_take_whole_blocks() -> None:
    reads = SequentialReads(BLOCK)
    proposed = [reads.next_ahead(version(), ByteRange(offset, 10)) for offset in range(0, 10_000, 10)]
    assert sum(each is not None for each in proposed) <= 10_000 // BLOCK + 5


def test_nothing_is_read_ahead_of_other_reads() -> None:
    reads = SequentialReads(BLOCK)
    rng = random.Random(1)
    for _ in range(500):
        assert reads.next_ahead(version(), ByteRange(rng.randrange(0, SIZE - 60, 61), 60)) is None
    reads.next_ahead(version(), ByteRange(0, 60))
    assert reads.next_ahead(version("other"), ByteRange(60, 60)) is None
    assert reads.next_ahead(version(etag='"other"'), ByteRange(60, 60)) is None
    assert reads.next_ahead(version(), ByteRange(60, 60)) is not None


def test_nothing_is_read_behind_the_end() -> None:
    reads = SequentialReads(BLOCK)
    reads.next_ahead(version(), ByteRange(SIZE - 300, 100))
    assert reads.next_ahead(version(), ByteRange(SIZE - 200, 100)) == ByteRange(SIZE - 50, 50)
    assert reads.next_ahead(version(), ByteRange(SIZE - 100, 100)) is None


def test_two_readers_of_the_same_bytes_are_both_sequential() -> None:
    reads = SequentialReads(BLOCK)
    found = [reads.next_ahead(version(), ByteRange(at, 100)) for at in (0, 100, 200, 0, 100, 300, 200, 400)]
    assert found[-1] is not None, "the first one goes on"


def test_the_latest_readers_are_remembered() -> None:
    reads = SequentialReads(BLOCK)
    for number in range(MAX_READERS + 1):
        reads.next_ahead(version(str(number)), ByteRange(0, 100))
    assert reads.next_ahead(version("0"), ByteRange(100, 100)) is None
    assert reads.next_ahead(version(str(MAX_READERS)), ByteRange(100, 100)) is not None
