"""What readers of an object request: ahead if they are sequential, and else what they read."""

from __future__ import annotations

import io
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_client.core.files.read_ahead import MAX_REQUEST, MIN_WINDOW, ReadAhead
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import InvalidRequest

SIZE = 100 * 2**20


class Reader:
    """A reader of an object, and what it has requested."""

    def __init__(
        self,
        value: bytes | None = None,
        size: int = SIZE,
        max_request: int = 2**30,
        block_bytes: int = 0,
        group_bytes: int = 0,
    ) -> None:
        self.value = value
        self.ahead = ReadAhead(size if value is None else len(value), max_request, block_bytes, group_bytes)
        self.requests: list[ByteRange] = []
        self.proposed: list[ByteRange] = []

    def read(self, length: int, room: int = 0) -> bytes:
        """Return at most `length` bytes, as one read of a raw file does."""
        self.ahead.start_read()
        return self.read_on(length, room)

    def read_on(self, length: int, room: int = 0) -> bytes:
        """Return at most `length` further bytes of the same read."""
        part = self.ahead.consume(length)
        if not part and (request := self.ahead.next_request(length, room)) is not None:
            self.requests.append(request)
            self.proposed.append(self.ahead.ahead)
            self.ahead.fill(bytes(request.length) if self.value is None else request.of(self.value))
            part = self.ahead.consume(length)
        return bytes(part)


def test_a_sequential_reader_requests_more_and_more_up_to_a_limit() -> None:
    reader = Reader()
    for _ in range(300):
        assert len(reader.read(100_000)) > 0
    assert [request.length for request in reader.requests][:3] == [100_000, MIN_WINDOW, 2 * MIN_WINDOW]
    assert {request.length for request in reader.requests[2:]} == {MAX_REQUEST}
    assert all(a.offset + a.length == b.offset for a, b in zip(reader.requests, reader.requests[1:], strict=False))


def test_a_random_reader_requests_what_it_reads() -> None:
    reader = Reader()
    for offset in (50_000_000, 3, 70_000_000, 20_000_000):
        reader.ahead.seek(offset, os.SEEK_SET)
        reader.read(1000)
        assert reader.requests[-1] == ByteRange(offset, 1000)
    reader.read(1000)
    assert reader.requests[-1].length == MIN_WINDOW
    reader.ahead.seek(5, os.SEEK_SET)
    reader.read(1000)
    assert reader.requests[-1] == ByteRange(5, 1000), "it is random again"


def test_a_read_in_several_steps_is_not_sequential() -> None:
    reader = Reader(max_request=100_000)
    for offset in (50_000_000, 3, 70_000_000):
        reader.ahead.seek(offset, os.SEEK_SET)
        got = len(reader.read(150_000))
        while got < 150_000:
            got += len(reader.read_on(150_000 - got))
    assert [request.length for request in reader.requests] == [100_000, 50_000] * 3


def test_a_small_read_fills_its_callers_buffer_up_to_the_end_of_the_block() -> None:
    reader = Reader()
    for offset in (5000, MIN_WINDOW - 1000, 3 * MIN_WINDOW - 10, 2 * MIN_WINDOW - 100):
        reader.ahead.seek(offset, os.SEEK_SET)
        reader.read(100, 65536)
    assert [request.length for request in reader.requests] == [65536, 1000, 65536, 100]


def test_no_request_is_larger_than_it_may_be_or_behind_the_end() -> None:
    reader = Reader(size=3000, max_request=700)
    while reader.read(10_000):
        pass
    assert [request.length for request in reader.requests] == [700, 700, 700, 700, 200]
    reader.ahead.seek(10, os.SEEK_END)
    assert reader.read(5) == b""


@pytest.mark.parametrize(("offset", "whence"), [(-1, 0), (-3001, 2), (-1, 1), (0, 3)])
def test_a_position_before_the_beginning_is_rejected(offset: int, whence: int) -> None:
    with pytest.raises(InvalidRequest):
        ReadAhead(3000, 700).seek(offset, whence)


def test_of_an_object_in_blocks_each_request_is_within_one_group_and_says_what_comes_next() -> None:
    block, group = 1000, 8000
    reader = Reader(size=100_000, max_request=3000, block_bytes=block, group_bytes=group)
    while reader.read(500):
        pass
    starts = [request.offset for request in reader.requests]
    assert starts[:5] == [0, 500, 3500, 6500, 8000]
    assert sum(request.length for request in reader.requests) == 100_000
    assert all(at.offset // group == (at.offset + at.length - 1) // group for at in reader.requests)
    proposed = [each for each in reader.proposed if each.length]
    assert reader.proposed[:3] == [ByteRange(0, 0), ByteRange(4000, 2000), ByteRange(7000, 4000)]
    assert all(a.offset + a.length <= b.offset for a, b in pairwise(proposed))
    assert proposed[-1].offset + proposed[-1].length == 100_000
    assert Reader(size=100_000).ahead.ahead == ByteRange(0, 0)


def test_of_a_random_read_nothing_is_read_ahead_that_it_does_not_need() -> None:
    block, group = 1000, 8000
    reader = Reader(size=100_000, max_request=3000, block_bytes=block, group_bytes=group)
    for offset in (7900, 500, 30_000):
        reader.ahead.seek(offset, os.SEEK_SET)
        got = len(reader.read(200, 64_000))
        while got < 200:
            got += len(reader.read_on(200 - got, 64_000))
    assert reader.requests[0] == ByteRange(7900, 100)
    assert [each.length for each in reader.proposed] == [100, 0, 0, 0], "the rest of the read, in the next group"
    reader.ahead.seek(50_100, os.SEEK_SET)
    got = 0
    while got < 20_000:
        got += len(reader.read_on(20_000 - got)) if got else len(reader.read(20_000))
    ahead = [each for each in reader.proposed if each.length]
    assert ahead
    assert max(each.offset + each.length for each in ahead) == 70_100


@given(
    st.binary(max_size=300),
    st.integers(1, 40),
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from(["read", "seek", "skip", "end"]), st.integers(0, 320)), max_size=40),
)
def test_it_reads_what_a_file_reads(
    value: bytes, max_request: int, block: int, course: list[tuple[str, int]]
) -> None:
    reader = Reader(value, max_request=max_request, block_bytes=block, group_bytes=8 * block)
    file = io.BytesIO(value)
    for what, number in course:
        if what == "read":
            got = reader.read(number)
            assert got == file.read(len(got) or number)
        else:
            whence = {"seek": 0, "skip": 1, "end": 2}[what]
            assert reader.ahead.seek(number, whence) == file.seek(number, whence)
        assert reader.ahead.position == file.tell()
    for request, ahead in zip(reader.requests, reader.proposed, strict=True):
        assert not ahead.length or request.offset + request.length <= ahead.offset
        assert ahead.offset + ahead.length <= len(value)
