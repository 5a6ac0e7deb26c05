"""The holders in the ring: who gets the slots of a lost owner, what waits, and which reports count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milena_common.cluster.copy_holders import CopyRun, Held, Listed, is_collecting
from milena_common.cluster.slot_assignment import Copies, Member, PlanChange, Ring
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS

A, B, C, D = (Member(f"{name}:1", f"{name}-1", journal_id=f"journal-{name}", copies=2) for name in "abcd")
# A slot of A that B holds, one that C holds, one of B that A is being filled with, and one of C that moves to A.
B_HAS, C_HAS, FILLING, MOVING = 0, 4000, 9000, 13000
RUNS = [(0, 8999, A.address, 3), (9000, 12999, B.address, 3), (13000, SLOTS - 1, C.address, 3)]
NO_CHANGE = PlanChange()


def listed(*holders: Listed | Member) -> tuple[Listed, ...]:
    return tuple(each if isinstance(each, Listed) else Listed(each.address) for each in holders)


def run(first: int, last: int, owner: Member, *holders: Listed | Member) -> CopyRun:
    return CopyRun(first, last, Held(owner.address, listed(*holders)))


def ring() -> Ring:
    copies = (
        run(0, 3999, A, B),
        run(4000, 8999, A, C),
        run(9000, 12999, B, Listed(A.address, 7)),
        run(13000, SLOTS - 1, C, B),
    )
    pending = [Run(13000, SLOTS - 1, A.address, 8)]
    return Ring.restored(10, [A, B, C], RUNS, pending, Copies(2, 3, copies))


def owner_of(ring: Ring, slot: int) -> tuple[str, int]:
    return ring.owner(slot), next(each.owned_since for each in ring.ranges() if each.first <= slot <= each.last)


def after(*members: Member, change: PlanChange = NO_CHANGE, **changes: list[str]) -> Ring:
    return ring().with_members(members, 20, moving=True, change=change, **changes)


def waiting(ring: Ring) -> list[tuple[int, int, list[str]]]:
    return [(part.first, part.last, [each.address for each in part.processes]) for part in ring.copies.waiting]


def test_a_lost_owners_slots_go_to_their_complete_holders_since_the_new_epoch() -> None:
    lost = after(B, C)
    assert owner_of(lost, B_HAS) == (B.address, 20)
    assert owner_of(lost, C_HAS) == (C.address, 20)
    assert ring().successor(B_HAS) == B.address
    assert ring().successor(C_HAS) == C.address
    assert lost.holders(B_HAS) == (Listed(C.address, 20),), "a new one is filled"
    assert lost.holders(FILLING) == (Listed(C.address, 20),), "a lost holder is replaced"
    assert owner_of(lost, FILLING) == (B.address, 3)
    assert not lost.copies.waiting


def test_the_destination_of_a_pending_move_gets_the_slots_of_a_lost_owner_and_is_to_collect_them() -> None:
    lost = after(A, B)
    assert owner_of(lost, MOVING) == (A.address, 20)
    assert lost.holders(MOVING) == listed(B, Listed(A.address, 20))
    again = Ring.restored(lost.epoch, lost.members, lost.ranges(), lost.pending, lost.copies)
    assert again.copies == lost.copies


def collecting() -> Ring:
    """A owns the moving slot of C, which was lost, and has yet to collect it from B."""
    return after(A, B, D)


def complete(ring: Ring, slot: int) -> list[str]:
    return [each.address for each in ring.holders(slot) if not each.since]


def collects(ring: Ring, slot: int) -> bool:
    """True if the ring says that the owner has yet to collect."""
    return is_collecting(Held(ring.owner(slot), ring.holders(slot)))


def test_a_slot_waits_for_the_last_holder_from_which_its_owner_has_yet_to_collect() -> None:
    """Interleaving: (1) the owner cannot reach that holder; (2) the holder's lease ends.

    The owner would wait for it no longer, and serve what S3 has: acknowledged writes that the holder has on its
    disk would be lost from sight.
    """
    lost = collecting().with_members([A, D], 30, moving=True)
    assert lost.owner(MOVING) == ""
    assert waiting(lost) == [(9000, SLOTS - 1, [B.address])], "and for its own slots"
    assert not [run for run in lost.pending if run.last >= 13000]
    back = lost.with_members([A, B, D], 31, moving=True)
    assert owner_of(back, MOVING) == (B.address, 31)
    assert not back.copies.waiting


def test_an_owner_that_left_before_it_had_collected_is_not_waited_for() -> None:
    ring = collecting()
    assert owner_of(ring.with_members([B, D], 30, moving=True), MOVING) == (B.address, 30)
    both = ring.with_members([D], 30, moving=True)
    assert waiting(both)[-1] == (9000, SLOTS - 1, [B.address])
    restarted = ring.with_members(
        [replace(A, node_id="a-2"), D], 30, moving=True, renewed=[A.address], restarted=[A.address]
    )
    assert waiting(restarted)[-1] == (9000, SLOTS - 1, [B.address])
    clean = ring.with_members([A, D], 30, moving=True, change=PlanChange(departed=1, clean=[B.address]))
    assert waiting(clean)[-1] == (13000, SLOTS - 1, [B.address]), "it had another one's writes"


def test_a_node_that_gets_slots_of_which_s3_has_everything_is_listed_as_complete() -> None:
    """What copies it has are superseded: it may have been a holder that failed in a ring that it has not got."""
    failed = ring().with_reports(C.address, (), [(13000, SLOTS - 1, B.address)], 10, 20, NO_CHANGE)
    assert failed is not None
    assert Listed(B.address) not in failed.holders(MOVING)
    left = failed.with_members([B, D], 30, moving=True, change=PlanChange(clean=[A.address, C.address]))
    owner = left.owner(MOVING)
    assert not collects(left, MOVING)
    assert Listed(owner) in left.holders(MOVING)
    assert left.successor(MOVING) == "", "an owner is not its own successor"
    assert left.slots_with_missing_copies() == SLOTS, "nor a holder that counts"
    for _, _, awaited in waiting(left.with_members([C], 31, moving=True)):
        assert len(set(awaited)) == len(awaited), "twice would be a state that no router can read"
    first, last = next(each[:2] for each in left.ranges() if each.first <= MOVING <= each.last)
    done = left.with_reports(owner, [(first, last, owner)], (), 30, 31, NO_CHANGE)
    assert done is not None
    assert owner not in [each.address for each in done.holders(MOVING)]


def test_a_node_that_gets_slots_without_an_owner_has_nothing_to_collect_unless_they_were_given_up() -> None:
    empty = ring().with_members([], 20, moving=True, change=PlanChange(clean=[each.address for each in (A, B, C)]))
    assert not empty.copies.waiting
    back = empty.with_members([A, B], 30, moving=True)
    assert all(Listed(back.owner(slot)) in back.holders(slot) for slot in (B_HAS, FILLING, MOVING))
    lost = after(C)
    over = lost.with_members([C], 30, moving=True, change=PlanChange(given_up=20))
    assert over.holders(B_HAS) == (Listed(C.address, 30),)
    assert over.holders(MOVING) == (), "C had it all the time"


def test_an_owner_that_is_lost_while_it_collects_returns_as_one_that_has_not_everything() -> None:
    """It may have acknowledged writes, so the slot waits; and its copies may be superseded."""
    over = after(C).with_members([C, D], 30, moving=True, change=PlanChange(given_up=20))
    owner = over.owner(B_HAS)
    assert collects(over, B_HAS)
    rest = [each for each in (C, D) if each.address != owner]
    lost = over.with_members(rest, 40, moving=True)
    (part,) = [each for each in lost.copies.waiting if each.first <= B_HAS <= each.last]
    assert ([each.address for each in part.processes], part.awaited.complete) == ([owner], False)
    back = lost.with_members([C, D], 41, moving=True)
    assert back.owner(B_HAS) == owner
    assert collects(back, B_HAS)


def test_nothing_counts_of_the_slots_that_an_owner_collects_until_it_has_collected_them() -> None:
    ring = collecting()
    slots = (13000, SLOTS - 1)
    assert collects(ring, MOVING)
    assert ring.with_reports(A.address, (), [(*slots, B.address)], 21, 30, NO_CHANGE) is None
    assert ring.with_reports(A.address, [(*slots, A.address)], (), 19, 30, NO_CHANGE) is None, "of an older ring"
    assert ring.with_reports(B.address, [(*slots, A.address)], (), 21, 30, NO_CHANGE) is None, "not its slots"
    part = ring.with_reports(A.address, [(13000, 13999, A.address)], (), 21, 30, NO_CHANGE)
    assert part is not None
    assert (collects(part, 13999), collects(part, 14000)) == (False, True)
    done = ring.with_reports(A.address, [(*slots, A.address)], (), 21, 30, NO_CHANGE)
    assert done is not None
    assert (complete(done, MOVING), collects(done, MOVING)) == ([B.address], False)
    assert done.with_members([A, D], 31, moving=True).owner(MOVING) == A.address


def test_an_owner_that_collects_is_no_holder_that_a_plan_counts() -> None:
    change = PlanChange(leaving=[B.address])
    leaving = after(A, B, D, change=change)
    first, *filling = leaving.holders(MOVING)
    assert first == Listed(B.address)
    assert filling == [Listed(D.address, 20), Listed(A.address, 20)]
    report = [(13000, SLOTS - 1, D.address)]
    assert leaving.with_reports(A.address, report, (), 20, 31, change) is None, "A has not everything to give"
    own = (13000, SLOTS - 1, A.address)
    done = leaving.with_reports(A.address, [*report, own], (), 20, 31, change)
    assert done is not None
    assert done.holders(MOVING) == listed(D)


def test_a_pending_slot_of_a_lost_owner_waits_if_no_node_that_lives_has_its_writes() -> None:
    """The destination has not taken it, and has nothing to collect."""
    lost = after(A)
    assert lost.owner(MOVING) == ""
    assert waiting(lost)[-1] == (13000, SLOTS - 1, [C.address, B.address])
    late = lost.with_taken(A.address, [Run(13000, SLOTS - 1, A.address, 8)], 21)
    assert late is not None
    assert owner_of(late, MOVING) == (A.address, 21), "it has taken it before the loss"
    assert waiting(late) == waiting(lost)[:-1]


def test_an_owner_keeps_a_pending_slot_and_its_holders_when_the_destination_is_lost() -> None:
    lost = after(B, C)
    assert owner_of(lost, MOVING) == (C.address, 20)
    assert lost.holders(MOVING) == listed(B)


def test_slots_whose_one_holder_is_filling_wait_for_the_owner() -> None:
    lost = after(A, C)
    assert lost.owner(FILLING) == ""
    assert waiting(lost) == [(9000, 12999, [B.address])]
    assert all(each.last < 9000 or each.first > 12999 for each in lost.pending)


def test_slots_wait_for_the_owner_and_the_complete_holders_that_were_lost_with_it() -> None:
    lost = after(C)
    assert waiting(lost) == [(0, 3999, [A.address, B.address]), (9000, 12999, [B.address])]
    assert owner_of(lost, C_HAS) == (C.address, 20)


def test_a_lost_process_that_returns_with_its_journal_gets_its_waiting_slots_back() -> None:
    lost = after(C)
    moved = replace(B, address="elsewhere:1", node_id="b-2")
    back = lost.with_members([C, moved], 30, moving=True)
    assert owner_of(back, B_HAS) == ("elsewhere:1", 30), "it was a complete holder"
    assert owner_of(back, FILLING) == ("elsewhere:1", 30)
    assert not back.copies.waiting


def test_a_node_with_another_journal_does_not_get_the_slots_that_wait() -> None:
    lost = after(C)
    other = replace(B, node_id="b-2", journal_id="new")
    back = lost.with_members([C, other], 30, moving=True)
    assert waiting(back) == waiting(lost)
    assert {back.owner(slot) for slot in (B_HAS, FILLING)} == {""}
    assert not any(each.first <= slot <= each.last for each in back.pending for slot in (B_HAS, FILLING))


def test_a_process_that_is_replaced_by_one_with_another_journal_is_lost() -> None:
    other = replace(A, node_id="a-2", journal_id="new")
    replaced = after(other, B, C, renewed=[A.address])
    assert owner_of(replaced, B_HAS) == (B.address, 20)
    assert owner_of(replaced, C_HAS) == (C.address, 20)
    holder = replace(B, node_id="b-2", journal_id="new")
    replaced = after(A, holder, C, renewed=[B.address])
    assert Listed(B.address) not in replaced.holders(B_HAS)
    assert owner_of(replaced, B_HAS) == (A.address, 3)


def test_a_process_that_restarts_with_its_journal_keeps_its_slots_and_stays_a_complete_holder() -> None:
    again = after(replace(A, node_id="a-2"), B, C, renewed=[A.address], restarted=[A.address])
    assert owner_of(again, B_HAS) == (A.address, 20)
    assert again.holders(B_HAS) == listed(B)
    again = after(A, replace(B, node_id="b-2"), C, renewed=[B.address], restarted=[B.address])
    assert again.holders(B_HAS) == listed(B)


def test_slots_wait_until_all_processes_with_their_writes_are_written_off() -> None:
    lost = after(C)
    one = lost.with_members([C], 30, moving=True, change=PlanChange(departed=1, forgotten=[A.address]))
    assert waiting(one) == [(0, 3999, [B.address]), (9000, 12999, [B.address])]
    both = one.with_members([C], 31, moving=True, change=PlanChange(departed=1, forgotten=[B.address]))
    assert not both.copies.waiting
    assert owner_of(both, B_HAS) == (C.address, 31)


def test_slots_that_have_waited_for_long_enough_are_given_to_the_others() -> None:
    lost = after(C)
    assert lost.with_members([C], 30, moving=True, change=PlanChange(given_up=19)).copies.waiting
    over = lost.with_members([C], 30, moving=True, change=PlanChange(given_up=20))
    assert not over.copies.waiting
    assert owner_of(over, B_HAS) == (C.address, 30)


def test_a_node_that_left_with_all_its_writes_in_s3_leaves_no_slots_waiting() -> None:
    left = after(A, C, change=PlanChange(departed=1, clean=[B.address]))
    assert not left.copies.waiting
    assert left.owner(FILLING) in (A.address, C.address)


def test_an_empty_ring_remembers_what_was_lost() -> None:
    empty = after()
    assert waiting(empty)[0] == (0, 3999, [A.address, B.address])
    back = empty.with_members([C], 30, moving=True)
    assert owner_of(back, MOVING) == (C.address, 30)
    assert owner_of(back, C_HAS) == (C.address, 30), "it held them"
    assert waiting(back) == [(0, 3999, [A.address, B.address]), (9000, 12999, [B.address])]


def test_a_slot_that_was_taken_over_has_its_owner_before_as_the_complete_holder() -> None:
    taken = ring().with_taken(A.address, [Run(13000, SLOTS - 1, A.address, 8)], 20)
    assert taken is not None
    assert owner_of(taken, MOVING) == (A.address, 8)
    assert taken.holders(MOVING) == listed(C), "and C's holder B gets the writes no longer"


def test_a_slot_that_was_taken_over_before_its_owner_was_lost_keeps_the_holders_of_that_one() -> None:
    lost = after(A, B)
    assert owner_of(lost, MOVING) == (A.address, 20)
    assert lost.holders(MOVING) == listed(B, Listed(A.address, 20)), "B has got the writes since"
    assert lost.with_taken(A.address, [Run(13000, SLOTS - 1, A.address, 8)], 21) is None


def test_no_holder_becomes_complete_while_the_slots_move() -> None:
    lost_holder = ring().with_reports(C.address, (), [(13000, SLOTS - 1, B.address)], 10, 20, NO_CHANGE)
    assert lost_holder is not None
    (filling,) = lost_holder.holders(MOVING)
    assert filling.since == 20
    report = [(13000, SLOTS - 1, filling.address)]
    assert lost_holder.with_reports(C.address, report, (), 20, 21, NO_CHANGE) is None, "A may have the slots"
    stays = lost_holder.without_moves([Run(13000, SLOTS - 1, A.address, 8)], 21)
    assert stays is not None
    complete = stays.with_reports(C.address, report, (), 21, 22, NO_CHANGE)
    assert complete is not None
    assert complete.holders(MOVING) == (Listed(filling.address),)


def test_a_complete_holder_counts_for_the_ring_that_listed_it_and_for_its_owner_only() -> None:
    report = [(9000, 12999, A.address)]
    assert ring().with_reports(B.address, report, (), 6, 20, NO_CHANGE) is None, "from before it was listed"
    assert ring().with_reports(C.address, report, (), 10, 20, NO_CHANGE) is None, "not of its slots"
    complete = ring().with_reports(B.address, report, (), 7, 20, NO_CHANGE)
    assert complete is not None
    assert complete.holders(FILLING) == listed(A)
    assert owner_of(complete, FILLING) == (B.address, 3)
    again = after(A, replace(B, node_id="b-2"), C, renewed=[B.address], restarted=[B.address])
    assert again.with_reports(B.address, report, (), 10, 30, NO_CHANGE) is None, "of the process before"


def test_a_part_of_the_slots_can_be_complete() -> None:
    part = ring().with_reports(B.address, [(9000, 9999, A.address)], (), 7, 20, NO_CHANGE)
    assert part is not None
    assert part.holders(9999) == listed(A)
    assert part.holders(10000) == (Listed(A.address, 7),)


def test_a_failed_holder_is_taken_off_the_list_and_another_one_filled() -> None:
    failed = ring().with_reports(
        A.address, (), [(0, 3999, B.address)], 10, 20, PlanChange(avoided=[(A.address, B.address)])
    )
    assert failed is not None
    assert failed.holders(B_HAS) == (Listed(C.address, 20),)
    assert failed.holders(C_HAS) == listed(C)


def test_the_number_of_journals_grows_with_the_members_and_never_shrinks_by_a_loss() -> None:
    alone = Ring.empty().with_members([A], 1, moving=True)
    assert (alone.copies.target, alone.copies.runs) == (1, ())
    two = alone.with_members([A, B], 2, moving=True)
    assert two.copies.target == 2
    three = two.with_members([A, B, replace(C, copies=3)], 3, moving=True)
    assert three.copies.target == 3
    lost = three.with_members([A, B], 4, moving=True)
    assert (lost.copies.target, lost.copies.greatest_members) == (3, 3)
    written_off = lost.with_members([A, B], 5, moving=True, change=PlanChange(departed=1))
    assert (written_off.copies.target, written_off.copies.greatest_members) == (2, 2)


def test_a_member_that_keeps_no_copies_or_hands_nothing_over_ends_them() -> None:
    old = replace(D, copies=0)
    assert ring().with_members([A, B, C, old], 20, moving=True).copies == Copies(0, 4)
    assert ring().with_members([A, B, C], 20).copies == Copies(0, 3)
    back = ring().with_members([A, B, C, old], 20, moving=True).with_members([A, B, C], 21, moving=True)
    assert all(each.since == 21 for run in back.copies.runs for each in run.held.holders), "filled anew"


def test_if_a_newer_ring_was_lost_no_holder_counts_as_complete() -> None:
    doubted = after(A, B, C, change=PlanChange(doubtful=True))
    assert doubted.holders(B_HAS) == (Listed(B.address, 20),)
    lost = after(B, C, change=PlanChange(doubtful=True))
    assert lost.owner(B_HAS) == ""


@pytest.mark.parametrize(
    ("copies", "argv"),
    [
        (Copies(2, 1), "2 journals are wanted of 1 members"),
        (Copies(2, 3, (run(0, SLOTS - 1, A, D),)), "have the holder"),
        (Copies(2, 3, (run(0, SLOTS - 1, A, Listed(B.address, 11)),)), "have the holder"),
    ],
)
def test_copies_that_do_not_fit_are_rejected(copies: Copies, argv: str) -> None:
    with pytest.raises(ValueError, match=argv):
        Ring.restored(10, [A, B, C], RUNS, (), copies)


def test_a_published_ring_is_restored_with_its_copies() -> None:
    lost = after(C)
    again = Ring.restored(lost.epoch, lost.members, lost.ranges(), lost.pending, lost.copies)
    assert again.copies == lost.copies
    assert [again.owner(slot) for slot in range(0, SLOTS, 97)] == [lost.owner(slot) for slot in range(0, SLOTS, 97)]
