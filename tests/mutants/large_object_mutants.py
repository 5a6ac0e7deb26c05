"""Pure. Deliberate faults of blocks, and of objects that are written in parts; CI runs the test that notices each.

Each names one test that starts no process, and notices it within a few seconds.
"""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

LAYOUT = "milena_cache/blocks/layout.py"
BLOCK_READS = "milena_cache/blocks/block_reads.py"
CLUSTER_BLOCKS = "milena_cache/blocks/cluster_blocks.py"
ASSEMBLY = "milena_cache/writes/assembly.py"
PART_READS = "milena_cache/reads/part_reads.py"
SESSIONS = "milena_cache/writes/upload_sessions.py"
WRITE_THROUGH = "milena_cache/writes/write_through.py"
MILENA_CALL = "milena_cache/servers/resp/commands/server/milena_call.py"
BLOCK_READ = "milena_client/core/files/block_read.py"
PIECES = "milena_common/rpc/pieces.py"
OBJECT_COPIES = "milena_common/s3/object_copies.py"

BLOCK_TESTS = "tests/cache/blocks/test_block_reads.py"
CLUSTER_TESTS = "tests/cache/blocks/test_cluster_blocks.py"
DIRECT_TESTS = "tests/cache/reads/test_part_reads_of_blocks.py"
ACL_TESTS = "tests/cache/servers/resp/commands/connection/test_acl.py"
SESSION_TESTS = "tests/cache/writes/test_upload_sessions.py"

COPY_TESTS = "tests/common/s3/test_object_copies.py"
PIECE_TESTS = "tests/common/rpc/test_pieces.py"

