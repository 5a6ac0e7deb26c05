"""The table of dirty entries: what passes from a write to the next of its key, and its counts against a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from milena_cache.objects.version import ABSENT, UNKNOWN, Version
from milena_cache.objects.write_request import ENTRY_OVERHEAD
from milena_cache.writeback.dirty_table import KEEPING_FREE, DeadLetter, Dirty, DirtyEntry
from milena_cache.writeback.uploads.s3_belief import S3Belief

MAXIMUM = 10**6


def entry(seq: int, key: bytes = b"k", value: bytes | None = b"v", **known: Any) -> DirtyEntry:
    """A write as it comes to the table; `known` overrides what is known of it."""
    return DirtyEntry(
        key,
        Version(1, seq),
        value,
        len(value or b""),
        S3Belief(known.get("base", UNKNOWN), conditional=known.get("conditional", False)),
        deleted=value is None,
        journaled=known.get("journaled", True),
        acknowledged_at=known.get("since", float(seq)),
    )


def test_what_is_known_of_s3_and_of_the_upload_in_flight_passes_to_the_next_write() -> None:
    dirty = Dirty(MAXIMUM, MAXIMUM)
    old = entry(1, base='"e"')
    assert dirty.replace(old) is None
    old.upload.queued, old.belief = True, old.belief.in_doubt()
    dirty.upload_began(old)
    new = entry(2, base=ABSENT)
    assert dirty.replace(new) is old
    assert dirty.get(b"k") is new
    assert new.belief == S3Belief('"e"', indeterminate=True)
    assert (new.upload.uploading, new.upload.queued, new.upload.since) == (True, True, 1.0)


@pytest.mark.parametrize(("deleted", "maybe_absent"), [(True, False), (False, True), (True, True), (False, False)])
def test_a_write_over_a_delete_may_find_nothing_in_s3(deleted: bool, maybe_absent: bool) -> None:
    dirty = Dirty(MAXIMUM, MAXIMUM)
    old = entry(1, value=None if deleted else b"v")
    old.belief = replace(old.belief, maybe_absent=maybe_absent)
    dirty.replace(old)
    dirty.replace(entry(2))
    dirty.replace(new := entry(3))
    assert new.belief.maybe_absent == (deleted or maybe_absent)


@pytest.mark.parametrize(
    ("requested", "before", "dead", "stays"),
    [
        (True, None, False, True),
        (True, True, False, True),
        (True, False, False, False),  # it was decided against the entry, which may overwrite anything
        (True, False, True, True),
        (True, True, True, True),
        (False, True, False, False),
        (False, None, False, False),
    ],
)
def test_which_write_holds_s3_to_its_condition(
    requested: bool, before: bool | None, dead: bool, stays: bool
) -> None:
    dirty = Dirty(MAXIMUM, MAXIMUM)
    if before is not None:
        dirty.replace(old := entry(1, conditional=before))
        if dead:
            dirty.kill(old, "refused", 0.0)
    dirty.replace(new := entry(2, conditional=requested))
    assert new.belief.conditional is stays


def test_values_over_the_memory_limit_are_only_in_the_journal() -> None:
    dirty = Dirty(MAXIMUM, 10)
    dirty.replace(fits := entry(1, b"a", b"x" * 10))
    dirty.replace(beyond := entry(2, b"b", b"x"))
    assert (fits.value, beyond.value, beyond.size, beyond.deleted) == (b"x" * 10, None, 1, False)
    assert dirty.memory_bytes == 10
    assert dirty.bytes == 2 + 11 + 2 * ENTRY_OVERHEAD


def test_a_value_that_is_nowhere_else_stays_in_memory() -> None:
    dirty = Dirty(MAXIMUM, 0)
    dirty.replace(only := entry(1, value=b"x" * 10, journaled=False))
    assert only.value == b"x" * 10
    assert dirty.memory_bytes == 10


def test_the_records_that_an_entry_stands_for() -> None:
    kept, remembered = entry(7), entry(8, journaled=False)
    assert (list(kept.records()), list(remembered.records())) == ([7], [])
    kept.shadowed_seq = remembered.shadowed_seq = 5
    assert (list(kept.records()), list(remembered.records())) == ([5, 7], [5])


def test_room_is_what_the_budget_has_left() -> None:
    dirty = Dirty(ENTRY_OVERHEAD + 12, MAXIMUM)
    dirty.replace(entry(1, b"k", b"v"))
    assert (dirty.has_room(10, 0), dirty.has_room(11, 0)) == (True, False)


def test_the_keeping_of_many_small_entries_is_bounded_by_the_memory_limit() -> None:
    limit = 2 * ENTRY_OVERHEAD
    dirty = Dirty(2**40, limit)
    entries = [entry(seq, b"%07d" % seq, b"v") for seq in range(1, 30_000)]
    taken = 0
    for each in entries:
        if not dirty.has_room(each.cost, each.keeping):
            break
        dirty.replace(each)
        taken += 1
    assert taken == (KEEPING_FREE + limit) // (ENTRY_OVERHEAD + 7)
    assert dirty.keeping_bytes <= KEEPING_FREE + limit
    assert dirty.memory_bytes <= limit
    assert not dirty.fits_in_memory(1)
    for each in entries[:taken]:
        dirty.pop(each)
    assert (dirty.keeping_bytes, dirty.memory_bytes, dirty.bytes) == (0, 0, 0)


def test_a_requeued_dead_letter_starts_anew() -> None:
    dirty = Dirty(MAXIMUM, MAXIMUM)
    dirty.replace(rejected := entry(1))
    rejected.upload.failures = 3
    dirty.kill(rejected, "refused", 99.0)
    assert (rejected.dead, list(dirty.dead())) == (DeadLetter("refused", 99.0, damaged=False), [rejected])
    flushed = dirty.checkpoint()
    dirty.requeue(rejected)
    assert (rejected.dead, rejected.upload.failures, list(dirty.dead())) == (None, 0, [])
    assert dirty.pending_before(flushed) == 0
    assert dirty.pending_before(dirty.checkpoint()) == 1


@dataclass
class Key:
    """What the model knows of one key: each write that S3 does not have, oldest first, as [since, generation]."""

    writes: list[list[float]] = field(default_factory=list)
    going: int = 0  # how many of them an upload in flight stands for
    size: int = 0
    held: int = 0
    dead: bool = False
    damaged: bool = False


class DirtyMachine(RuleBasedStateMachine):
    """The counts, kept up to date one by one, against sums over everything. Rules do what write-back does."""

    MEMORY = 60
    keys = st.sampled_from([b"a", b"bb", b"ccc", b"dddd"])

    @initialize()
    def start(self) -> None:
        self.dirty = Dirty(10_000, self.MEMORY)
        self.model: dict[bytes, Key] = {}
        self.now = 0.0
        self.epoch = self.seq = 0

    def live(self, *, uploading: bool) -> list[bytes]:
        return [key for key, known in self.model.items() if not known.dead and bool(known.going) == uploading]

    def dead_ones(self) -> list[bytes]:
        return [key for key, known in self.model.items() if known.dead]

    def of(self, key: bytes) -> DirtyEntry:
        found = self.dirty.get(key)
        assert found is not None
        return found

    def goes(self, key: bytes) -> None:
        self.dirty.pop(self.of(key))
        del self.model[key]

    @rule(key=keys, size=st.sampled_from([None, 0, 10, 25]), journaled=st.booleans())
    def put(self, key: bytes, size: int | None, journaled: bool) -> None:
        held = sum(known.held for known in self.model.values())
        fits = held + (size or 0) <= self.MEMORY
        self.seq += 1
        value = None if size is None else b"x" * size
        journaled = journaled or not fits
        self.dirty.replace(entry(self.seq, key, value, journaled=journaled, since=self.now))
        known = self.model.setdefault(key, Key())
        if known.dead:
            known = self.model[key] = Key()
        known.writes.append([self.now, self.epoch])
        known.size, known.held = size or 0, (size or 0) if fits else 0

    @precondition(lambda self: self.live(uploading=False))
    @rule(data=st.data())
    def upload(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.live(uploading=False)))
        self.dirty.upload_began(self.of(key))
        self.model[key].going = len(self.model[key].writes)

    @precondition(lambda self: self.live(uploading=True))
    @rule(data=st.data(), succeeded=st.booleans())
    def upload_finishes(self, data: st.DataObject, succeeded: bool) -> None:
        key = data.draw(st.sampled_from(self.live(uploading=True)))
        known, newest = self.model[key], self.of(key)
        self.dirty.upload_finished(newest, succeeded=succeeded, now=self.now)
        assert not newest.upload.uploading
        if succeeded:
            # The age of what is left counts from here: it came while this upload was in flight.
            known.writes = [[self.now, epoch] for _, epoch in known.writes[known.going :]]
            if not known.writes:
                self.goes(key)
        known.going = 0

    @precondition(lambda self: self.live(uploading=False))
    @rule(data=st.data(), damaged=st.booleans())
    def rejected(self, data: st.DataObject, damaged: bool) -> None:
        key = data.draw(st.sampled_from(self.live(uploading=False)))
        self.dirty.kill(self.of(key), "refused", self.now, damaged=damaged)
        self.model[key].dead, self.model[key].damaged = True, damaged

    @precondition(lambda self: self.dead_ones())
    @rule(data=st.data(), drop=st.booleans())
    def dealt_with(self, data: st.DataObject, drop: bool) -> None:
        key = data.draw(st.sampled_from(self.dead_ones()))
        known = self.model[key]
        if drop or known.damaged:
            self.goes(key)
        else:
            self.dirty.requeue(self.of(key))
            known.dead = False
            known.writes = [[known.writes[0][0], self.epoch]]

    @precondition(lambda self: self.live(uploading=False))
    @rule(data=st.data())
    def overtaken_by_a_write_through(self, data: st.DataObject) -> None:
        self.goes(data.draw(st.sampled_from(self.live(uploading=False))))

    @rule()
    def cut(self) -> None:
        assert self.dirty.checkpoint() == self.epoch
        self.epoch += 1

    @rule()
    def time_passes(self) -> None:
        self.now += 1

    @invariant()
    def the_counts_are_the_sums(self) -> None:
        costs = {key: len(key) + known.size + ENTRY_OVERHEAD for key, known in self.model.items()}
        assert set(self.dirty) == self.model.keys()
        assert self.dirty.bytes == sum(costs.values())
        assert self.dirty.memory_bytes == sum(known.held for known in self.model.values())
        assert self.dirty.dead_letters == len(list(self.dirty.dead())) == len(self.dead_ones())
        assert self.dirty.dead_bytes == sum(costs[key] for key in self.dead_ones())
        assert self.dirty.damaged == sum(known.damaged for known in self.model.values())
        assert (len(self.dirty), self.dirty.waiting) == (len(self.model), len(self.model) - len(self.dead_ones()))

    @invariant()
    def what_is_left_and_how_old_it_is(self) -> None:
        oldest = [known.writes[0] for known in self.model.values() if not known.dead]
        for epoch in range(self.epoch + 1):
            assert self.dirty.pending_before(epoch) == sum(since <= epoch for _, since in oldest)
        assert self.dirty.oldest_since(self.now) == min((since for since, _ in oldest), default=self.now)


TestDirty = DirtyMachine.TestCase
