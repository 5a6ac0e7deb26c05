"""A file of the sync client is one of `io`."""

from __future__ import annotations

import csv
import io

import pytest

from milena_client.core.files.read_ahead import MAX_REQUEST, MIN_WINDOW
from milena_client.core.values import Stat
from milena_client.sync.files import BUFFER_BYTES, ObjectFile
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import ConditionFailed, FailedPrecondition

VALUE = bytes(range(256)) * 2**16  # 16 MiB


class Object:
    """An object, and the requests for ranges of it."""

    def __init__(self, value: bytes = VALUE) -> None:
        self.value = value
        self.requests: list[ByteRange] = []

    def read_range(self, part: ByteRange, _: ByteRange) -> bytes:
        self.requests.append(part)
        return part.of(self.value)

    def open(self, max_request: int = 2**30) -> ObjectFile:
        return ObjectFile(self.read_range, Stat(len(self.value), '"e"', 0.0, dirty=False), max_request)


def test_it_is_a_buffered_reader() -> None:
    with Object().open() as file:
        assert isinstance(file, io.BufferedReader)
        assert isinstance(file.raw, io.RawIOBase)
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        buffer = bytearray(1000)
        assert file.readinto(buffer) == 1000
        assert bytes(buffer) == VALUE[:1000]
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"")
    assert file.closed
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_lines_and_text_are_read_as_of_any_file() -> None:
    rows = [[str(number), "x" * (number % 50)] for number in range(20_000)]
    written = io.StringIO(newline="")
    csv.writer(written).writerows(rows)
    with io.TextIOWrapper(Object(written.getvalue().encode()).open(), newline="") as text:
        assert list(csv.reader(text)) == rows


def test_the_whole_object_takes_few_requests_and_random_reads_small_ones() -> None:
    it = Object()
    file = it.open()
    assert file.read() == VALUE
    assert it.requests == [ByteRange(offset, MAX_REQUEST) for offset in range(0, len(VALUE), MAX_REQUEST)]
    it.requests.clear()
    for offset in (5_000_000, 100, 2_000_000):
        file.seek(offset)
        assert file.read(100) == VALUE[offset : offset + 100]
    assert it.requests == [ByteRange(offset, BUFFER_BYTES) for offset in (5_000_000, 100, 2_000_000)]


@pytest.mark.parametrize("length", [BUFFER_BYTES, 100_000, 300_000])
@pytest.mark.parametrize("how", ["read", "readinto", "read1", "readinto1"])
def test_random_reads_request_what_they_read(length: int, how: str) -> None:
    it = Object()
    file = it.open()
    offsets = (5_000_000, 100, 2_000_000, 2**20 - 10)
    for offset in offsets:
        file.seek(offset)
        if how.startswith("read1"):
            assert VALUE.startswith(file.read1(length), offset)
        elif how == "read":
            assert file.read(length) == VALUE[offset : offset + length]
        else:
            buffer = bytearray(length)
            got = getattr(file, how)(buffer)
            assert VALUE.startswith(buffer[:got], offset)
    # `io` takes 100,000 bytes as 65,536 and the rest; that is no sequential read.
    assert it.requests == [ByteRange(offset, length) for offset in offsets]


def test_chunks_are_requested_ahead() -> None:
    it = Object()
    assert b"".join(it.open().chunks(100_000)) == VALUE
    assert len(it.requests) < 12
    assert max(request.length for request in it.requests) == MAX_REQUEST
    assert it.requests[1].length == MIN_WINDOW


def test_requests_become_smaller_where_the_cluster_allows_less_than_the_client_knows() -> None:
    it = Object()

    def read_range(part: ByteRange, ahead: ByteRange) -> bytes:
        if part.length > 300_000:
            raise FailedPrecondition("length: allowed are at most 300000 (MAX_VALUE_BYTES)")
        return it.read_range(part, ahead)

    file = ObjectFile(read_range, Stat(len(VALUE), '"e"', 0.0, dirty=False), 2**30)
    assert file.read() == VALUE
    assert max(part.length for part in it.requests) == 2**18


def test_another_rejection_is_raised_after_a_few_requests() -> None:
    tried = []

    def read_range(part: ByteRange, ahead: ByteRange) -> bytes:
        tried.append(part.length)
        raise FailedPrecondition("the value is damaged")

    with pytest.raises(FailedPrecondition, match="damaged"):
        ObjectFile(read_range, Stat(len(VALUE), '"e"', 0.0, dirty=False), 2**30).read()
    assert tried == [MAX_REQUEST >> halved for halved in range(12)]


def test_the_error_of_a_request_is_raised_and_the_position_stays() -> None:
    it = Object()
    file = it.open()
    file.seek(1_000_000)

    def fail(part: ByteRange, ahead: ByteRange) -> bytes:
        raise ConditionFailed("it was replaced")

    file.raw._read_range = fail  # type: ignore[attr-defined]
    with pytest.raises(ConditionFailed):
        file.read(10)
    file.raw._read_range = it.read_range  # type: ignore[attr-defined]
    assert file.read(10) == VALUE[1_000_000:1_000_010]
