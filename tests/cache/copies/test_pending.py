"""Copies that are queued for the journal, and what waits for them."""

from __future__ import annotations

from milena_cache.copies.pending import AwaitedPart, PendingCopy
from milena_cache.copies.store import Copy
from milena_cache.journal.commit import JournalFailed, JournalFull
from milena_cache.objects.version import Version


def queued() -> PendingCopy:
    return PendingCopy(b"k", 0, Copy(Version(1, 1), 1, 0), 1)


def test_it_is_done_when_the_last_of_its_copies_is() -> None:
    first, second, both = queued(), queued(), AwaitedPart()
    both.add(first)
    both.add(second)
    first.set_result(None)
    assert (both.number, both.done.is_set()) == (1, False)
    second.set_result(None)
    assert (both.number, both.done.is_set(), both.error) == (0, True, None)


def test_a_copy_that_two_wait_for_is_reported_to_both() -> None:
    shared, one, other = queued(), AwaitedPart(), AwaitedPart()
    one.add(shared)
    other.add(shared)
    error = JournalFull("no room")
    shared.set_exception(error)
    assert [(each.done.is_set(), each.error) for each in (one, other)] == [(True, error), (True, error)]


def test_a_full_journal_is_the_error_only_if_there_is_no_other() -> None:
    failed = JournalFailed("the disk")
    for errors in ([JournalFull(""), failed], [failed, JournalFull("")]):
        awaited = AwaitedPart()
        copies = [queued() for _ in errors]
        for copy in copies:
            awaited.add(copy)
        for copy, error in zip(copies, errors, strict=True):
            copy.set_exception(error)
        assert awaited.error is failed


def test_a_copy_that_the_disk_has_not_confirmed_in_time_is_not_waited_for_again() -> None:
    """It stays pending until its commit ends, and nothing reports it a second time."""
    late, awaited, error = queued(), AwaitedPart(), JournalFailed("not in time")
    late.set_exception(error)
    assert late.done()
    awaited.add(late)
    assert (awaited.number, awaited.error) == (0, error)
