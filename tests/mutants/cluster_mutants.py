"""Pure. Deliberate faults of leases, promises, releases and moves of slots; CI runs the test that must notice each.

Each names one test that starts no process, and notices it within a second or two.
"""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

FENCE = "milena_cache/membership/fence.py"
NODE_FENCE = "milena_cache/membership/node_fence.py"
PROMISES = "milena_cache/membership/promises.py"
OWNERSHIP = "milena_cache/membership/ownership.py"
SOURCE = "milena_cache/handover/source.py"
DESTINATION = "milena_cache/handover/destination.py"
HANDOVER = "milena_cache/handover/handover.py"
RELEASES = "milena_router/ring/losses/releases.py"
MEMBERSHIP = "milena_router/ring/membership.py"

FENCE_TESTS = "tests/cache/membership/test_fence.py"
PROMISE_TESTS = "tests/cache/membership/test_promises.py"
OWNERSHIP_TESTS = "tests/cache/membership/test_ownership.py"
FENCED_TESTS = "tests/cache/servers/resp/test_server_fenced.py"
HANDOVER_TESTS = "tests/cache/handover/test_handover.py"
FORMER_OWNER_TESTS = "tests/cache/handover/test_former_owner.py"
RELEASE_TESTS = "tests/router/ring/losses/test_releases.py"
MOVE_TESTS = "tests/router/ring/test_membership_moves.py"
EXEC_TESTS = "tests/cache/servers/resp/commands/connection/test_milena_exec.py"

COUNTED_LEASE = f"{FENCE_TESTS}::test_a_lease_counts_from_its_request_and_ends_before_it_does_at_the_router"
IN_QUEUE = f"{HANDOVER_TESTS}::test_a_write_in_the_journals_queue_goes_with_the_slot"


def _bug(name: str, file: str, old: str, new: str, test: str) -> Bug:
    return Bug(name, (Change(file, old, new),), (test,))


