"""What readers of an object request: ahead if they are sequential, and else what they read."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_client.core.files.read_ahead import MAX_REQUEST, MIN_WINDOW, ReadAhead
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import InvalidRequest

SIZE = 100 * 2**20


class Reader:
    """A reader of an object, and what it has requested."""

    def __init__(self, value: bytes | None = None, size: int = SIZE, max_request: int = 2**30) -> None:
        self.value = value
        self.ahead = ReadAhead(size if value is None else len(value), max_request)
        self.requests: list[ByteRange] = []

    def read(self, length: int, room: int = 0) -> bytes:
        """Return at most `length` bytes, as one read of a raw file does."""
        self.ahead.start_read()
        return self.read_on(length, room)

    def read_on(self, length: int, room: int = 0) -> bytes:
        """Return at most `length` further bytes of the same read."""
        part = self.ahead.consume(length)
        if not part and (request := self.ahead.next_request(length, room)) is not None:
            self.requests.append(request)
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


@given(
    st.binary(max_size=300),
    st.integers(1, 40),
    st.lists(st.tuples(st.sampled_from(["read", "seek", "skip", "end"]), st.integers(0, 320)), max_size=40),
)
def test_it_reads_what_a_file_reads(value: bytes, max_request: int, course: list[tuple[str, int]]) -> None:
    reader, file = Reader(value, max_request=max_request), io.BytesIO(value)
    for what, number in course:
        if what == "read":
            got = reader.read(number)
            assert got == file.read(len(got) or number)
        else:
            whence = {"seek": 0, "skip": 1, "end": 2}[what]
            assert reader.ahead.seek(number, whence) == file.seek(number, whence)
        assert reader.ahead.position == file.tell()
