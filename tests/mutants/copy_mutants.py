"""Pure. Deliberate faults of copies, promotion and collecting; CI runs the test that must notice each.

Each names one test that starts no process, and notices it within a second or two.
"""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

REPLICATION = "milena_cache/copies/replication.py"
LINK = "milena_cache/copies/holder_link.py"
PROMOTION = "milena_cache/copies/promotion.py"
HOLDER = "milena_cache/copies/holder.py"
OWNERSHIP = "milena_cache/membership/ownership.py"

OWNER_TESTS = "tests/cache/copies/test_replication.py"
PROMOTION_TESTS = "tests/cache/copies/test_promotion.py"
HOLDER_TESTS = "tests/cache/copies/test_holder.py"
TOMBSTONE_TESTS = "tests/cache/handover/test_tombstones.py"
RING_TESTS = "tests/common/cluster/test_slot_assignment_copies.py"


def _bug(name: str, file: str, old: str, new: str, test: str) -> Bug:
    return Bug(name, (Change(file, old, new),), (test,))


COPY_BUGS: tuple[Bug, ...] = (
    # ---- the owner
    _bug(
        "a write is acknowledged before the copy",
        REPLICATION,
        "                elif not group.waiting:\n                    self._done(group)\n",
        "                else:\n                    self._done(group)\n",
        f"{OWNER_TESTS}::test_a_write_is_neither_acknowledged_nor_served_before_all_journals_have_it",
    ),
    _bug(
        "a write is acknowledged before it is in the owner's journal",
        LINK,
        "        self.waiting: set[HolderLink | None] = {None, *links}\n",
        "        self.waiting: set[HolderLink | None] = {*links}\n",
        f"{OWNER_TESTS}::test_a_write_is_neither_acknowledged_nor_served_before_all_journals_have_it",
    ),
    _bug(
        "a write that a holder has no room for counts as copied",
        LINK,
        "            if reply is Reply.FULL:\n                self._host.rejected",
        "            if reply is None:\n                self._host.rejected",
        f"{OWNER_TESTS}::test_a_holder_without_room_makes_writes_go_through_s3",
    ),
    _bug(
        "a ring with too few holders acknowledges",
        REPLICATION,
        '            short[first : last + 1] = b"\\1" * (last + 1 - first)\n',
        "            short[first : last + 1] = bytes(last + 1 - first)\n",
        f"{OWNER_TESTS}::test_a_write_in_a_ring_that_lost_its_holder_goes_through_s3",
    ),
    _bug(
        "a write through S3 leaves an older one at the holder",
        "milena_cache/writes/write_through.py",
        "            if not await self._copies_released(key, write.version, deadline):",
        "            if not deadline:",
        f"{OWNER_TESTS}::test_a_write_through_s3_waits_until_the_holder_has_given_up_what_is_older",
    ),
    _bug(
        "a write that failed stays at the holders that have it",
        REPLICATION,
        "        if not links or self.is_pending(key):\n",
        "        if links or self.is_pending(key):\n",
        f"{OWNER_TESTS}::test_a_write_that_failed_is_taken_back_at_the_holders_that_have_it",
    ),
    _bug(
        "what S3 has is not released at the holders",
        REPLICATION,
        "        for link in links:\n            link.release(Release(key, version))\n\n    def tombstone_added",
        "\n    def tombstone_added",
        f"{OWNER_TESTS}::test_what_s3_has_is_released_at_the_holder_within_50_ms",
    ),
    _bug(
        "a new holder gets only new writes",
        REPLICATION,
        "        keys = [key for key in self._dirty if slot_of(key) in slots]\n",
        "        keys: list[bytes] = []\n",
        f"{OWNER_TESTS}::test_a_new_holder_gets_everything_and_is_reported_when_it_has",
    ),
    _bug(
        "what was in flight is not sent again over a new connection",
        LINK,
        "        self._waiting.extendleft(reversed([group for group in groups if not group.done]))\n",
        "",
        f"{OWNER_TESTS}::test_a_connection_that_breaks_loses_and_repeats_nothing",
    ),
    _bug(
        "a restart serves what no holder has",
        PROMOTION,
        "            held = set(filter(self._replication.awaits_sync, mine))\n",
        "            held: set[int] = set()\n",
        f"{OWNER_TESTS}::test_a_restart_serves_a_write_only_when_the_holder_has_it",
    ),
    _bug(
        "a holder that does not confirm is not reported",
        LINK,
        "        if oldest is not None and now - oldest >= self._timeout:\n",
        "        if oldest is not None and now < oldest:\n",
        f"{OWNER_TESTS}::test_a_write_whose_holder_does_not_confirm_goes_through_s3",
    ),
    _bug(
        "a node that has taken slots over counts on the owner before alone",
        REPLICATION,
        "                    holders = (ListedHolder(node, True), *others)\n",
        "                    holders = (ListedHolder(node, True),)\n",
        f"{OWNER_TESTS}::test_the_holders_of_the_owner_before_have_the_writes_of_slots_that_were_just_taken_over",
    ),
    _bug(
        "a new holder is complete without the sound copy of a damaged record",
        REPLICATION,
        "            if isinstance(raw, bytes) and entry is not None and self._is_sound(raw, entry):\n",
        "            if isinstance(raw, bytes) and entry is None:\n",
        f"{OWNER_TESTS}::test_a_new_holder_gets_the_sound_copy_of_a_damaged_record_from_another_one",
    ),
    # ---- the holder and the new owner
    _bug(
        "a holder takes what the owner before has sent after the new owner's first writes",
        HOLDER,
        "        over = self._is_over(sender, prepared.slots)\n",
        "        over: set[int] = set()\n",
        f"{HOLDER_TESTS}::test_late_frames_of_the_owner_before_do_not_undo_what_the_new_owner_has_written",
    ),
    _bug(
        "a holder becomes complete while its slots move",
        "milena_common/cluster/slot_assignment.py",
        "        staying = without(known, [run[:2] for run in self.pending]) if self.pending else known\n",
        "        staying = known\n",
        f"{RING_TESTS}::test_no_holder_becomes_complete_while_the_slots_move",
    ),
    _bug(
        "an owner that has yet to collect serves when the last complete holder is lost",
        "milena_common/cluster/copy_losses.py",
        "            if complete and not survivor:\n",
        "            if complete and not survivor and not held:\n",
        f"{RING_TESTS}::test_a_slot_waits_for_the_last_holder_from_which_its_owner_has_yet_to_collect",
    ),
    _bug(
        "a lost owner that had yet to collect is waited for",
        "milena_common/cluster/copy_losses.py",
        "        if is_collecting(copy.held) and complete:\n",
        "        if not complete:\n",
        f"{RING_TESTS}::test_an_owner_that_left_before_it_had_collected_is_not_waited_for",
    ),
    _bug(
        "a lost owner that is listed as complete is waited for twice",
        "milena_common/cluster/copy_losses.py",
        " and each != owner)\n",
        ")\n",
        f"{RING_TESTS}::test_a_node_that_gets_slots_of_which_s3_has_everything_is_listed_as_complete",
    ),
    _bug(
        "an owner that has yet to collect can have its last complete holder taken off the list",
        "milena_common/cluster/slot_assignment.py",
        "            known = without(known, collecting)\n",
        "            pass\n",
        f"{RING_TESTS}::test_nothing_counts_of_the_slots_that_an_owner_collects_until_it_has_collected_them",
    ),
    _bug(
        "an owner reports that it has collected before it has",
        REPLICATION,
        "                slots.difference_update(self.unpromoted())\n",
        "                slots.difference_update(())\n",
        f"{PROMOTION_TESTS}::test_an_owner_that_the_ring_lists_as_collecting_reports_when_it_has_collected",
    ),
    _bug(
        "a node that gets slots of which S3 has everything serves its copies",
        PROMOTION,
        "        self._drop_slots(slots)\n        self._tombstones",
        "        self._tombstones",
        f"{PROMOTION_TESTS}::test_an_owner_of_slots_of_which_s3_has_everything_drops_its_copies",
    ),
    _bug(
        "a node that gets slots of which S3 has everything serves its own earlier writes",
        PROMOTION,
        "if slot_of(entry.key) in slots and entry.dead is None and not entry.upload.uploading:",
        "if False:",
        f"{PROMOTION_TESTS}::test_an_owner_of_slots_of_which_s3_has_everything_withholds_its_own_earlier_writes",
    ),
    _bug(
        "a node that was away takes the slots that another one had meanwhile as they were",
        OWNERSHIP,
        "                    kept.remove(begin, end)\n",
        "                    pass\n",
        f"{PROMOTION_TESTS}::"
        "test_a_node_that_was_away_while_another_one_had_its_slots_withholds_its_earlier_writes",
    ),
    _bug(
        "a node that has collected slots collects them again in the next ring",
        OWNERSHIP,
        "                self.whole.add(begin, end, COLLECTED)\n",
        "                self.whole.add(begin, end, WHOLE)\n",
        f"{PROMOTION_TESTS}::test_what_a_node_has_acknowledged_since_it_got_slots_of_which_s3_has_everything_stays",
    ),
    _bug(
        "a node that leaves with copies that it has not promoted reports that S3 has everything",
        PROMOTION,
        "        return max(1, sum(1 for slot in copied for _ in self._store.in_slot(slot)))\n",
        "        return 0\n",
        f"{PROMOTION_TESTS}::"
        "test_a_node_that_has_yet_to_collect_the_writes_of_its_slots_has_writes_that_s3_does_not_have",
    ),
    _bug(
        "a node that gets slots of which S3 has everything takes earlier writes that are handed in",
        PROMOTION,
        "        self._tombstones.raise_floor(Version(self._ownership.slot_map.epoch, 0))\n",
        "",
        f"{PROMOTION_TESTS}::"
        "test_an_owner_of_slots_of_which_s3_has_everything_takes_no_earlier_write_that_is_handed_in",
    ),
    _bug(
        "a withheld write is dropped although S3 has not got it",
        "milena_cache/writeback/withheld.py",
        "version is None or version < entry.version or",
        "version is not None and version < entry.version or",
        f"{PROMOTION_TESTS}::"
        "test_an_owner_of_slots_of_which_s3_has_everything_takes_no_earlier_write_that_is_handed_in",
    ),
    _bug(
        "a node counts as complete by the last ring that it got",
        PROMOTION,
        "(_slots_listing(before, me, complete=True) - incomplete)",
        "_slots_listing(before, me, complete=True)",
        f"{PROMOTION_TESTS}::test_an_owner_that_was_a_complete_holder_in_the_last_ring_it_got_looks_at_s3_if_this_one"
        "_doubts_it",
    ),
    _bug(
        "an owner that was lost while it collected returns as one that has everything",
        "milena_common/cluster/slot_assignment.py",
        "if run.address and part.awaited.complete",
        "if run.address",
        f"{RING_TESTS}::test_an_owner_that_is_lost_while_it_collects_returns_as_one_that_has_not_everything",
    ),
    _bug(
        "a restarted node takes a router's word for what it owns",
        "milena_cache/service/requests.py",
        " or ownership.may_be_elsewhere:",
        ":",
        f"{PROMOTION_TESTS}::test_a_restarted_holder_takes_no_router_s_word_for_what_it_owns_before_it_has_a_ring",
    ),
    _bug(
        "a holder's word that it has no writes counts for slots that it does not know of",
        "milena_router/ring/membership.py",
        "            and not self._has_unknown_slots(lease)\n",
        "",
        "tests/behaviour/copies/test_ring.py::"
        "test_a_holder_that_leaves_before_it_knows_that_it_has_a_lost_owners_slots_is_waited_for",
    ),
    _bug(
        "an upload that has looked at S3 goes on although another node may own the key",
        "milena_cache/writeback/uploads/upload.py",
        "            if not may_send():\n",
        "            if not may_send:\n",
        "tests/cache/writeback/test_loop.py::"
        "test_an_upload_changes_nothing_in_s3_once_another_node_may_own_the_key",
    ),
    _bug(
        "a holder takes frames of an owner by an older ring",
        HOLDER,
        "            return Reply.STALE\n",
        "            pass\n",
        f"{HOLDER_TESTS}::test_a_sender_that_does_not_own_the_slots_any_more_is_rejected",
    ),
    _bug(
        "a copy is confirmed before its sync",
        HOLDER,
        "        if taken.number:\n",
        "        if not taken.number:\n",
        f"{HOLDER_TESTS}::test_a_copy_is_confirmed_only_after_the_sync",
    ),
    _bug(
        "a listed holder drops its copies",
        PROMOTION,
        "        return slot in mine or slot in self._listed or slot in self._holder.ahead\n",
        "        return slot in mine or slot in self._holder.ahead\n",
        f"{PROMOTION_TESTS}::test_a_holder_that_restarts_is_promoted_like_one_that_does_not",
    ),
    _bug(
        "a new owner serves before it has collected",
        PROMOTION,
        "                ready -= part.slots - self._collecting.done(part)\n",
        "                ready -= set()\n",
        f"{PROMOTION_TESTS}::test_a_new_owner_collects_from_all_living_holders_before_it_serves",
    ),
    _bug(
        "a promoted copy stays a copy",
        PROMOTION,
        "        self._store.pop_copy(key)\n        known = self._dirty.get(key)\n",
        "        known = self._dirty.get(key)\n",
        f"{PROMOTION_TESTS}::test_a_restart_after_a_promotion_finds_each_write_once",
    ),
    # ---- deletes that S3 is about to get
    *(
        _bug(
            f"a delete ({how}) is recorded only when S3 has it",
            file,
            old,
            new,
            f"{TOMBSTONE_TESTS}::"
            f"test_a_put_of_a_lost_node_does_not_come_back_if_the_owner_is_killed_while_s3_deletes",
        )
        for how, file, old, new in (
            (
                "through",
                "milena_cache/writes/write_through.py",
                "        if key in self._dirty or not self.deleting(key, version):\n",
                "        if True:\n",
            ),
            (
                "memory",
                "milena_cache/writeback/loop.py",
                "        return self._may_send(key) and self.deleting(key, entry.version)\n",
                "        return False\n",
            ),
            (
                "expiry",
                "milena_cache/writeback/expired_objects.py",
                "        if not self.deleting(key, ref, found.metadata):\n",
                "        if True:\n",
            ),
        )
    ),
    _bug(
        "a holder keeps its own earlier write of a key that the owner deletes",
        PROMOTION,
        "        holder.on_tombstone = lambda key: self.retire_superseded((key,))\n",
        "",
        f"{PROMOTION_TESTS}::test_a_holder_gives_up_its_own_earlier_write_of_a_key_that_the_owner_deletes",
    ),
    _bug(
        "a new owner serves its own earlier write of a key that the owner before has deleted",
        PROMOTION,
        "        self.retire_superseded(self._tombstones.keys_of(slots))\n",
        "",
        f"{PROMOTION_TESTS}::test_a_holder_gives_up_its_own_earlier_write_of_a_key_that_the_owner_deletes",
    ),
)
