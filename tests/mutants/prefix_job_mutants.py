"""Pure. Deliberate faults of jobs on all keys below a prefix; CI runs the test that notices each.

Each names one test that starts no process, and notices it within a few seconds.
"""

from __future__ import annotations

from tests.mutants.mutant import Bug, Change

READER = "milena_cache/reads/reader.py"
REFRESH = "milena_cache/reads/refresh.py"
ENTRIES = "milena_cache/memory/entries.py"
WARMING = "milena_cache/jobs/warming.py"
SWEEPS = "milena_cache/jobs/sweeps.py"

HTTP = "milena_common/metrics/http_server.py"

SWEEP_TESTS = "tests/cache/jobs/test_sweeps.py"
WARMING_TESTS = "tests/cache/jobs/test_warming.py"
HTTP_TESTS = "tests/common/metrics/test_http_server_jobs.py"

PREFIX_JOB_BUGS: tuple[Bug, ...] = (
    Bug(
        "what is warmed evicts what came while it was read",
        (
            Change(
                READER,
                "if call.spare and self.memory.peek(key) is None",
                "if False and self.memory.peek(key) is None",
            ),
        ),
        (f"{WARMING_TESTS}::test_what_others_fill_meanwhile_is_not_evicted_by_it",),
    ),
    Bug(
        "what a reader waits for is not kept because warming began it",
        (Change(READER, "            call.spare = False\n", ""),),
        (f"{WARMING_TESTS}::test_a_reader_that_joins_has_it_kept",),
    ),
    Bug(
        "warming does not count what is being read as taken",
        (Change(WARMING, " - memory.bytes - self._reserved_bytes,", " - memory.bytes,"),),
        (f"{WARMING_TESTS}::test_it_stops_where_memory_is_full_and_evicts_nothing",),
    ),
    Bug(
        "reads for warming that S3 does not respond to take no places",
        (Change(WARMING, "call.outcome.add_done_callback(finished)", "finished(None)"),),
        (f"{WARMING_TESTS}::test_reads_are_few_at_a_time_also_those_of_calls_that_have_ended",),
    ),
    Bug(
        "a purge leaves the reads in flight, which bring what is older",
        (Change(REFRESH, "            fence(filter(self._matches, part))\n", "            pass\n"),),
        (f"{SWEEP_TESTS}::test_a_read_that_began_before_is_not_kept",),
    ),
    Bug(
        "near caches keep what is invalidated",
        (
            Change(
                ENTRIES,
                "        self.change_feed.notify(key)\n        entry = self._memory.peek(key)\n",
                "        entry = self._memory.peek(key)\n",
            ),
        ),
        (f"{SWEEP_TESTS}::test_what_is_invalidated_stays_and_is_confirmed_by_s3_before_it_is_served",),
    ),
    Bug(
        "what is pinned is evicted as anything else",
        (
            Change(
                "milena_cache/eviction/second_chances.py",
                "memory.unordered.add(key)\n            elif entry is stored:",
                "memory.evict(key, entry)\n            elif entry is stored:",
            ),
        ),
        ("tests/cache/memory/test_lru_pins.py::test_what_is_pinned_stays_and_what_is_unpinned_goes",),
    ),
    Bug(
        "what is unpinned is in no order of eviction",
        (Change("milena_cache/memory/lru.py", "            self._order.add(key, cost)\n", ""),),
        ("tests/cache/memory/test_lru_pins.py::test_what_is_pinned_stays_and_what_is_unpinned_goes",),
    ),
    Bug(
        "any number of bytes can be pinned",
        (
            Change(
                "milena_cache/memory/lru.py", "if self.pinned_bytes + size > self.max_pinned_bytes:", "if False:"
            ),
        ),
        ("tests/cache/memory/test_lru_pins.py::test_no_more_than_a_share_can_be_pinned",),
    ),
    Bug(
        "a job whose caller is gone is kept for ever",
        (Change(SWEEPS, "now - job.used_at >= IDLE_SECONDS", "now - job.used_at >= 1e9"),),
        (f"{SWEEP_TESTS}::test_a_job_that_nothing_continues_is_dropped",),
    ),
    Bug(
        "a job over HTTP needs no login where the default user may do everything",
        (
            Change(
                HTTP,
                "if access is None or principal is None or principal == access.anonymous:",
                "if access is None or principal is None:",
            ),
        ),
        (f"{HTTP_TESTS}::test_without_a_login_no_job_begins",),
    ),
    Bug(
        "a job over HTTP goes on when its user was removed",
        (Change(HTTP, "[self._logged_in.clear, self._end_jobs]", "[self._logged_in.clear]"),),
        (f"{HTTP_TESTS}::test_a_job_ends_when_users_change",),
    ),
    Bug(
        "a job over HTTP goes on in a pause when its client is gone",
        (Change(HTTP, "handler_cancellation=True", "handler_cancellation=False"),),
        (f"{HTTP_TESTS}::test_a_job_ends_with_its_connection_also_while_it_waits",),
    ),
)
