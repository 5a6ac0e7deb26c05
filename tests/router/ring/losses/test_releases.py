"""The conditions of a release one by one; `test_membership_moves` has them in a ring."""

from __future__ import annotations

import pytest

from milena_common.cluster.slot_assignment import Member
from milena_router.ring.losses.releases import MAX_LOSSES, Loss, Releases

X = Member("x:1", "x-1", journal_id="journal-x")


def loss(epoch: int = 7, *awaited: str, over_at: float = 10.0, witnesses: set[str] | None = None) -> Loss:
    return Loss(X.address, X.node_id, X.journal_id, epoch, over_at, set(awaited), witnesses)


@pytest.fixture
def releases() -> Releases:
    return Releases()


def is_released(releases: Releases, now: float) -> bool:
    releases.drop_proved(now)
    return releases.released(99) == 99


def test_without_losses_every_ring_is_released(releases: Releases) -> None:
    assert releases.released(5) == 5


def test_the_oldest_loss_counts(releases: Releases) -> None:
    releases.add(loss(9))
    releases.add(Loss("y:1", "y-1", "", 7, 20.0, set()))
    assert releases.released(12) == 6
    releases.drop_proved(20.0)
    assert releases.released(12) == 12


def test_time_and_all_acknowledgements_are_needed(releases: Releases) -> None:
    releases.add(loss(7, "a", "b", witnesses={"a"}))
    releases.acknowledged("a", "a-1", 7)
    releases.acknowledged("b", "b-1", 6)
    assert not is_released(releases, 99.0)
    releases.acknowledged("b", "b-1", 8)
    assert not is_released(releases, 9.9)
    assert is_released(releases, 10.0)


def test_a_member_in_every_ring_of_the_lost_process_must_acknowledge(releases: Releases) -> None:
    releases.add(loss(7, "a", "b", witnesses={"b"}))
    releases.acknowledged("a", "a-1", 7)
    releases.member_lost("b", 20.0)
    assert not is_released(releases, 99.0)
    assert "milena leave --forget" in releases.all()[0].described()


def test_a_member_that_left_is_as_good_after_its_last_promise(releases: Releases) -> None:
    releases.add(loss(7, "b", witnesses={"b"}))
    releases.member_exited("b", 20.0)
    assert not is_released(releases, 19.9)
    assert is_released(releases, 20.0)


def test_the_lost_process_itself_can_acknowledge_and_another_at_its_address_cannot(releases: Releases) -> None:
    releases.add(loss(7, "a"))
    releases.acknowledged(X.address, "x-2", 8)
    releases.acknowledged(X.address, X.node_id, 6)
    assert not is_released(releases, 99.0)
    releases.acknowledged(X.address, X.node_id, 7)
    assert is_released(releases, 0.0)


@pytest.mark.parametrize(
    ("member", "proves"),
    [
        (Member("x:1", "x-2", journal_id="journal-x"), True),
        (Member("x:1", "x-1", journal_id="journal-x"), False),
        (Member("x:1", "x-2", journal_id="another"), False),
        (Member("y:1", "x-2", journal_id="journal-x"), False),
        (Member("x:1", "x-2"), False),
    ],
    ids=["restarted", "the same process", "another journal", "another address", "no journal"],
)
def test_a_new_process_with_the_journal_proves_the_end_of_the_one_before(
    releases: Releases, member: Member, proves: bool
) -> None:
    releases.add(loss(7, "a"))
    releases.restarted(member)
    assert is_released(releases, 0.0) is proves


def test_a_process_without_a_journal_is_not_proved_by_another_one(releases: Releases) -> None:
    releases.add(Loss("x:1", "x-1", "", 7, 10.0, {"a"}))
    releases.restarted(Member("x:1", "x-2"))
    assert not is_released(releases, 0.0)


def test_a_process_that_is_lost_twice_has_one_record_with_both_conditions(releases: Releases) -> None:
    releases.add(loss(7, "a", over_at=20.0, witnesses={"a"}))
    releases.add(loss(9, "b", over_at=10.0, witnesses={"b"}))
    (one,) = releases.all()
    assert (one.epoch, one.acknowledge, one.over_at, one.awaited) == (7, 9, 20.0, {"a", "b"})
    releases.acknowledged("a", "a-1", 9)
    releases.acknowledged("b", "b-1", 9)
    assert is_released(releases, 20.0)


def test_the_losses_are_bounded_and_those_that_become_one_keep_their_conditions(releases: Releases) -> None:
    for number in range(MAX_LOSSES + 5):
        releases.add(Loss(f"n{number}:1", f"id-{number}", "", number + 1, 100.0 - number, {f"m{number}"}))
    assert len(releases) == MAX_LOSSES
    oldest = releases.all()[0]
    assert (oldest.epoch, oldest.acknowledge, oldest.over_at) == (1, 6, 100.0)
    assert oldest.awaited == {f"m{number}" for number in range(6)}
