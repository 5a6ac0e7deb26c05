"""The state as bytes: every field comes back, and no delay gets shorter at another router."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_common.api.errors import FailedPrecondition
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slot_assignment import Member, Ring
from milena_router.ring.joining import lasting
from milena_router.ring.losses.releases import Loss
from milena_router.ring.membership import Membership
from milena_router.ring.ring_status import RingStatus
from milena_router.ring.shared_state import MemberState, SharedState, shared_state
from milena_router.shared.state_message import FORMAT, StateMessages

NAMES = st.sampled_from(["a:1", "b:1", "c:1", "d:1"])
IDS = st.text("abc-", max_size=5)
EPOCHS = st.integers(1, 2**50)
SECONDS = st.floats(0, 1000, allow_nan=False)
BUCKETS = st.sampled_from(["", "photos"])
STATUSES = st.one_of(
    st.just(RingStatus()),
    st.builds(RingStatus, moves=st.just(True), leaving=st.booleans(), foreign_writes=st.booleans()),
)
MEMBERS = st.builds(
    Member, NAMES, IDS, st.floats(0.1, 100), st.dictionaries(st.sampled_from(["resp", "ops"]), NAMES), IDS
)
LOSSES = st.builds(
    Loss,
    NAMES,
    IDS,
    IDS,
    EPOCHS,
    SECONDS,
    st.sets(NAMES),
    st.none() | st.sets(NAMES),
    EPOCHS,
    st.booleans(),
)
MISSING = st.builds(
    MissingNode, NAMES, IDS, IDS, st.none() | st.integers(0, 1000), st.integers(0, 1000), SECONDS, IDS
)


@st.composite
def states(draw: st.DrawFn) -> SharedState:
    members = draw(st.lists(MEMBERS, max_size=4, unique_by=lambda member: member.address))
    members.sort(key=lambda member: member.address)
    ring = Ring.empty().with_members(members, draw(EPOCHS), moving=True) if members else Ring.empty()
    if members:
        more = [*members, Member("z:1", "z")]
        ring = ring.with_members(more, ring.epoch + draw(st.integers(1, 100)), moving=True)
        members = more
    return SharedState(
        ring,
        draw(BUCKETS),
        draw(IDS),
        tuple(
            MemberState(
                member, draw(STATUSES), draw(IDS), draw(st.sampled_from(["", "photos"])), draw(IDS), draw(EPOCHS)
            )
            for member in members
        ),
        tuple(draw(st.lists(MISSING, max_size=3))),
        tuple(draw(st.lists(LOSSES, max_size=4))),
        draw(st.booleans()),
        draw(SECONDS),
        draw(SECONDS),
        draw(st.dictionaries(st.tuples(NAMES, NAMES), st.integers(1, 5), max_size=2)),
    )


def same(first: SharedState, second: SharedState) -> bool:
    rings = [
        (state.ring.epoch, state.ring.members, state.ring.ranges(), state.ring.pending) for state in (first, second)
    ]
    return rings[0] == rings[1] and replace(first, ring=second.ring) == second


@settings(max_examples=30)
@given(states(), st.floats(0, 1000))
def test_the_router_that_wrote_a_state_reads_the_same(state: SharedState, now: float) -> None:
    messages = StateMessages()
    data = messages.to_bytes(state, b"id", now)
    found, write_id = messages.from_bytes(data, now + 5)
    assert same(found, state)
    assert write_id == b"id"


@settings(max_examples=30)
@given(states(), st.floats(0, 1000))
def test_another_router_reads_the_same_and_counts_delays_from_then_on(state: SharedState, now: float) -> None:
    data = StateMessages().to_bytes(state, b"id", now)
    reader, other = StateMessages(), 5000.0
    found, _ = reader.from_bytes(data, other)
    for loss, known in zip(found.losses, state.losses, strict=True):
        assert loss.over_at == pytest.approx(other + max(0.0, known.over_at - now))
    assert found.plan_at == pytest.approx(other + max(0.0, state.plan_at - now))
    without_times = [
        replace(each, losses=tuple(replace(loss, over_at=0.0) for loss in each.losses), plan_at=0.0)
        for each in (found, state)
    ]
    assert same(*without_times)


@settings(max_examples=30)
@given(states())
def test_a_delay_goes_on_through_changes_of_other_routers(state: SharedState) -> None:
    first, second = StateMessages(), StateMessages()
    seen, _ = second.from_bytes(first.to_bytes(state, b"1", 0.0), 100.0)
    changed = replace(seen, cluster_id="changed")
    again, _ = first.from_bytes(second.to_bytes(changed, b"2", 150.0), 60.0)
    assert [loss.over_at for loss in again.losses] == [loss.over_at for loss in state.losses]
    assert again.plan_at == state.plan_at


def test_a_delay_that_is_longer_begins_anew_elsewhere() -> None:
    membership = Membership(5.0, 0.0)
    membership.join(Member("a:1", "a"), "b", 0, 0.0, 1e9)
    loss = Loss("x:1", "x", "", membership.ring.epoch, 10.0, set())
    membership.releases.add(loss)
    first, second = StateMessages(), StateMessages()
    state = shared_state(membership)
    second.from_bytes(first.to_bytes(state, b"1", 4.0), 100.0)
    longer = replace(state, losses=(replace(loss, over_at=30.0),))
    found, _ = second.from_bytes(first.to_bytes(longer, b"2", 8.0), 103.0)
    assert found.losses[0].over_at == 103.0 + 22.0


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xff", bytes([8, FORMAT + 1]), bytes([8, FORMAT]) + b"\x22\x02\x0a\x00"]
)
def test_what_is_no_state_or_of_a_newer_version_is_rejected(data: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        StateMessages().from_bytes(data, 0.0)


def test_all_that_a_node_reports_for_good_is_kept() -> None:
    """A new field of `RingStatus` is for good, unless `lasting` takes it out; and then it is in the message."""
    transient = {"acknowledged_epoch", "taken", "completed", "failed_holders", "copies_epoch"}
    lasts = {each.name for each in fields(RingStatus)} - transient
    assert lasts == {"moves", "leaving", "foreign_writes", "number"}
    members = {"address", "node_id", "weight", "addresses", "journal_id", "copies", "zone"}
    assert {each.name for each in fields(Member)} == members
    assert lasting(RingStatus()) == RingStatus()
    status = RingStatus(True, 5, (), True, True, number=7)
    assert lasting(status) == RingStatus(True, 0, (), True, True)
    assert lasting(status).number == 7
