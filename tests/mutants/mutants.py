"""Pure. Deliberate faults, each a change of a line or two of the source, and the tests that must notice it."""

from __future__ import annotations

from tests.mutants.access_mutants import ACCESS_BUGS
from tests.mutants.cluster_mutants import CLUSTER_BUGS, MORE_CLUSTER_BUGS
from tests.mutants.copy_mutants import COPY_BUGS
from tests.mutants.disk_cache_mutants import DISK_CACHE_BUGS
from tests.mutants.event_mutants import EVENT_BUGS
from tests.mutants.large_object_mutants import LARGE_OBJECT_BUGS
from tests.mutants.message_mutants import MESSAGE_BUGS
from tests.mutants.mutant import Bug, Change
from tests.mutants.prefix_job_mutants import PREFIX_JOB_BUGS
from tests.mutants.sample_mutants import SAMPLE_BUGS
from tests.mutants.script_mutants import SCRIPT_BUGS

CONDITIONS = "tests/cache/writes/test_writer_conditions.py"
CLASSES = "tests/behaviour/test_write_classes.py"
ORDER = "tests/behaviour/test_write_order.py"
MACHINE = "tests/behaviour/test_write_state_machine.py"
RECORD = "tests/cache/journal/test_record.py"
REPLAY = "tests/cache/writeback/test_recovery.py"
EXPIRY = "tests/behaviour/test_object_expiry.py"
NODE = "tests/behaviour/test_read_state_machine.py"
CHANGES = "tests/cache/memory/test_change_feed.py"
NTH = "tests/faults/test_nth_failure.py"
FULL_AT_ANY = "test_a_disk_that_is_full_once_at_any_call_costs_no_acknowledged_write"
FAILS_AT_ANY = "test_a_disk_that_fails_at_any_call_stops_the_node_and_costs_no_acknowledged_write"
KILLS = "tests/faults/test_kill_loop.py"
SICK = "tests/faults/test_s3_sick.py"
DOWN = "tests/faults/test_s3_down.py"
POISON = "tests/faults/test_poison.py"
TWO = "tests/faults/test_two_writers.py"
STOP = "tests/faults/test_stopping.py"
TALKS = "tests/cache/servers/resp/test_connection_state_machine.py"
OVERWRITE = "tests/cache/writes/test_journaled_overwrite.py"
S3_CLOCK = "tests/cache/origin/s3/test_clock.py"
LINEAGES = "tests/behaviour/test_lineages.py"
POISONED = "tests/cache/writeback/test_failing.py"
LISTING = "tests/cache/reads/test_listing.py"
OVERTAKING = "tests/behaviour/test_overtaking.py"
WRITER = "tests/cache/writes/test_writer.py"
BUCKETS = "tests/cache/origin/test_known_buckets.py"
TRANSACTIONS = "tests/cache/servers/resp/commands/connection/test_transactions.py"
CHECKER = "tests/faults/linearizability/checker.py"
CHECKED = "tests/faults/linearizability/test_checker.py"