CLUSTER_BUGS: tuple[Bug, ...] = (
    # ---- leases
    _bug(
        "a node serves on after its lease",
        FENCE,
        "self.is_open = not self.active or now < until\n",
        "self.is_open = not self.active or self.is_open or now < until\n",
        COUNTED_LEASE,
    ),
    _bug(
        "the margin of a lease is not subtracted",
        FENCE,
        "        return Right(requested_at + seconds - margin,",
        "        return Right(requested_at + seconds,",
        COUNTED_LEASE,
    ),
    _bug(
        "a lease counts from its reply",
        "milena_cache/membership/router_coordinator.py",
        "            seconds,\n            sent_at,\n",
        "            seconds,\n            self._clock.now(),\n",
        "tests/cache/membership/test_router_coordinator.py",
    ),
    _bug(
        "a lease counts without the ring by which it was granted",
        FENCE,
        "                if right.epoch <= self._epoch\n            ),",
        "            ),",
        f"{FENCE_TESTS}::test_a_lease_counts_only_with_a_ring_as_new_as_the_one_by_which_it_was_granted",
    ),
    _bug(
        "a jump of the time of day leaves the lease valid",
        FENCE,
        "if abs(ahead - self.ahead) > self.margin or lost > self.margin or now",
        "if now",
        f"{FENCE_TESTS}::test_a_jump_of_the_time_of_day_beyond_the_margin_ends_what_there_is_for_good",
    ),
    _bug(
        "a write is acknowledged after the lease has ended",
        NODE_FENCE,
        '        return UNKNOWN if self.closed or self._is_out else ""\n',
        '        return ""\n',
        f"{FENCED_TESTS}::test_a_lease_that_ends_during_the_sync_leaves_the_outcome_unknown_and_the_write_dirty",
    ),
    # ---- promises
    _bug(
        "a node acknowledges a newer ring while its promise for an older one lasts",
        PROMISES,
        "        return min((self._ownership.epoch, *self._until))\n",
        "        return self._ownership.epoch\n",
        f"{PROMISE_TESTS}::test_a_promise_holds_back_the_acknowledgement_of_a_newer_ring_until_it_ends",
    ),
    _bug(
        "a node promises to stand by two rings",
        PROMISES,
        "        if ownership.epoch > epoch:\n            return",
        "        if False:\n            return",
        f"{PROMISE_TESTS}::test_a_node_that_knows_a_newer_ring_replies_with_it",
    ),
    _bug(
        "a promise is given before it is synced",
        PROMISES,
        "                if not await self._store(NAME, to_text(record)):\n",
        "                asyncio.ensure_future(self._store(NAME, to_text(record)))\n                if False:\n",
        f"{PROMISE_TESTS}::test_a_promise_is_durable_before_it_is_given_and_in_force_before_it_is_durable",
    ),
    _bug(
        "a restarted node does not keep its promises",
        PROMISES,
        "        self._until = {epoch: now + seconds for epoch, seconds in self._durable.items()}\n",
        "        self._until = dict.fromkeys(self._durable, now)\n",
        f"{PROMISE_TESTS}::test_a_restarted_node_holds_its_promises_for_their_whole_length_again",
    ),
    _bug(
        "promises of some of the members are enough",
        FENCE,
        " or not self._others <= (promise.members or frozenset()):",
        ":",
        f"{FENCE_TESTS}::test_a_promise_covers_no_member_that_did_not_promise",
    ),
    _bug(
        "a promise outlives the ring by which it was given",
        FENCE,
        "promise.epoch != self._epoch",
        "promise.epoch > self._epoch",
        f"{FENCE_TESTS}::test_a_promise_is_over_with_a_newer_ring_and_the_router_s_lease_is_not",
    ),
    # ---- rings
    _bug(
        "an older ring is taken over",
        OWNERSHIP,
        "        elif slot_map.epoch <= self.epoch:\n",
        "        elif slot_map.epoch == self.epoch:\n",
        f"{OWNERSHIP_TESTS}::test_an_older_ring_and_the_same_are_not_taken_over",
    ),
    _bug(
        "slots of a lost owner are served before it is released",
        OWNERSHIP,
        " and (not released or owned_since <= released):",
        ":",
        f"{OWNERSHIP_TESTS}::test_slots_of_a_lost_owner_are_served_only_when_it_is_released",
    ),
    _bug(
        "a process serves by the ring's entry of the one before",
        OWNERSHIP,
        '    return not slot_map.released_epoch or not node_id or node.node_id in ("", node_id)\n',
        "    return True\n",
        f"{OWNERSHIP_TESTS}::test_a_restarted_process_does_not_serve_by_the_entry_of_its_predecessor",
    ),
    _bug(
        "an epoch is released without the acknowledgements of the others",
        RELEASES,
        "self.over_at <= now and not self.awaited and (",
        "self.over_at <= now and (",
        f"{RELEASE_TESTS}::test_time_and_all_acknowledgements_are_needed",
    ),
    _bug(
        "an epoch is released without a witness",
        RELEASES,
        " and (self.witnesses is None or self.witnessed)\n\n",
        "\n\n",
        f"{RELEASE_TESTS}::test_a_member_in_every_ring_of_the_lost_process_must_acknowledge",
    ),
    _bug(
        "a frozen ring loses its members",
        MEMBERSHIP,
        "        return [address for address in over if address not in self.frozen]\n",
        "        return over\n",
        MOVE_TESTS,
    ),
    _bug(
        "a ring whose members all fall silent is not frozen",
        MEMBERSHIP,
        "        if all(lease.heard_at < heard_since for lease in self.leases.values()):\n            return []\n"
        "        return [address for address in over if address not in self.frozen]\n",
        "        return over\n",
        f"{MOVE_TESTS}::test_when_all_nodes_fall_silent_the_ring_is_kept",
    ),
    # ---- moves
    _bug(
        "slots are served while they are stopped",
        OWNERSHIP,
        "    for slots in (moves.handed_over, moves.stopped):\n        for first",
        "    for slots in (moves.handed_over,):\n        for first",
        f"{OWNERSHIP_TESTS}::test_a_stopped_slot_is_served_by_no_node_until_it_is_handed_over_or_resumed",
    ),
    _bug(
        "a condition is decided by what the node had when it owned the slot before",
        HANDOVER,
        "if change.conditional and since > change.owned_since:",
        "if False:",
        f"{HANDOVER_TESTS}::test_a_write_with_a_condition_that_waited_while_its_slot_was_away_does_nothing",
    ),
    _bug(
        "a durable write is acknowledged by a node that has lost its slot meanwhile",
        "milena_cache/writes/journaled.py",
        "return LOST if self.has_lost(entry.key, since) else None",
        "return None",
        f"{HANDOVER_TESTS}::test_a_write_that_ends_when_another_node_owns_its_slot_is_not_acknowledged",
    ),
    _bug(
        "a write through S3 is acknowledged by a node that has lost its slot meanwhile",
        "milena_cache/writes/write_through.py",
        "        if self.has_lost(change.target.cache_key, change.owned_since):\n",
        "        if False:\n",
        f"{HANDOVER_TESTS}::test_a_write_that_ends_when_another_node_owns_its_slot_is_not_acknowledged",
    ),
    _bug(
        "an owner without copies keeps what it has handed over until a ring has its new owner",
        SOURCE,
        "            if self._ownership.slot_map.copies_wanted <= 1:\n",
        "            if False:\n",
        f"{HANDOVER_TESTS}::test_a_delete_by_a_destination_that_no_ring_ever_showed_does_not_come_back",
    ),
    _bug(
        "slots are handed over without the writes in flight",
        SOURCE,
        "        while self._is_busy(slots):\n",
        "        while False:\n",
        IN_QUEUE,
    ),
    _bug(
        "slots are handed over without a release",
        SOURCE,
        "            taken_at = await self._release(move, outgoing, batch)\n",
        "            taken_at = inf\n",
        f"{HANDOVER_TESTS}::test_dirty_writes_move_with_their_slots_and_s3_gets_no_request",
    ),
    _bug(
        "what an owner had sent before it left with everything in S3 is uploaded",
        DESTINATION,
        "if move.owner in lost and slot_map.target(slot)",
        "if slot_map.target(slot)",
        f"{HANDOVER_TESTS}::test_the_destination_drops_what_it_received_if_the_owner_leaves_with_everything_in_s3",
    ),
    _bug(
        "slots are taken before a restart would begin after the versions of their owner",
        DESTINATION,
        " or floor is not None or not self._is_covered(newest):\n",
        " or floor is not None:\n",
        f"{HANDOVER_TESTS}::test_slots_are_not_served_before_a_restart_would_begin_after_the_owners_versions",
    ),
    _bug(
        "a destination sends requests for slots that it was announced back to their owner",
        "milena_cache/membership/ownership.py",
        "        if slot in self.expected:\n",
        "        if False:\n",
        f"{HANDOVER_TESTS}::test_requests_for_released_slots_are_redirected_and_wait_at_the_destination",
    ),
    _bug(
        "a node carries out a write whose caller has given up",
        "milena_cache/servers/resp/dispatch/call_times.py",
        "    if left <= 0:\n",
        "    if False:\n",
        "tests/cache/servers/resp/commands/server/test_milena_call.py"
        "::test_a_write_that_arrives_after_its_deadline_is_not_carried_out",
    ),
    # ---- former owners
    _bug(
        "an older version replaces a newer one",
        "milena_cache/handover/merging.py",
        "    return known is None or version > known\n",
        "    return known is None or version != known\n",
        f"{FORMER_OWNER_TESTS}::test_a_write_that_the_owner_has_a_later_one_of_is_dropped",
    ),
    _bug(
        "the owner drops what a former owner hands in",
        HANDOVER,
        "        await self.merging.merge(taken, UNCONFIRMED, timeout)\n",
        "",
        f"{FORMER_OWNER_TESTS}::test_the_owner_gets_the_write_and_uploads_it",
    ),
    _bug(
        "a former owner uploads its writes itself",
        HANDOVER,
        "            or self.former_owner.holds_back(slot)\n",
        "",
        f"{FORMER_OWNER_TESTS}::test_nothing_is_lost_while_the_owner_cannot_be_reached",
    ),
    _bug(
        "an owner uploads what was handed in before the one before it is released",
        HANDOVER,
        "            or self._ownership.waits_for_release(slot)\n",
        "",
        f"{FORMER_OWNER_TESTS}"
        "::test_an_owner_that_waits_for_the_release_takes_the_write_and_uploads_it_only_after_that",
    ),
    _bug(
        "an epoch is released before the promises of a lost member end",
        RELEASES,
        "                loss.awaited.discard(address)\n"
        "                loss.over_at = max(loss.over_at, promises_end)\n",
        "                loss.awaited.discard(address)\n",
        f"{RELEASE_TESTS}::test_a_member_that_left_is_as_good_after_its_last_promise",
    ),
    _bug(
        "the destination serves slots before they are released to it",
        OWNERSHIP,
        "    for first, last, node, owned_since in slot_map.ranges:\n        if _is_process",
        "    for first, last, node, owned_since in (*slot_map.ranges, *slot_map.pending):\n        if _is_process",
        f"{OWNERSHIP_TESTS}::test_a_slot_that_moves_here_is_not_served_before_it_is_handed_over",
    ),
)

