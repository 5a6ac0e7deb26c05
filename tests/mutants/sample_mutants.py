"""Pure. Deliberate faults of what is estimated from samples of reads; CI runs the test that notices each.

Each names one test that starts no process, and notices it within a few seconds.
"""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

PLAIN_GETS = "milena_cache/servers/resp/state/plain_gets.py"
READER = "milena_cache/reads/reader.py"
MEMORY = "milena_cache/memory/lru.py"
SAMPLES = "milena_cache/memory/read_samples.py"
SIZING = "milena_cache/sampling/sizing.py"
GUARD = "milena_common/access/api_guard.py"

RESP_TESTS = "tests/cache/servers/resp/commands/data/test_hot_keys.py"
SAMPLES_TESTS = "tests/cache/memory/test_read_samples.py"
SIZING_TESTS = "tests/cache/sampling/test_sizing.py"
GUARD_TESTS = "tests/common/access/test_api_guard.py"

SAMPLE_BUGS: tuple[Bug, ...] = (
    Bug(
        "a read that the fast path does not serve is recorded there too",
        (
            Change(
                PLAIN_GETS,
                "                    if hits and served + len(value) > max_bytes:\n                        break\n",
                "",
            ),
        ),
        (f"{RESP_TESTS}::test_the_fast_path_serves_entries_of_the_sample_and_records_their_reads",),
    ),
    Bug(
        "what a miss has stored makes it a hit in the simulated memories",
        (
            Change(
                READER,
                "        if call.counted:\n            self.memory.samples.read(call.key, entry)\n",
                "        if call.counted:\n            self.memory.store(call.key, entry)\n"
                "            self.memory.samples.read(call.key, entry)\n",
            ),
        ),
        (f"{RESP_TESTS}::test_a_miss_is_recorded_before_what_it_stores_and_once",),
    ),
    Bug(
        "an entry that has been replaced comes back when the sample becomes smaller",
        (Change(MEMORY, " and self.entries.get(key) is entry:", ":"),),
        (f"{SAMPLES_TESTS}::test_when_the_sample_becomes_smaller_a_read_makes_the_entry_plain",),
    ),
    Bug(
        "the events of the sample are not bounded",
        (Change(SAMPLES, "if len(self.events) < MAX_EVENTS:", "if True:"),),
        (f"{SAMPLES_TESTS}::test_events_are_bounded",),
    ),
    Bug(
        "the simulation takes what time it needs",
        (Change(SIZING, "        self._allowance -= self._clock.cpu() - cpu\n", ""),),
        (f"{SIZING_TESTS}::test_without_time_for_it_the_sample_becomes_smaller",),
    ),
    Bug(
        "hot keys that the user may not see are shown",
        (Change(GUARD, "if user.may_see(HOT_KEYS_COMMAND, named(each.bucket, each.key))]", "if each.key]"),),
        (f"{GUARD_TESTS}::test_hot_keys_are_those_that_the_user_may_see_and_a_reset_needs_more",),
    ),
)
