"""A file of the sync client that is written is one of `io`."""

from __future__ import annotations

import csv
import gzip
import io
import tracemalloc
import zipfile

import pytest

from milena_client.core.files.upload_steps import WHOLE_BYTES, UploadStep
from milena_client.core.values import Written
from milena_client.sync.object_writer import ObjectWriter
from milena_common.api.errors import DeadlineExceeded, NodeLost
from milena_common.api.uploads import MAX_STEP_BYTES


class Object:
    """An object as its steps make it. `failing`: the number of steps before the first that fails."""

    def __init__(self, failing: int = 10**6) -> None:
        self.steps: list[UploadStep] = []
        self.failing = failing
        self.value: bytes | None = None
        self._received = b""

    def send(self, step: UploadStep) -> Written:
        self.steps.append(step)
        if len(self.steps) > self.failing and not step.abort:
            raise NodeLost("gone")
        if not step.abort:
            assert step.offset == len(self._received)
            self._received += step.value
        if step.complete:
            self.value = self._received
        return Written("e", "node", "through")

    def open(self, max_value_bytes: int = 2**26) -> ObjectWriter:
        return ObjectWriter(self.send, max_value_bytes)


def test_it_is_a_buffered_writer() -> None:
    it = Object()
    with it.open() as file:
        assert isinstance(file, io.BufferedWriter)
        assert isinstance(file.raw, io.RawIOBase)
        assert (file.readable(), file.seekable(), file.writable()) == (False, False, True)
        file.writelines([b"a", b"b"])
        with pytest.raises(io.UnsupportedOperation):
            file.read()
        with pytest.raises(io.UnsupportedOperation):
            file.seek(0)
        assert file.tell() == 2
    assert it.value == b"ab"
    assert file.written == Written("e", "node", "through")


def test_text_archives_and_compressed_files_are_written_as_to_any_file() -> None:
    rows = [[str(number), "x" * (number % 50)] for number in range(1000)]
    it = Object()
    with io.TextIOWrapper(it.open(), newline="") as text:
        csv.writer(text).writerows(rows)
    assert it.value is not None
    assert list(csv.reader(io.StringIO(it.value.decode()))) == rows
    it = Object()
    with it.open() as file, gzip.open(file, "wb") as packed:
        packed.write(b"value" * 1000)
    assert it.value is not None
    assert gzip.decompress(it.value) == b"value" * 1000
    it = Object()
    with it.open() as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("name", b"value" * 1000)
    assert it.value is not None
    with zipfile.ZipFile(io.BytesIO(it.value)) as archive:
        assert archive.read("name") == b"value" * 1000


@pytest.mark.parametrize("size", [WHOLE_BYTES, WHOLE_BYTES + 1, WHOLE_BYTES + MAX_STEP_BYTES])
def test_steps_have_no_more_than_their_limit(size: int) -> None:
    it = Object()
    with it.open() as file:
        file.write(bytes(size))
    assert it.value == bytes(size)
    if size == WHOLE_BYTES:
        assert [len(step.value) for step in it.steps] == [size]
    else:
        assert max(len(step.value) for step in it.steps) == MAX_STEP_BYTES
    assert [step.complete for step in it.steps] == [False] * (len(it.steps) - 1) + [True]


def test_no_step_has_more_than_the_cluster_takes() -> None:
    it = Object()
    with it.open(max_value_bytes=1000) as file:
        file.write(bytes(2500))
    assert [len(step.value) for step in it.steps] == [1000, 1000, 500]


def test_an_error_in_the_block_stores_nothing() -> None:
    it = Object()
    file = it.open()

    def fail() -> None:
        with file:
            file.write(bytes(WHOLE_BYTES + MAX_STEP_BYTES))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert it.value is None
    assert it.steps[-1].abort
    assert file.closed


@pytest.mark.parametrize("failing", [0, 1, 4])
def test_a_step_that_fails_fails_the_file(failing: int) -> None:
    it = Object(failing)
    file = it.open()
    with pytest.raises(NodeLost):  # noqa: PT012 whichever of the two sends the step
        file.write(bytes(WHOLE_BYTES + MAX_STEP_BYTES))
        file.close()
    it.failing = 10**6
    if not file.closed:
        with pytest.raises(ValueError, match="failed"):
            file.close()
    assert it.value is None
    assert file.written is None
    assert file.closed


def test_a_file_that_is_interrupted_while_it_is_flushed_is_not_stored_without_its_end() -> None:
    it = Object()
    file = it.open()
    file.write(b"begin")

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    file.raw.write = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        file.close()
    assert it.value is None
    assert file.closed


def test_a_file_that_is_never_closed_stores_nothing() -> None:
    it = Object()
    file = it.open()
    file.write(b"value")
    with pytest.warns(ResourceWarning, match="nothing of it is stored"):
        del file
    assert it.value is None
    assert it.steps == []


def test_an_abort_that_fails_is_left_to_the_nodes() -> None:
    def send(step: UploadStep) -> Written:
        if step.abort:
            raise DeadlineExceeded("late")
        return Written("", "", "")

    file = ObjectWriter(send, 2**26)
    file.write(bytes(WHOLE_BYTES + MAX_STEP_BYTES))
    file.abort()
    assert file.closed


def test_a_writer_of_any_size_has_few_bytes_in_memory() -> None:
    sent = 0

    def send(step: UploadStep) -> Written:
        nonlocal sent
        sent += len(step.value)
        return Written("", "", "")

    block = bytes(MAX_STEP_BYTES)
    tracemalloc.start()
    try:
        with ObjectWriter(send, 2**26) as file:
            for _ in range(100):
                file.write(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent == 100 * MAX_STEP_BYTES
    assert peak < 16 * 2**20