BUGS: tuple[Bug, ...] = (
    Bug(
        "acknowledged before the journal is synced",
        (
            Change(
                "milena_cache/journal/group_commit.py",
                "            await commit.committing\n",
                "            for write in batch:\n"
                "                write.on_done(write.token, True)\n"
                "                if not write.future.done():\n"
                "                    write.future.set_result(None)\n"
                "            batch.clear()\n"
                "            await commit.committing\n",
            ),
        ),
        (f"{CLASSES}::test_nothing_is_acknowledged_or_returned_before_the_commit_finished", MACHINE, KILLS),
    ),
    Bug(
        "deletes are not replayed",
        (
            Change(
                "milena_cache/writeback/recovery.py",
                "            if (base, conditional, keeps) != belief_of:\n",
                "            if value is None:\n                continue\n"
                "            if (base, conditional, keeps) != belief_of:\n",
            ),
        ),
        (f"{CLASSES}::test_a_delete_is_a_write_like_any_other", MACHINE, KILLS),
    ),
    Bug(
        "a read that found a write to be revalidated reads S3 although there is a newer write by then",
        (
            Change(
                "milena_cache/reads/reader.py",
                "        if dirty is None or dirty.belief.owned_since >= owned_since:\n"
                "            return self.lookup(target, owned_since)\n",
                "        if dirty is None or dirty.belief.owned_since >= owned_since:\n            return None\n",
            ),
        ),
        ("tests/cache/reads/test_reader.py::test_a_write_between_a_look_and_its_revalidation_is_seen",),
    ),
    Bug(
        "of two records of a key, the older is replayed",
        (
            Change(
                "milena_cache/writeback/recovery.py",
                "            dirty_writes.replace(entry)\n",
                "            if entry.key in dirty:\n"
                "                continue\n"
                "            dirty_writes.replace(entry)\n",
            ),
        ),
        (f"{ORDER}::test_of_two_records_of_a_key_the_later_one_counts", MACHINE, KILLS),
    ),
    Bug(
        "uploads of one key run side by side",
        (
            Change(
                "milena_cache/writeback/loop.py",
                "        async with self._s3_locks.hold(key, None):\n",
                "        if True:\n",
            ),
            Change("milena_cache/writeback/loop.py", "not upload.uploading and not entry.dead", "not entry.dead"),
        ),
        (f"{ORDER}::test_a_key_has_one_upload_at_a_time", MACHINE, SICK),
    ),
    Bug(
        "a record is taken out when its upload begins",
        (
            Change(
                "milena_cache/writeback/loop.py",
                "            self._dirty.upload_began(entry)\n",
                "            self._dirty.upload_began(entry)\n"
                "            for seq in entry.records():\n"
                "                self._releases.release(seq, key)\n",
            ),
        ),
        (f"{ORDER}::test_a_record_stays_until_s3_has_its_write", MACHINE, KILLS),
    ),
    Bug(
        "the end of an upload takes a newer write with it",
        (
            Change(
                "milena_cache/writeback/loop.py",
                "        if entry.version != write.version:\n"
                "            self._queue(entry, now + self._delay)\n"
                "            return\n",
                "",
            ),
        ),
        (f"{ORDER}::test_an_upload_that_ends_late_does_not_take_a_newer_write_with_it", MACHINE, SICK),
    ),
    Bug(
        "checksums are not verified",
        (
            Change(
                "milena_cache/journal/record.py",
                "    intact = len(body) == size and crc32(body) == value_sum\n",
                "    intact = True\n",
            ),
        ),
        (f"{ORDER}::test_a_value_that_the_disk_has_changed_is_neither_returned_nor_uploaded", RECORD, REPLAY),
    ),
    Bug(
        "an older write overwrites a later one in S3",
        (
            Change(
                "milena_cache/writeback/uploads/reconcile.py",
                "if version is not None and version > ours:",
                "if False:",
            ),
        ),
        (f"{CLASSES}::test_an_older_record_never_overwrites_what_was_written_later", MACHINE),
    ),
    Bug(
        "versions begin anew after a restart",
        (
            Change(
                "milena_cache/journal/version_allocator.py",
                'max(int(wall * 1000), int(metadata.get("epoch", 0)))',
                "int(wall)",
            ),
            Change(
                "milena_cache/journal/version_allocator.py",
                'max(int(wall * 1_000_000), int(metadata.get("reserved", 0)))',
                "0",
            ),
        ),
        (f"{ORDER}::test_a_write_after_a_restart_is_later_than_all_before_it_whatever_the_time_of_day", MACHINE),
    ),
    Bug(
        "uploads make no condition",
        (
            Change(
                "milena_cache/writeback/uploads/upload.py",
                "            if_match=etag,\n            # Without",
                "            # Without",
            ),
            Change(
                "milena_cache/writeback/uploads/upload.py",
                "            if_absent=conditional and not isinstance(base, str),\n",
                "",
            ),
        ),
        (
            f"{ORDER}::test_a_change_by_another_writer_is_noticed",
            f"{CLASSES}::test_a_condition_holds_at_s3_too",
            TWO,
        ),
    ),
    Bug(
        "our own version in S3 is not known again",
        (
            Change(
                "milena_cache/writeback/uploads/reconcile.py",
                "version = stamped(found.metadata, ref)",
                "version = None",
            ),
        ),
        (f"{ORDER}::test_a_lost_response_is_no_conflict", MACHINE, SICK),
    ),
    Bug(
        "an unfinished delete makes what comes after it a conflict",
        (
            Change(
                "milena_cache/writeback/uploads/upload.py",
                "maybe_absent=belief.maybe_absent",
                "maybe_absent=False",
            ),
        ),
        ("tests/behaviour/test_own_deletes.py", KILLS, SICK),
    ),
    Bug(
        "what S3 refuses for good is forgotten",
        (
            Change(
                "milena_cache/writeback/loop.py",
                "            self._dirty_writes.mark_dead(entry, str(failure))\n",
                "            self._dirty_writes.retire(entry)\n",
            ),
        ),
        (f"{ORDER}::test_a_write_that_s3_rejects_for_good_is_kept_and_read_until_it_is_retried", POISON),
    ),
    Bug(
        "a full disk is acknowledged",
        (
            Change(
                "milena_cache/journal/group_commit.py",
                "            write.fail(JournalFull(str(error)))\n",
                "            write.on_done(write.token, False)\n            write.future.set_result(None)\n",
            ),
        ),
        (f"{CLASSES}::test_a_full_disk_means_write_through_until_there_is_room", MACHINE, f"{NTH}::{FULL_AT_ANY}"),
    ),
    Bug(
        "after a failed sync the node goes on",
        (
            Change(
                "milena_cache/journal/group_commit.py", "        self.failed.set()\n", '        self.failure = ""\n'
            ),
        ),
        (f"{CLASSES}::test_a_failed_sync_acknowledges_nothing_and_stops_the_node", f"{NTH}::{FAILS_AT_ANY}"),
    ),
    Bug(
        "the journal is not synced",
        (Change("milena_cache/journal/lmdb_disk.py", "mode=0o600,", "mode=0o600, sync=False,"),),
        (f"{NTH}::test_a_system_call_that_fails_costs_no_acknowledged_write",),
    ),
    Bug(
        "a flush does not wait",
        (Change("milena_cache/writeback/flush.py", "while self._number_pending(waiter):", "while False:"),),
        (f"{ORDER}::test_a_flush_returns_when_s3_has_what_was_dirty", STOP),
    ),
    Bug(
        "a write through leaves the record of what it replaces",
        (
            Change(
                "milena_cache/writes/write_through.py",
                "            self._dirty_writes.retire(entry)\n        return not strict",
                "            self._dirty.pop(entry)\n        return not strict",
            ),
        ),
        (CLASSES, MACHINE, KILLS),
    ),
    Bug(
        "a delete is seen before a crash can no longer undo it",
        (
            Change(
                "milena_cache/writes/write_through.py",
                "first = strict and entry is not None and self._dirty_writes.release_records(entry)",
                "first = False",
            ),
        ),
        (
            f"{CONDITIONS}::test_a_delete_whose_earlier_record_cannot_be_removed_is_not_seen_and_then_undone_by_a_crash",
        ),
    ),
    Bug(
        "a delete begins while a crash could bring back what it deletes",
        (
            Change(
                "milena_cache/writes/write_through.py",
                "if strict and not await self._let_go(key, deadline):",
                "if strict and not strict:",
            ),
        ),
        (f"{CONDITIONS}::test_a_delete_does_not_begin_while_a_crash_could_bring_back_what_s3_had",),
    ),
    Bug(
        "S3 gets the end of a part before all of it has come",
        (Change("milena_common/s3/body/streamed.py", "if not is_last or self._trailers is not None:", "if True:"),),
        ("tests/common/s3/body/test_streamed.py::test_a_checksum_behind_the_body_counts",),
    ),
    Bug(
        "a write in the class memory takes out the record below it",
        (Change("milena_cache/writeback/dirty_writes.py", "entry.shadowed_seq = records.pop()", "pass"),),
        (f"{ORDER}::test_a_write_in_the_class_memory_does_not_take_out_the_record_below_it", MACHINE, STOP),
    ),
    Bug(
        "write-back takes more than its budget",
        (
            Change(
                "milena_cache/writeback/dirty_table.py", "return self.bytes + cost <= self.max_bytes", "return True"
            ),
        ),
        (f"{ORDER}::test_no_more_is_dirty_than_the_budget_allows", DOWN),
    ),
    Bug(
        "reads tell the copy, and not the dirty entry",
        (
            Change(
                "milena_cache/reads/reader.py",
                "return self._reply_dirty(dirty) if dirty.belief.owned_since >= owned_since else None",
                "pass",
            ),
        ),
        (f"{CLASSES}::test_a_write_back_is_acknowledged_from_the_journal_and_read_before_s3_has_it", MACHINE, STOP),
    ),
    Bug(
        "replay loses when objects end",
        (Change("milena_cache/writeback/recovery.py", "expires_at=expires_at or NEVER", "expires_at=NEVER"),),
        (f"{EXPIRY}::test_the_expiry_survives_a_restart", MACHINE),
    ),
    Bug(
        "what ends before its upload leaves the older object in S3",
        (
            Change(
                "milena_cache/writeback/loop.py",
                "if self._dirty_writes.is_gone(entry) and entry.deleted and not self._may_be_in_s3(entry):",
                "if self._dirty_writes.is_gone(entry) and entry.expired:",
            ),
        ),
        (f"{EXPIRY}::test_an_older_value_does_not_come_back", MACHINE),
    ),
    Bug(
        "uploads do not tell S3 when objects end",
        (
            Change(
                "milena_cache/writeback/uploads/upload.py",
                "{**self._stamp(write, write.ref), **expires_metadata(write.expires_at)}",
                "self._stamp(write, write.ref)",
            ),
        ),
        (f"{EXPIRY}::test_an_expired_object_is_absent_for_every_reader", MACHINE),
    ),
    Bug(
        "a copy is told beyond the end of its object",
        (
            Change(
                "milena_cache/reads/reader.py",
                "        if entry.expires_at and self._is_expired(entry):\n            return self._expired",
                "        if False:\n            return self._expired",
            ),
        ),
        (f"{EXPIRY}::test_an_expired_object_is_absent_for_every_reader", NODE, CHANGES),
    ),
    Bug(
        "what has ended is removed, whatever somebody made of it since",
        (
            Change("milena_cache/writeback/expired_objects.py", "if not self.is_over(found, ref):", "if False:"),
            Change("milena_cache/writeback/expired_objects.py", "self._is_over_at_s3(found, ref)", "True"),
            Change(
                "milena_cache/writeback/expired_objects.py", 'if_match=etag if conditional else ""', 'if_match=""'
            ),
        ),
        (f"{EXPIRY}::test_what_was_written_in_between_is_not_removed",),
    ),
    Bug(
        "an object is removed although S3's clock does not say that it has ended",
        (Change("milena_cache/writeback/expired_objects.py", "self._is_over_at_s3(found, ref)", "True"),),
        (f"{S3_CLOCK}::test_an_object_is_removed_only_on_the_word_of_s3s_own_clock",),
    ),
    Bug(
        "the machine's clock counts, however wrong it is",
        (
            Change(
                "milena_cache/origin/s3/clock.py",
                "            return wall\n        return there",
                "            return wall\n        return wall",
            ),
        ),
        (f"{S3_CLOCK}::test_what_is_dirty_is_not_given_up", MACHINE),
    ),
    Bug(
        "versions of another cluster are compared with the own ones",
        (
            Change(
                "milena_cache/writeback/uploads/reconcile.py",
                "if version is not None and lineage_of(",
                "if False and lineage_of(",
            ),
        ),
        (f"{LINEAGES}::test_a_write_through_writes_over_what_another_cluster_wrote", MACHINE),
    ),
    Bug(
        "versions of the own cluster are not compared",
        (
            Change(
                "milena_cache/writeback/uploads/reconcile.py",
                "lineage_of(found.metadata) not in kin:",
                "lineage_of(found.metadata):",
            ),
        ),
        (f"{LINEAGES}::test_within_a_cluster_the_later_version_stays",),
    ),
    Bug(
        "retries take every slot",
        (
            Change(
                "milena_cache/writeback/uploads/slots.py",
                "self.fresh < max(1, limit - self.retries)",
                "self.retries < 1",
            ),
        ),
        (f"{POISONED}::test_keys_that_get_no_response_do_not_delay_others",),
    ),
    Bug(
        "while S3 is taken to be down, no fresh key is tried",
        (
            Change(
                "milena_cache/writeback/uploads/throttle.py",
                "        if self.down and not retry:\n",
                "        if False:\n",
            ),
            Change(
                "milena_cache/writeback/uploads/throttle.py",
                "len(self._failed) < DOWN_KEYS:\n            return",
                "False:\n            return",
            ),
        ),
        (f"{POISONED}::test_nor_in_a_drain", f"{POISONED}::test_keys_that_always_get_500_do_not_delay_others"),
    ),
    Bug(
        "a listing knows nothing of the uploads since it began",
        (
            Change(
                "milena_cache/writeback/recent_uploads.py",
                "        if not self._listings:\n            return",
                "        if True:\n            return",
            ),
        ),
        (f"{LISTING}::test_a_delete_that_is_uploaded_while_s3_is_queried_is_not_listed",),
    ),
    Bug(
        "who follows a key is not told of its end",
        (
            Change(
                "milena_cache/writeback/expired_objects.py",
                "            return\n        self._entries.change_feed.notify(key)\n",
                "            return\n",
            ),
        ),
        (f"{CHANGES}::test_every_way_to_another_value_is_notified", CHANGES),
    ),
    Bug(
        "a read overtakes a write of its connection",
        (
            Change(
                "milena_common/resp/command_ordering.py",
                '    "read": ("write", "modify"),\n',
                '    "read": (),\n',
            ),
        ),
        (
            "tests/cache/servers/resp/test_connection.py::test_a_read_sees_the_write_before_it_and_not_the_one_after_it",
            TALKS,
        ),
    ),
    Bug(
        "a write of its connection overtakes a read",
        (
            Change(
                "milena_common/resp/command_ordering.py",
                '    "write": ("read", "modify"),\n',
                '    "write": (),\n',
            ),
        ),
        (
            "tests/cache/servers/resp/test_connection.py::test_a_read_sees_the_write_before_it_and_not_the_one_after_it",
            TALKS,
        ),
    ),
    Bug(
        "a deferred answer comes before the word of it",
        (Change("milena_cache/servers/resp/commands/connection/client.py", "    behind_all=True,\n", ""),),
        (
            "tests/cache/servers/resp/test_connection_order.py::test_a_deferred_reply_does_not_come_before_its_announcement",
        ),
    ),
    Bug(
        "what waits is answered in a later protocol",
        (Change("milena_cache/servers/resp/running.py", "if command.behind_all:", "if False:"),),
        (
            "tests/cache/servers/resp/test_connection_order.py::test_no_deferred_reply_comes_after_the_end_of_deferring",
        ),
    ),
    Bug(
        "a message overtakes the answer that it is about",
        (Change("milena_cache/servers/resp/output_buffer.py", "        if self._ready:\n", "        if False:\n"),),
        (
            "tests/cache/servers/resp/test_connection_order.py::test_a_push_does_not_overtake_a_reply_that_waits_for_the_client",
        ),
    ),
    Bug(
        "deferred answers are lost at the end of a connection",
        (Change("milena_cache/servers/resp/connection.py", " or self._out.behind", ""),),
        ("tests/cache/servers/resp/test_connection_order.py",),
    ),
    Bug(
        "a write in the class memory overwrites one of the journal",
        (Change("milena_cache/writeback/dirty_table.py", "            and not self.journaled\n", ""),),
        (f"{OVERWRITE}::test_what_the_journal_has_stays_there",),
    ),
    Bug(
        "a write in memory overwrites what is being uploaded",
        (
            Change(
                "milena_cache/writeback/dirty_table.py",
                "            and upload.queued\n            and not upload.uploading\n",
                "",
            ),
        ),
        (f"{OVERWRITE}::test_what_is_being_uploaded_stays_as_it_is",),
    ),
    Bug(
        "a write in a bucket that does not exist is acknowledged",
        (
            Change(
                "milena_cache/writes/writer.py",
                "            and change.target.ref.bucket in self.buckets\n",
                "",
            ),
        ),
        (f"{BUCKETS}::test_a_write_in_a_bucket_that_does_not_exist_is_not_acknowledged",),
    ),
    Bug(
        "a write in a bucket of which S3 does not reply is rejected",
        (
            Change(
                "milena_cache/origin/known_buckets.py",
                "if isinstance(failure, OriginFailure) and failure.fault is Fault.NO_BUCKET:",
                "if isinstance(failure, OriginFailure):",
            ),
        ),
        (f"{BUCKETS}::test_while_s3_is_out_of_order_a_write_is_taken_and_s3_gets_another_request_later",),
    ),
    Bug(
        "a write that takes the short way overtakes one that waits",
        (
            Change(
                "milena_cache/writes/writer.py",
                "        self._write_locks.announce(change.target.cache_key, task)",
                "        pass",
            ),
        ),
        (OVERTAKING,),
    ),
    Bug(
        "what has ended takes a newer write with it",
        (
            Change(
                "milena_cache/writeback/loop.py",
                "                if self._dirty.get(key) is entry:",
                "                if True:",
            ),
        ),
        (OVERTAKING,),
    ),
    Bug(
        "of a transaction of SETs some are done where all have no room",
        (
            Change(
                "milena_cache/writes/journaled.py",
                "        if not self._fits_in_memory(keeping, sum([len(value) for value in values])):",
                "        if not self._fits_in_memory(0, 0):",
            ),
        ),
        (f"{TRANSACTIONS}::test_of_sets_for_which_there_is_no_room_none_is_done",),
    ),
    Bug(
        "a transaction of SETs has keys of several slots",
        (
            Change(
                "milena_cache/servers/resp/state/plain_sets.py",
                "                if slot_of(key) != slot:\n                    return False\n",
                "                pass\n",
            ),
        ),
        (f"{TRANSACTIONS}::test_a_ring_that_changes_before_exec_has_nothing_written_of_its_sets",),
    ),
    Bug(
        "a hit is told from before the ring changed",
        (
            Change(
                "milena_cache/servers/resp/state/plain_gets.py",
                "checked_at <= oldest or checked_since < owned_since:",
                "checked_at <= oldest:",
            ),
        ),
        ("tests/cache/servers/resp/state/test_plain_gets.py",),
    ),
    Bug(
        "a hit is told that has ended",
        (
            Change(
                "milena_cache/servers/resp/state/plain_gets.py",
                "if type(entry) is not SampledEntry or value is None",
                "if value is None",
            ),
        ),
        ("tests/cache/servers/resp/state/test_plain_gets.py",),
    ),
    Bug(
        "a configuration is dropped for one that has used more",
        (Change(CHECKER, "            if other & way == other:\n", "            if other | way == other:\n"),),
        (CHECKED,),
    ),
    Bug(
        "the checker takes a write of unknown outcome for one that never was",
        (Change(CHECKER, "            if useful < invoked:\n", "            if True:\n"),),
        (CHECKED,),
    ),
    Bug(
        "the checker lets a get return anything",
        (Change(CHECKER, "            if not self._satisfied(value) & bit:\n", "            if False:\n"),),
        (CHECKED,),
    ),
    Bug(
        "the checker loses what a call saw just before a write's last chance",
        (Change(CHECKER, "                        self._merge(self._with(call))\n", ""),),
        (CHECKED,),
    ),
    Bug(
        "the checker lets an earlier write of a process follow a later one",
        (Change(CHECKER, "                new_way |= write.bars\n", ""),),
        (CHECKED,),
    ),
    Bug(
        "the checker forgets that a failed condition names a value",
        (
            Change(
                CHECKER,
                "            for value in (call.sees, call.misses, call.condition):\n",
                "            for value in (call.sees, call.condition):\n",
            ),
        ),
        (CHECKED,),
    ),
    Bug(
        "the checker drops a condition that can still hold",
        (
            Change(
                CHECKER,
                "            if call.condition not in values and self._writers[call.condition] <= 0\n",
                "            if call.condition not in values\n",
            ),
        ),
        (CHECKED,),
    ),
    Bug(
        "the checker takes calls that meet in a point of time for ordered",
        (Change(CHECKER, "    INVOKED = 0\n    RESPONDED = 1\n", "    INVOKED = 1\n    RESPONDED = 0\n"),),
        (CHECKED,),
    ),
    Bug(
        "the checker ignores conditions",
        (
            Change(
                CHECKER,
                "            if not done & write.bit and write.condition in (ANY, value):\n",
                "            if not done & write.bit:\n",
            ),
        ),
        (CHECKED,),
    ),
    Bug(
        "a bound that is exceeded counts as linearizable",
        (
            Change(
                CHECKER,
                "            return Result(Verdict.UNDECIDED, self._work)\n",
                "            return Result(Verdict.LINEARIZABLE, self._work)\n",
            ),
        ),
        (CHECKED,),
    ),
    Bug(
        "a HEAD shows another object than the entry, which is served when S3 fails",
        (
            Change(
                "milena_cache/reads/reader.py",
                "        if before is not None and before.checked_at < requested_at:\n",
                "        if before is None:\n",
            ),
        ),
        ("tests/cache/reads/test_reader.py::test_what_a_head_has_shown_is_not_followed_by_an_older_value",),
    ),
    Bug(
        "a read beside a failed write shows another object than the entry, which is served when S3 fails",
        (
            Change(
                "milena_cache/reads/reader.py",
                "not differ(now, before) and differ(now, entry):\n",
                "not differ(now, before) and not differ(now, entry):\n",
            ),
        ),
        (f"{WRITER}::test_after_a_read_beside_a_failed_write_has_shown_a_version_nothing_older_is_served",),
    ),
    Bug(
        "the error of a condition shows another object than the entry, which is served when S3 fails",
        (
            Change(
                "milena_cache/memory/entries.py",
                "        if entry is None or not known.is_same(entry):\n",
                "        if entry is None:\n",
            ),
        ),
        (f"{WRITER}::test_after_a_failed_condition_has_shown_a_write_nothing_older_is_served",),
    ),
    *CLUSTER_BUGS,
    *COPY_BUGS,
    *MORE_CLUSTER_BUGS,
    *ACCESS_BUGS,
    Bug(
        "a walk through the keys of a memory misses those that move",
        (
            Change(
                "milena_cache/eviction/key_queue.py",
                "                    walk.taken.append(key)\n",
                "                    pass\n",
            ),
        ),
        ("tests/cache/eviction/test_key_queue.py::test_a_walk_visits_what_stays_whatever_comes_and_moves",),
    ),
    *DISK_CACHE_BUGS,
    *EVENT_BUGS,
    *LARGE_OBJECT_BUGS,
    *MESSAGE_BUGS,
    *PREFIX_JOB_BUGS,
    *SAMPLE_BUGS,
    *SCRIPT_BUGS,
)
