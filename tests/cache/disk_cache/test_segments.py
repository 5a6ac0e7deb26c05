"""The log of segments: what is read after any crash was written before it, and room is never exceeded."""

from __future__ import annotations

import pytest

from milena_cache.disk_cache import segments as segments_module
from milena_cache.disk_cache.record import HEADER_BYTES, ROW, TRAILER_BYTES, Damaged, Record, encode, identity_of
from milena_cache.disk_cache.segments import SegmentLog, segment_bytes_of
from tests.cache.disk_cache.memory_files import MemoryFiles

IDENTITY = identity_of("https://s3", "bucket", "")
SEGMENT = 600
MAX = 10 * SEGMENT


def _log(files: MemoryFiles, identity: bytes = IDENTITY, max_bytes: int = MAX) -> SegmentLog:
    return SegmentLog(files, identity, max_bytes, SEGMENT)


def _record(number: int, size: int = 50) -> Record:
    return Record(b"key-%03d" % number, f'"etag-{number}"', float(number), bytes([number % 256]) * size)


def _all(log: SegmentLog) -> list[Record]:
    """Return all records that a start finds, as it reads them."""
    found = []
    for segment, _ in log.open():
        rows, _ = log.table(segment)
        for at in range(0, len(rows), ROW):
            found.append(log.read_record(segment, rows[at + 2] >> 32, rows[at + 2] & 0xFFFFFFFF))
    return found


def test_records_are_found_where_they_were_put_and_by_the_next_process() -> None:
    files = MemoryFiles()
    log = _log(files)
    assert log.open() == []
    records = [_record(number) for number in range(30)]
    places = log.append_records(records[:1]) + log.append_records(records[1:20]) + log.append_records(records[20:])
    for record, (number, offset, length) in zip(records, places, strict=True):
        assert log.read_record(log.segments[number], offset, length) == record
    assert len(log.segments) > 3
    assert log.used_bytes == sum(len(raw) for raw in files.contents.values())
    assert log.written == sum(len(raw) for _, _, raw in files.writes)
    assert sorted(_all(_log(files.after_crash()))) == records
    log.complete()
    after = _log(files.after_crash())
    assert sorted(_all(after)) == records
    assert [count for _, count in _log(files.after_crash()).open()] == [2, 4, 4, 4, 4, 4, 4, 4]


def test_a_completed_segment_is_found_without_its_values() -> None:
    files = MemoryFiles()
    log = _log(files)
    log.append_records([_record(number) for number in range(4)])
    log.complete()
    after = files.after_crash()
    read: list[int] = []
    original = after.read_bytes
    after.read_bytes = lambda descriptor, length, offset: (
        read.append(length) or original(descriptor, length, offset)
    )  # type: ignore[method-assign,func-returns-value]
    again = _log(after)
    for segment, _ in again.open():
        again.table(segment)
    assert sum(read) < 4 * 50 + HEADER_BYTES + 2 * TRAILER_BYTES


def test_after_a_crash_at_any_byte_of_any_write_each_record_found_is_whole() -> None:
    files = MemoryFiles()
    log = _log(files)
    records = [_record(number) for number in range(14)]
    for at in range(0, 14, 2):
        log.append_records(records[at : at + 2])
    log.complete()
    before: set[Record] = set()
    for number, (_, _, raw) in enumerate(files.writes):
        for torn in range(0, len(raw), 7):
            found = _all(_log(files.after(number, torn)))
            assert before <= {*found} <= {*records}
            assert len({*found}) == len(found)
        before = {*_all(_log(files.after(number + 1)))}
    assert before == {*records}


def test_what_is_appended_after_a_crash_is_in_a_segment_of_its_own() -> None:
    files = MemoryFiles()
    _log(files).append_records([_record(1)])
    log = _log(files.after_crash())
    log.open()
    number, _, _ = log.append_records([_record(2)])[0]
    assert number == 2
    assert list(log.segments) == [1, 2]


def test_damage_in_the_table_costs_nothing_and_damage_in_a_head_what_follows_it() -> None:
    files = MemoryFiles()
    log = _log(files)
    places = log.append_records([_record(number) for number in range(4)])
    log.complete()
    (name,) = files.contents
    damaged = files.after_crash()
    damaged.contents[name][-30] ^= 1
    assert sorted(_all(_log(damaged))) == [_record(number) for number in range(4)]
    damaged.contents[name][places[3][1] + 20] ^= 1
    assert sorted(_all(_log(damaged.after_crash()))) == [_record(number) for number in range(3)]
    again = _log(damaged.after_crash())
    ((segment, count),) = again.open()
    assert count == 4  # its trailer is as it was; the table says that it is damaged
    assert again.table(segment)[1] is False
    value = files.after_crash()
    value.contents[name][places[1][1] + places[1][2] - 1] ^= 1
    third = _log(value)
    third.open()
    with pytest.raises(Damaged):
        third.read_record(third.segments[1], *places[1][1:])


def test_segments_of_others_are_removed_and_other_files_are_left() -> None:
    files = MemoryFiles()
    log = _log(files)
    log.append_records([_record(1)])
    names = [*files.contents]
    files.contents["notes.txt"] = bytearray(b"mine")
    other = _log(files.after_crash(), identity_of("https://s3", "other", ""))
    assert other.open() == []
    assert other.foreign == [f"{names[0]}: of another endpoint, bucket or prefix"]
    changed = files.after_crash()
    changed.contents[names[0]][8] = 9  # the format
    third = _log(changed)
    assert third.open() == []
    assert third.foreign == [f"{names[0]}: format 9; this release reads format 1"]
    assert [*changed.contents] == ["notes.txt"]
    # Its number is not used again.
    assert third.append_records([_record(2)])[0][0] == 2


def test_the_files_never_take_more_than_they_may() -> None:
    files = MemoryFiles()
    log = _log(files)
    for number in range(200):
        records = [_record(number, 10 + 37 * number % 120) for _ in range(1 + number % 3)]
        size = sum(len(b"".join(encode(each))) for each in records)
        while log.needs_room(size, len(records)):
            oldest = log.oldest()
            log.detach(oldest)
            log.remove_segment(oldest)
        log.append_records(records)
        assert sum(len(raw) for raw in files.contents.values()) == log.used_bytes <= MAX
    log.complete()
    assert MAX - 3 * SEGMENT < log.used_bytes <= MAX
    assert all(len(raw) <= SEGMENT + HEADER_BYTES for raw in files.contents.values())
    assert len(files.open_files) == len(files.contents)


def test_there_are_never_more_segments_than_descriptors_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "MAX_SEGMENTS", 4)
    files = MemoryFiles()
    for number in range(4):
        log = _log(files)
        log.open()
        assert not log.needs_room(50, 1)
        log.append_records([_record(number)])
        files = files.after_crash()
    log = _log(files)
    log.open()
    assert log.needs_room(50, 1)


def test_a_segment_has_a_bounded_number_of_rows_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_module, "MAX_ROWS", 3)
    log = _log(MemoryFiles())
    places = log.append_records([_record(number, 1) for number in range(7)])
    assert [number for number, _, _ in places] == [1, 1, 1, 2, 2, 2, 3]


def test_small_and_large_disks_have_a_reasonable_number_of_segments() -> None:
    assert segment_bytes_of(64 * 2**20) == 4 * 2**20
    assert segment_bytes_of(10 * 2**30) == 64 * 2**20
    assert segment_bytes_of(512 * 2**30) == 2 * 2**30
