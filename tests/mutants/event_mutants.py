"""Pure. Deliberate faults of S3's events; CI runs the test that notices each.

Each names one test that starts no process, and notices it within a few seconds.
"""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

CHANGES, DELIVERY, CONSUMER = (f"milena_cache/events/{name}.py" for name in ("changes", "delivery", "consumer"))
TRUST, MESSAGE = "milena_cache/events/trust.py", "milena_cache/events/message.py"
ENTRIES = "milena_cache/memory/entries.py"
TESTS = "tests/cache/events"

EVENT_BUGS: tuple[Bug, ...] = (
    Bug(
        "an event about a key that is being written to S3 is forgotten",
        (Change(CHANGES, "if key in self._s3_locks:", "if False:"),),
        (f"{TESTS}/test_changes.py::test_an_upload_in_flight_is_a_write",),
    ),
    Bug(
        "a read in flight goes on when the event is that of the entry",
        (
            Change(
                ENTRIES,
                "            self.fence_reads(key)\n            return False\n",
                "            self.existence.clear_known(key)\n            return False\n",
            ),
        ),
        (f"{TESTS}/test_changes.py::test_a_read_in_flight_is_not_kept_either_if_the_event_is_that_of_the_entry",),
    ),
    Bug(
        "of two events during a write only the last counts",
        (
            Change(
                ENTRIES,
                "self._overtaken[key] = state if before is None or _same(before, state) else UNKNOWN",
                "self._overtaken[key] = state",
            ),
        ),
        (f"{TESTS}/test_changes.py::test_an_event_that_comes_while_this_node_writes_is_not_forgotten",),
    ),
    Bug(
        "a node that does not own the key applies a change as if it did",
        (Change(CHANGES, "                self._ownership.owned_since(key)\n", ""),),
        (f"{TESTS}/test_changes.py::test_a_node_that_does_not_own_the_key_drops_the_entry_and_says_so",),
    ),
    Bug(
        "a message is deleted although its owner has not replied",
        (
            Change(
                DELIVERY,
                "            self.last_error = error\n            return False\n",
                "            self.last_error = error\n            return True\n",
            ),
        ),
        (f"{TESTS}/test_delivery.py::test_a_message_whose_owner_does_not_reply_is_not_done",),
    ),
    Bug(
        "messages are deleted before they are delivered",
        (
            Change(
                CONSUMER,
                "        delivered = await self._delivery.deliver(read)\n",
                "        await self._queue.delete([message.receipt for message in messages])\n"
                "        delivered = await self._delivery.deliver(read)\n",
            ),
        ),
        (f"{TESTS}/test_consumer.py::test_nothing_is_deleted_before_it_was_delivered",),
    ),
    Bug(
        "what an outage of the queue has swallowed is trusted afterwards",
        (Change(TRUST, "        if not self.is_trusted(now):\n            self._since = at\n", ""),),
        (f"{TESTS}/test_trust.py::test_trust_ends_when_heartbeats_stop_and_begins_anew_with_the_next_one",),
    ),
    Bug(
        "keys of S3's events are taken as they are",
        (Change(MESSAGE, 'unquote_plus(_text(about["object"]["key"]))', '_text(about["object"]["key"])'),),
        (f"{TESTS}/test_message.py::test_a_key_of_s3_itself_is_encoded_as_forms_are",),
    ),
)