LARGE_OBJECT_BUGS: tuple[Bug, ...] = (
    Bug(
        "a copy by S3 is of any version",
        (
            Change(
                OBJECT_COPIES,
                "copy.source, part, copy.writing(), if_match=found.etag",
                'copy.source, part, copy.writing(), if_match=""',
            ),
        ),
        (f"{COPY_TESTS}::test_a_source_that_is_replaced_is_copied_anew",),
    ),
    Bug(
        "a copy is made of what the cache has, without asking S3",
        (Change(OBJECT_COPIES, "            await self._objects.confirm(*copy.source, copy.reading())\n", ""),),
        (f"{COPY_TESTS}::test_a_small_object_is_put_with_what_is_kept_with_it",),
    ),
    Bug(
        "the pieces of a stream are of any version",
        (Change(PIECES, "got = await piece(start, length, etag)", 'got = await piece(start, length, "")'),),
        (f"{PIECE_TESTS}::test_a_reader_gets_no_bytes_of_another_version",),
    ),
    Bug(
        "a stream goes on after its object was deleted",
        (
            Change(
                PIECES,
                "if not found.successful or found.size != size or len(found.value) != length:",
                "if found.successful and len(found.value) != length:",
            ),
        ),
        (f"{PIECE_TESTS}::test_a_reader_gets_no_bytes_of_another_version",),
    ),
    Bug(
        "the end of a writer's stream ends its object",
        (
            Change(
                PIECES,
                "            step = await next_message()\n            if step is None:\n                raise",
                "            step = await next_message() or pb.UploadRequest(complete=True)\n"
                "            if step is None:\n                raise",
            ),
        ),
        (f"{PIECE_TESTS}::test_nothing_is_stored_if_the_stream_ends_before_the_object",),
    ),
    Bug(
        "blocks of two versions have one name",
        (
            Change(
                LAYOUT,
                "return [Block(key, etag, size, number) for number in range(first, last + 1)]",
                'return [Block(key, "", size, number) for number in range(first, last + 1)]',
            ),
        ),
        (f"{BLOCK_TESTS}::test_a_read_never_mixes_versions",),
    ),
    Bug(
        "a store that ignores the condition of a range is believed",
        (
            Change(
                BLOCK_READS,
                "if not isinstance(got, Stored) or got.size != size or not same_etag(got.etag, etag):",
                "if not isinstance(got, Stored):",
            ),
        ),
        (f"{BLOCK_TESTS}::test_a_store_that_ignores_conditions_is_found_out",),
    ),
    Bug(
        "a block of several keeps all that came with it in memory",
        (
            Change(
                BLOCK_READS,
                "bytes(value[at * self.block_bytes : (at + 1) * self.block_bytes])",
                "value[at * self.block_bytes : (at + 1) * self.block_bytes]",
            ),
        ),
        (f"{BLOCK_TESTS}::test_no_block_keeps_the_others_of_its_request_in_memory",),
    ),
    Bug(
        "a block that is in flight is fetched again",
        (
            Change(
                BLOCK_READS,
                "pending = None if value is not None else self._in_flight.get(block)",
                "pending = None",
            ),
        ),
        (f"{BLOCK_TESTS}::test_reads_share_the_blocks_that_are_in_flight",),
    ),
    Bug(
        "a block that is in flight is read ahead again",
        (
            Change(
                BLOCK_READS,
                "if block in self.memory or block in self._in_flight:",
                "if block in self.memory:",
            ),
        ),
        (f"{BLOCK_TESTS}::test_what_is_read_ahead_is_fetched_once_and_in_memory_when_it_is_read",),
    ),
    Bug(
        "a part of a large object may be of any length",
        (Change(PART_READS, "if part.length > self._max_part_bytes:", "if not part:"),),
        (
            "tests/cache/reads/test_part_reads.py::test_a_large_part_of_a_large_object_is_rejected_whatever_memory_has",
        ),
    ),
    Bug(
        "ranges that are cut into several requests lose the bytes between",
        (Change(BLOCK_READ, "        offset = end\n", "        offset = end + (end < stop)\n"),),
        ("tests/client/core/files/test_block_read.py::test_a_range_is_read_in_pieces_within_groups",),
    ),
    Bug(
        "replies of other nodes have no room to wait for",
        (
            Change(
                CLUSTER_BLOCKS,
                "async with fetch_bytes(self._budget, part.length, timeout):",
                "async with fetch_bytes(self._budget, 0, timeout):",
            ),
        ),
        (f"{CLUSTER_TESTS}::test_a_reply_of_another_node_waits_for_room_in_the_bytes_in_flight",),
    ),
    Bug(
        "the owner of a key returns blocks of a version that was replaced",
        (Change(PART_READS, "if not self._may_be_current(target.cache_key, etag):", "if not target:"),),
        (f"{DIRECT_TESTS}::test_the_owner_of_the_key_rejects_a_version_that_was_replaced",),
    ),
    Bug(
        "blocks are read without S3 where each read is to ask it",
        (
            Change(
                PART_READS,
                "if key in self._node.dirty or key in self._node.memory or not self._existence.keeps_results:",
                "if key in self._node.dirty or key in self._node.memory:",
            ),
        ),
        (f"{DIRECT_TESTS}::test_with_a_ttl_of_0_the_owner_of_the_key_serves_all_reads",),
    ),
    Bug(
        "any node reads any blocks from S3",
        (
            Change(
                PART_READS,
                "if value is None and not self.blocks.keeps(version, part):",
                "if value is None and not version:",
            ),
        ),
        (
            f"{DIRECT_TESTS}::test_a_node_that_does_not_keep_the_group_names_the_owner_of_the_key_unless_it_has_the_bytes",
        ),
    ),
    Bug(
        "blocks are read without the permission to read their object",
        (
            Change(
                MILENA_CALL,
                "if (session.guard is not None or argv[1] not in _ACCESS) and (",
                "if (session.guard is not None or argv[1] not in _ACCESS) and not request.if_match and (",
            ),
        ),
        (f"{ACL_TESTS}::test_blocks_of_a_large_object_need_the_permission_to_read_the_object",),
    ),
    Bug(
        "a client reads blocks of an object that has expired",
        (
            Change(
                BLOCK_READ,
                "part.length < 1 or (ttl is not None and now - at >= ttl)",
                "part.length < 1",
            ),
        ),
        ("tests/client/core/files/test_block_read.py::test_any_other_is_for_the_owner_of_the_key",),
    ),
    Bug(
        "a step that is repeated is added again",
        (Change(SESSIONS, "memoryview(step.value)[known:]", "memoryview(step.value)"),),
        (f"{SESSION_TESTS}::test_a_step_can_be_repeated",),
    ),
    Bug(
        "an object in parts leaves the dirty write that it replaces",
        (
            Change(
                WRITE_THROUGH,
                "if not await self._retire_earlier(key, deadline, strict=True):",
                "if not self:",
            ),
        ),
        (f"{SESSION_TESTS}::test_writes_of_the_key_before_and_after_stay_in_order",),
    ),
    Bug(
        "an object in parts leaves the entry that was in memory",
        (
            Change(
                WRITE_THROUGH,
                "            self._entries.invalidate(key)\n            if found is not None:",
                "            if found is not None:",
            ),
        ),
        (f"{SESSION_TESTS}::test_what_memory_has_of_the_object_before_is_not_served_any_more",),
    ),
    Bug(
        "an object in parts is not looked for after a lost reply",
        (Change(ASSEMBLY, "        if unknown:\n", "        if False:\n"),),
        (f"{SESSION_TESTS}::test_a_lost_reply_to_the_last_request_is_resolved",),
    ),
    Bug(
        "an object in parts is created over that of another writer",
        (Change(ASSEMBLY, '("", True) if found is None', '("", False) if found is None'),),
        (f"{SESSION_TESTS}::test_s3_itself_checks_that_the_object_is_new",),
    ),
)