# Run by `python -m tests.mutants.run` alone.
MORE_CLUSTER_BUGS: tuple[Bug, ...] = (
    _bug(
        "slots stay stopped when they could not be handed over",
        SOURCE,
        "            if not released:\n                self._resume(move, slots)\n",
        "            pass\n",
        f"{HANDOVER_TESTS}::test_an_upload_in_flight_ends_before_the_release_and_no_other_begins",
    ),
    _bug(
        "slots that may have been taken are served again",
        SOURCE,
        "            if not released:\n                self._resume(move, slots)\n",
        "            self._resume(move, slots)\n",
        f"{HANDOVER_TESTS}::test_slots_that_were_released_stay_stopped_when_the_owner_aborts",
    ),
    _bug(
        "keys of moving slots are uploaded",
        HANDOVER,
        "            self.source.holds_back(slot)\n            or ",
        "            ",
        f"{HANDOVER_TESTS}::test_an_upload_in_flight_ends_before_the_release_and_no_other_begins",
    ),
    _bug(
        "a handed over write that is gone stays at the destination",
        SOURCE,
        "            if sent is not None and (tombstone is None or tombstone.version < sent):\n",
        "            if False:\n",
        f"{HANDOVER_TESTS}::test_a_write_that_was_sent_without_a_reply_is_taken_back_when_s3_has_a_later_one",
    ),
    _bug(
        "a write that is over stays at the destination beside an older delete of its key",
        SOURCE,
        "(tombstone is None or tombstone.version < sent)",
        "tombstone is None",
        f"{HANDOVER_TESTS}::"
        "test_a_write_that_is_over_is_given_up_at_the_destination_beside_an_older_delete_of_its_key",
    ),
    _bug(
        "the old owner is read from after a later write",
        "milena_cache/handover/old_owner.py",
        "if taken is None or key in self._written or not",
        "if taken is None or not",
        f"{HANDOVER_TESTS}::test_the_old_owner_gets_no_request_for_what_was_written_since",
    ),
    # ---- transactions on keys of other nodes
    _bug(
        "a transaction does not see that another process has had its watched keys",
        "milena_cache/servers/resp/dispatch/transaction.py",
        "        if (now.process, now.owned_since) != (self.process, self.owned_since):\n",
        "        if now.owned_since != self.owned_since:\n",
        f"{EXEC_TESTS}::test_what_was_watched_at_another_process_or_in_another_time_has_changed",
    ),
    _bug(
        "a transaction on keys of another node does not send what is watched",
        "milena_cache/servers/resp/commands/connection/milena_exec.py",
        "commands, {key: Watched.decode(state) for key, state in watched.items()})\n",
        "commands, {})\n",
        f"{EXEC_TESTS}::test_it_is_carried_out_by_one_commit_if_what_is_watched_is_unchanged",
    ),
    _bug(
        "a write of several keys is confirmed for the first one only",
        "milena_router/redis/topology.py",
        "            for each in (request.key, *request.more_keys):\n",
        "            for each in (request.key,):\n",
        "tests/router/redis/test_connection.py::test_a_new_owner_drops_what_it_has_of_every_key_of_a_write",
    ),
    _bug(
        "a new ring is made while a node that has one is to send it",
        "milena_router/ring/recovery.py",
        "        if not rings and self._outstanding.intersection(present) and not self._is_late(now):\n",
        "        if False:\n",
        "tests/router/ring/test_recovery.py::test_a_ring_that_one_node_has_is_waited_for_after_the_others",
    ),
    _bug(
        "a node that does not send its ring is waited for without end",
        "milena_router/ring/recovery.py",
        "        return not self.seconds_left(now - NODE_RETRY_SECONDS)\n",
        "        return False\n",
        "tests/router/ring/test_recovery.py::test_a_ring_that_one_node_has_is_waited_for_after_the_others",
    ),
)
