"""What is believed of S3 under a write: every transition, from every belief it can meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from itertools import product

import pytest

from milena_cache.objects.version import ABSENT, UNKNOWN, Base
from milena_cache.writeback.uploads.s3_belief import UNCONFIRMED, S3Belief

OLD, NEW = '"old"', '"new"'
NOTHING = S3Belief(UNKNOWN, 3)
KNOWN = S3Belief(OLD, 3)
DOUBTED = S3Belief(OLD, 3, indeterminate=True)
OVER_DELETE = S3Belief(OLD, 3, maybe_absent=True)
CONDITIONAL = S3Belief(OLD, 3, conditional=True)
KEEPING = S3Belief(OLD, 3, keeps=OLD)
EVERYTHING = S3Belief(OLD, 3, maybe_absent=True, indeterminate=True, conditional=True, keeps=OLD)

Step = Callable[[S3Belief], S3Belief]


def in_doubt(belief: S3Belief) -> S3Belief:
    return belief.in_doubt()


def observed(base: Base) -> Step:
    return lambda belief: belief.observed(base)


def uploaded(base: Base, *, expires: bool = False) -> Step:
    return lambda belief: belief.uploaded(base, expires=expires)


def kept_beside(belief: S3Belief) -> S3Belief:
    return belief.kept_beside()


def upload_failed(tried: S3Belief, *, deleted: bool = False) -> Step:
    return lambda belief: belief.upload_failed(tried, deleted=deleted)


def write_through_failed(tried: S3Belief, *, deleted: bool = False) -> Step:
    return lambda belief: belief.write_through_failed(tried, deleted=deleted)


def confirmed(owned_since: int) -> Step:
    return lambda belief: belief.confirmed(owned_since)


def unconfirmed(belief: S3Belief) -> S3Belief:
    return belief.unconfirmed()


def forced(*, expired: bool = False) -> Step:
    return lambda belief: belief.forced(expired=expired)


@pytest.mark.parametrize(
    ("before", "step", "after"),
    [
        # Attempts and looks.
        (NOTHING, in_doubt, S3Belief(UNKNOWN, 3, indeterminate=True)),
        (KNOWN, in_doubt, DOUBTED),
        (DOUBTED, in_doubt, DOUBTED),
        (EVERYTHING, in_doubt, EVERYTHING),
        (NOTHING, observed(NEW), S3Belief(NEW, 3)),
        (DOUBTED, observed(NEW), S3Belief(NEW, 3)),
        (OVER_DELETE, observed(ABSENT), S3Belief(ABSENT, 3)),
        (CONDITIONAL, observed(NEW), S3Belief(NEW, 3, conditional=True)),
        (EVERYTHING, observed(NEW), S3Belief(NEW, 3, conditional=True, keeps=OLD)),
        # An upload that S3 has taken.
        (NOTHING, uploaded(NEW), S3Belief(NEW, 3)),
        (NOTHING, uploaded(NEW, expires=True), S3Belief(NEW, 3, maybe_absent=True)),
        (DOUBTED, uploaded(ABSENT), S3Belief(ABSENT, 3)),
        (OVER_DELETE, uploaded(NEW), S3Belief(NEW, 3)),
        (CONDITIONAL, uploaded(NEW), S3Belief(NEW, 3, conditional=True)),
        (KEEPING, uploaded(NEW), S3Belief(NEW, 3, keeps=NEW)),
        (KEEPING, uploaded(ABSENT), S3Belief(ABSENT, 3)),
        (EVERYTHING, uploaded(NEW), S3Belief(NEW, 3, conditional=True, keeps=NEW)),
        (KNOWN, kept_beside, KNOWN),
        (DOUBTED, kept_beside, KNOWN),
        (EVERYTHING, kept_beside, replace(EVERYTHING, indeterminate=False)),
        # One that has failed. What it saw counts for the newest write too.
        (NOTHING, upload_failed(DOUBTED), DOUBTED),
        (NOTHING, upload_failed(OVER_DELETE), OVER_DELETE),
        (DOUBTED, upload_failed(S3Belief(NEW, 1)), S3Belief(NEW, 3)),
        (OVER_DELETE, upload_failed(KNOWN), KNOWN),
        (OVER_DELETE, upload_failed(KNOWN, deleted=True), OVER_DELETE),
        (KNOWN, upload_failed(KNOWN, deleted=True), KNOWN),
        (KNOWN, upload_failed(OVER_DELETE, deleted=True), OVER_DELETE),
        (EVERYTHING, upload_failed(NOTHING), S3Belief(UNKNOWN, 3, conditional=True, keeps=OLD)),
        (NOTHING, upload_failed(EVERYTHING), S3Belief(OLD, 3, maybe_absent=True, indeterminate=True)),
        # A write through that has failed leaves the dirty entry in force, and S3 with either.
        (KNOWN, write_through_failed(S3Belief(NEW, 9)), S3Belief(NEW, 3, indeterminate=True)),
        (KNOWN, write_through_failed(KNOWN, deleted=True), S3Belief(OLD, 3, maybe_absent=True, indeterminate=True)),
        (OVER_DELETE, write_through_failed(KNOWN), DOUBTED),
        (NOTHING, write_through_failed(OVER_DELETE), S3Belief(OLD, 3, maybe_absent=True, indeterminate=True)),
        (EVERYTHING, write_through_failed(NOTHING), replace(EVERYTHING, base=UNKNOWN, maybe_absent=False)),
        # Ownership.
        (EVERYTHING, confirmed(8), replace(EVERYTHING, owned_since=8)),
        (EVERYTHING, unconfirmed, replace(EVERYTHING, owned_since=UNCONFIRMED)),
        (S3Belief(OLD, UNCONFIRMED), confirmed(0), S3Belief(OLD, 0)),
        # An operator.
        (CONDITIONAL, forced(), NOTHING),
        (CONDITIONAL, forced(expired=True), KNOWN),
        (EVERYTHING, forced(), replace(EVERYTHING, base=UNKNOWN, conditional=False)),
        (EVERYTHING, forced(expired=True), replace(EVERYTHING, conditional=False)),
    ],
)
def test_what_each_event_makes_of_a_belief(before: S3Belief, step: Step, after: S3Belief) -> None:
    assert step(before) == after


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("keeps", ["", OLD])
def test_a_record_found_after_a_start_may_have_been_overtaken_or_deleted(conditional: bool, keeps: str) -> None:
    found = S3Belief.recovered(OLD, conditional=conditional, keeps=keeps)
    assert found == S3Belief(OLD, UNCONFIRMED, maybe_absent=True, conditional=conditional, keeps=keeps)
    assert found.late


@pytest.mark.parametrize(("owned_since", "late"), [(UNCONFIRMED, True), (0, False), (7, False)])
def test_only_a_belief_that_needs_a_head_is_late(owned_since: int, late: bool) -> None:
    assert S3Belief(OLD, owned_since).late is late


@pytest.mark.parametrize(
    ("new", "earlier", "deleted", "after"),
    [
        (NOTHING, KNOWN, False, NOTHING),
        (NOTHING, KNOWN, True, S3Belief(UNKNOWN, 3, maybe_absent=True)),
        (NOTHING, OVER_DELETE, False, S3Belief(UNKNOWN, 3, maybe_absent=True)),
        (OVER_DELETE, KNOWN, False, OVER_DELETE),
        (KEEPING, KEEPING, False, KEEPING),
        (KEEPING, KNOWN, False, KNOWN),  # it is a new object, and there is nothing to keep
        (CONDITIONAL, EVERYTHING, False, S3Belief(OLD, 3, maybe_absent=True, conditional=True)),
    ],
)
def test_a_write_behind_one_that_is_not_durable(
    new: S3Belief, earlier: S3Belief, deleted: bool, after: S3Belief
) -> None:
    assert new.behind(earlier, deleted=deleted) == after


@pytest.mark.parametrize(
    ("new", "earlier", "deleted", "dead", "after"),
    [
        (NOTHING, KNOWN, False, False, KNOWN),
        (S3Belief(NEW, 3), KNOWN, False, False, KNOWN),
        (S3Belief(UNKNOWN, 5), KNOWN, False, False, S3Belief(OLD, 5)),
        (NOTHING, DOUBTED, False, False, DOUBTED),
        (NOTHING, KNOWN, True, False, OVER_DELETE),
        (OVER_DELETE, KNOWN, False, False, KNOWN),
        (NOTHING, OVER_DELETE, False, False, OVER_DELETE),
        (CONDITIONAL, KNOWN, False, False, KNOWN),
        (CONDITIONAL, CONDITIONAL, False, False, CONDITIONAL),
        (CONDITIONAL, KNOWN, False, True, CONDITIONAL),
        (NOTHING, CONDITIONAL, False, True, KNOWN),
        (KEEPING, KNOWN, False, False, KNOWN),
        (S3Belief(NEW, 3, keeps=NEW), KEEPING, False, False, S3Belief(OLD, 3, keeps=NEW)),
        (NOTHING, KEEPING, False, False, KNOWN),
    ],
)
def test_a_write_in_the_place_of_a_dirty_entry(
    new: S3Belief, earlier: S3Belief, deleted: bool, dead: bool, after: S3Belief
) -> None:
    assert new.replacing(earlier, deleted=deleted, dead=dead) == after


ALL = [
    S3Belief(base, owned_since, maybe_absent, indeterminate, conditional, keeps)
    for base, owned_since, maybe_absent, indeterminate, conditional, keeps in product(
        (UNKNOWN, OLD), (UNCONFIRMED, 3), (False, True), (False, True), (False, True), ("", OLD)
    )
]


def test_what_takes_a_place_inherits_each_field_as_the_rules_say() -> None:
    """The short way, which hands the earlier belief on, gives the same as the rules field by field."""
    for new, earlier, deleted, dead in product(ALL, ALL, (False, True), (False, True)):
        assert new.replacing(earlier, deleted=deleted, dead=dead) == S3Belief(
            base=earlier.base,
            owned_since=new.owned_since,
            maybe_absent=earlier.maybe_absent or deleted,
            indeterminate=earlier.indeterminate,
            conditional=new.conditional and (earlier.conditional or dead),
            keeps=new.keeps if earlier.keeps else "",
        )
        assert new.behind(earlier, deleted=deleted) == replace(
            new,
            maybe_absent=new.maybe_absent or earlier.maybe_absent or deleted,
            keeps=new.keeps if earlier.keeps else "",
        )


def test_writes_without_new_knowledge_share_a_belief() -> None:
    assert NOTHING.replacing(KNOWN, deleted=False, dead=False) is KNOWN
    assert NOTHING.replacing(OVER_DELETE, deleted=True, dead=False) is OVER_DELETE
    assert NOTHING.behind(KNOWN, deleted=False) is NOTHING
    assert DOUBTED.in_doubt() is DOUBTED
    assert KNOWN.kept_beside() is KNOWN


def test_a_belief_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        KNOWN.base = NEW  # type: ignore[misc]
