"""Pure. Deliberate faults of the disk cache, for `python -m tests.mutants.run --only WORDS`."""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

TIER = "milena_cache/disk_cache/tier.py"
RECORD = "milena_cache/disk_cache/record.py"
SEGMENTS = "milena_cache/disk_cache/segments.py"
INDEX = "milena_cache/disk_cache/index.py"
READER = "milena_cache/reads/reader.py"
ENTRIES = "milena_cache/memory/entries.py"
FEED = "milena_cache/memory/change_feed.py"
REFRESH = "milena_cache/reads/refresh.py"
SWEEP = "milena_cache/jobs/sweep.py"

TIER_TESTS = "tests/cache/disk_cache/test_tier.py"
NODE_TESTS = "tests/cache/disk_cache/test_tier_node.py"
SEGMENT_TESTS = "tests/cache/disk_cache/test_segments.py"

DISK_CACHE_BUGS: tuple[Bug, ...] = (
    Bug(
        "what is dropped while it is written to disk comes into the index",
        (
            Change(
                TIER,
                "            if not self.queue.written(item):\n",
                "            if self.queue.written(item) is None:\n",
            ),
        ),
        (f"{TIER_TESTS}::test_a_copy_is_dropped_with_its_entry_also_while_it_waits_and_while_it_is_written",),
    ),
    Bug(
        "what is dropped while it is read from disk is returned",
        (Change(TIER, "if now is None or (now.number, now.offset) != (found.number, found.offset):", "if False:"),),
        (f"{TIER_TESTS}::test_a_copy_that_is_dropped_while_it_is_read_is_not_returned",),
    ),
    Bug(
        "what an earlier process wrote is served without S3",
        (Change(TIER, "        if units <= self._doubted:\n", "        if units < self._doubted:\n"),),
        (f"{TIER_TESTS}::test_what_was_dropped_before_a_crash_is_unconfirmed_after_it",),
    ),
    Bug(
        "dirty values are written to the disk cache",
        (Change(TIER, " or not entry.etag or key in self._dirty:", " or not entry.etag:"),),
        (f"{TIER_TESTS}::test_only_clean_values_that_s3_can_confirm_are_written",),
    ),
    Bug(
        "a record that is written again for room comes back over what dropped it",
        (
            Change(
                TIER,
                "        if found is None or hash_of(record.key) != hash_ or record.key in self._dirty:\n",
                "        found = found or Found(0, 0, 0, 0, 1, 1, used=False)\n"
                "        if hash_of(record.key) != hash_ or record.key in self._dirty:\n",
            ),
        ),
        (f"{TIER_TESTS}::test_a_record_that_is_written_again_for_room_is_dropped_by_what_comes_meanwhile",),
    ),
    Bug(
        "a segment is closed while it is read",
        (
            Change(
                TIER,
                "        if not segment.readers:\n            self._remove(segment)\n",
                "        self._remove(segment)\n",
            ),
        ),
        (f"{TIER_TESTS}::test_a_segment_that_is_being_read_is_removed_after_that",),
    ),
    Bug(
        "the checksum of a value is not compared",
        (Change(RECORD, "    if crc32(value) != head.value_checksum:\n", "    if crc32(value) is None:\n"),),
        ("tests/cache/disk_cache/test_record.py::test_no_bit_of_a_record_changes_unnoticed",),
    ),
    Bug(
        "a segment of another bucket is read",
        (Change(RECORD, "    if found != identity:\n", "    if len(found) != len(identity):\n"),),
        (f"{SEGMENT_TESTS}::test_segments_of_others_are_removed_and_other_files_are_left",),
    ),
    Bug(
        "the files take more than they may",
        (
            Change(
                SEGMENTS,
                "        return self.used_bytes + self._unwritten() + size_at_most >",
                "        return self.used_bytes + size >",
            ),
        ),
        (f"{SEGMENT_TESTS}::test_the_files_never_take_more_than_they_may",),
    ),
    Bug(
        "a copy of an earlier ownership is served",
        (Change(READER, "        if copy.owned_since < owned_since:\n", "        if copy.owned_since < 0:\n"),),
        (f"{NODE_TESTS}::test_a_copy_of_an_earlier_ownership_is_confirmed_by_s3",),
    ),
    Bug(
        "a version that S3 has replaced stays on disk with its time",
        (Change(ENTRIES, "            self.copies.confirmed(key, entry)\n", "            pass\n"),),
        (f"{NODE_TESTS}::test_a_version_that_s3_has_replaced_does_not_become_fresh_again",),
    ),
    Bug(
        "what a HEAD has shown is taken back by a copy on disk",
        (
            Change(
                FEED,
                "            self.drop_copy(key)\n        self._notify_subscriber(key)\n",
                "            pass\n        self._notify_subscriber(key)\n",
            ),
        ),
        (f"{NODE_TESTS}::test_a_head_that_shows_another_version_drops_the_copy",),
    ),
    Bug(
        "a refresh leaves what is on disk",
        (Change(REFRESH, "        self._entries.doubt_copies()\n", ""),),
        (f"{NODE_TESTS}::test_what_is_dropped_below_a_prefix_is_confirmed_by_s3_also_on_disk",),
    ),
    Bug(
        "a purge leaves what is on disk",
        (Change(SWEEP, "            self._entries.doubt_copies()\n", "            pass\n"),),
        (f"{NODE_TESTS}::test_what_is_dropped_below_a_prefix_is_confirmed_by_s3_also_on_disk",),
    ),
)
