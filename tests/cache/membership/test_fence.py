"""How long a node may serve: by leases, by promises, and never when a router may have given its slots to others."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from milena_cache.membership.fence import CHECK_SECONDS, Fence, margin_of

LEASE = 6.0
MARGIN = 0.6
OTHERS = frozenset({"b", "c"})
AHEAD = 1_700_000_000.0


def fence_of(epoch: int = 7, others: frozenset[str] = OTHERS) -> Fence:
    fence = Fence()
    fence.adopt_ring(epoch, others)
    return fence


def is_open(fence: Fence, now: float, ahead: float = AHEAD) -> bool:
    return fence.may_serve(now, now + ahead)


@pytest.mark.parametrize(
    ("seconds", "margin"), [(6.0, 0.6), (5.0, 0.5), (2.0, 0.5), (3600.0, 360.0), (1.0, 0.5), (0.3, 0.15)]
)
def test_the_margin_is_half_a_second_or_a_tenth_and_leaves_half_of_a_short_lease(
    seconds: float, margin: float
) -> None:
    assert margin_of(seconds) == pytest.approx(margin)


def test_without_a_right_a_node_is_closed_and_alone_or_outside_of_the_ring_it_needs_none() -> None:
    assert not is_open(fence_of(), 100.0)
    alone = fence_of(others=frozenset())
    assert is_open(alone, 100.0)
    assert (alone.check_at, alone.request_at()) == (inf, inf), "the hot path never looks"


def test_a_lease_counts_from_its_request_and_ends_before_it_does_at_the_router() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    assert is_open(fence, 103.0), "the reply took three seconds"
    assert is_open(fence, 105.39)
    assert not is_open(fence, 105.4)


def test_the_hot_path_looks_every_tenth_of_a_second_and_at_the_end() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    is_open(fence, 101.0)
    assert fence.check_at == pytest.approx(101.0 + CHECK_SECONDS)
    is_open(fence, 105.35)
    assert fence.check_at == pytest.approx(105.4, abs=1e-6)
    is_open(fence, 105.4)
    assert fence.check_at == inf, "only a new right opens it again"


def test_a_lease_counts_only_with_a_ring_as_new_as_the_one_by_which_it_was_granted() -> None:
    fence = fence_of(epoch=7)
    fence.granted("r", LEASE, 100.0, 9, AHEAD)
    assert not is_open(fence, 101.0), "ring 9 may have given its slots to others"
    fence.adopt_ring(8, OTHERS)
    assert not is_open(fence, 101.0)
    fence.adopt_ring(9, OTHERS)
    assert is_open(fence, 101.0)
    fence.adopt_ring(12, OTHERS)
    assert is_open(fence, 101.0)


def test_a_lease_by_a_ring_that_has_not_arrived_leaves_the_one_before_valid() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    fence.granted("r", LEASE, 102.0, 8, AHEAD)
    fence.granted("r", LEASE, 103.0, 9, AHEAD)
    assert is_open(fence, 105.39)
    assert not is_open(fence, 105.4), "that is the end of the first lease"
    fence.adopt_ring(9, OTHERS)
    assert is_open(fence, 108.39)
    assert not is_open(fence, 108.4)


def test_the_lease_before_ends_no_later_than_a_shorter_new_one() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    fence.granted("r", 1.0, 101.0, 8, AHEAD)
    assert is_open(fence, 101.49)
    assert not is_open(fence, 101.5)


def test_any_router_will_do_and_a_lease_given_back_is_over() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    fence.granted("s", LEASE, 103.0, 7, AHEAD)
    assert is_open(fence, 107.0)
    fence.returned("s")
    assert not is_open(fence, 107.0)


def test_with_a_lease_given_back_promises_are_over_too() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    fence.promised(LEASE, 100.0, 7, AHEAD, OTHERS)
    fence.returned("r")
    assert not is_open(fence, 101.0), "the router gives the slots away at once"


@pytest.mark.parametrize("moved", [0.61, -0.61, 3600.0, -3600.0])
def test_a_jump_of_the_time_of_day_beyond_the_margin_ends_what_there_is_for_good(moved: float) -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    fence.promised(LEASE, 100.0, 7, AHEAD, OTHERS)
    assert not is_open(fence, 101.0, AHEAD + moved)
    assert not is_open(fence, 101.1, AHEAD), "set back, it proves nothing"
    fence.granted("r", LEASE, 101.1, 7, AHEAD)
    assert is_open(fence, 101.2, AHEAD)


def test_a_smaller_one_shortens_and_never_lengthens() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    assert is_open(fence, 101.0, AHEAD + 0.5)
    assert is_open(fence, 102.0, AHEAD - 0.5)
    assert is_open(fence, 104.89, AHEAD - 0.5)
    assert not is_open(fence, 104.91, AHEAD - 0.5), "half a second sooner, whatever came after"
    fence.granted("r", LEASE, 104.0, 7, AHEAD)
    assert is_open(fence, 105.0, AHEAD - 0.3)
    assert is_open(fence, 106.0, AHEAD)
    assert not is_open(fence, 109.2, AHEAD), "a pause of 0.3 s may hide behind a step back"


def test_promises_of_all_others_let_it_serve_on() -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    fence.promised(LEASE, 104.0, 7, AHEAD, OTHERS)
    assert is_open(fence, 105.0)
    assert not fence.by_promise
    assert is_open(fence, 109.39)
    assert fence.by_promise
    assert not is_open(fence, 109.4)


def test_a_promise_covers_no_member_that_did_not_promise() -> None:
    fence = fence_of()
    fence.promised(LEASE, 100.0, 7, AHEAD, frozenset({"b"}))
    assert not is_open(fence, 101.0)
    fence.promised(LEASE, 100.0, 7, AHEAD, OTHERS)
    assert is_open(fence, 101.0)
    fence.adopt_ring(7, frozenset({"b", "d"}))
    assert not is_open(fence, 101.0), "routers that do not agree may have two rings with one epoch"


def test_a_promise_is_over_with_a_newer_ring_and_the_router_s_lease_is_not() -> None:
    """For b and c the promise is over as soon as they know that this node has the newer ring."""
    fence = fence_of()
    fence.promised(LEASE, 100.0, 7, AHEAD, OTHERS)
    assert is_open(fence, 101.0)
    fence.adopt_ring(8, frozenset({"b"}))
    assert not is_open(fence, 101.0)
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    assert is_open(fence, 101.0)


def test_promises_are_requested_for_when_half_is_left_and_no_router_has_renewed() -> None:
    fence = fence_of()
    assert fence.request_at() == inf, "without any lease it is not known for how long to ask"
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    assert fence.request_at() == pytest.approx(102.7)
    fence.granted("r", LEASE, 102.0, 7, AHEAD)
    assert fence.request_at() == pytest.approx(104.7)
    is_open(fence, 120.0)
    assert fence.request_at() == -inf, "overdue"


@pytest.mark.parametrize("right", ["lease", "promise"])
def test_a_pause_counts_although_the_time_of_day_is_set_back_before_the_right_arrives(right: str) -> None:
    fence = fence_of()
    fence.granted("r", LEASE, 100.0, 7, AHEAD)
    assert is_open(fence, 102.0)
    # At 103 a right is requested; then the machine is paused, and the time of day is corrected, and set back.
    assert not is_open(fence, 103.1, AHEAD + 5.8)
    is_open(fence, 103.2, AHEAD + 0.5)
    if right == "lease":
        fence.granted("r", LEASE, 103.0, 7, AHEAD)
    else:
        fence.promised(LEASE, 103.0, 7, AHEAD, OTHERS)
    assert not is_open(fence, 103.3, AHEAD + 0.5)
    # One that was requested afterwards is not concerned.
    fence.granted("r", LEASE, 103.3, 7, AHEAD + 0.5)
    assert is_open(fence, 103.4, AHEAD + 0.5)


# ---- against an observer with the true time

# The rates of clocks, at worst for the node. The margin, a tenth of a lease, covers both.
SLOW, FAST = 0.96, 1.04
STEPS = st.sampled_from([0.3, 2.9, 5.8])


class Observed(RuleBasedStateMachine):
    """Node a, its router, and the other members b and c, whose clocks differ in rate.

    The router replaces a when its lease is over there, and gives its slots away when every other member has
    acknowledged the new ring. Messages are delayed and lost, machines pause with or without their clocks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = {"a": SLOW, "r": FAST, "b": FAST, "c": FAST}
        self.clock = {"a": 10.0, "r": 20.0, "b": 30.0, "c": 40.0}
        self.ahead = AHEAD
        self.epoch = 7  # the router's ring
        self.lost_in = 0  # the ring that a is not the owner in any more
        self.lease_until = 20.0 + LEASE
        self.adopted = {"a": 7, "b": 7, "c": 7}
        self.promises: dict[str, list[tuple[float, int]]] = {"b": [], "c": []}
        self.acknowledged = {"b": 7, "c": 7}
        self.reached = "bc"
        self.fence = fence_of(7)
        self.fence.granted("r", LEASE, 10.0, 7, AHEAD)
        self.renewals: list[tuple[float, float, int]] = []
        self.rounds: list[tuple[float, float, int, set[str]]] = []

    @rule(seconds=STEPS)
    def pass_time(self, seconds: float) -> None:
        for who, rate in self.rate.items():
            self.clock[who] += seconds * rate
        self.the_router_looks()

    @rule(seconds=st.sampled_from([0.3, 0.5, 5.8]))
    def a_virtual_machine_pauses(self, seconds: float) -> None:
        for who in "rbc":
            self.clock[who] += seconds * self.rate[who]
        self.ahead += seconds
        self.the_router_looks()

    @rule(moved=st.sampled_from([-5.0, -0.3, 0.2, 5.0]))
    def the_time_of_day_is_set(self, moved: float) -> None:
        self.ahead += moved

    # ---- rings

    @precondition(lambda self: not self.lost_in)
    @rule(offered=st.booleans())
    def the_ring_changes(self, offered: bool) -> None:
        """The new one still has all three."""
        self.epoch += 1
        self.rings_arrive()
        if offered:
            self.members_offer_their_rings("bc")

    @rule(which=st.sampled_from(["b", "c", "bc"]))
    def members_offer_their_rings(self, which: str) -> None:
        """And take their promises for older ones for over, since a has it: if a is no member, it redirects."""
        for who in which:
            if self.lost_in and self.adopted[who] >= self.lost_in:
                continue
            if self.adopted["a"] < self.adopted[who]:
                self.adopted["a"] = self.adopted[who]
                self.fence.adopt_ring(self.adopted["a"], OTHERS)
            self.promises[who] = [promise for promise in self.promises[who] if promise[1] >= self.adopted["a"]]
        self.rings_arrive()

    # ---- leases

    @rule(lost=st.booleans())
    def renew(self, lost: bool) -> None:
        if lost:
            return
        sent_at, ahead = self.clock["a"], self.ahead
        if not self.lost_in:
            self.lease_until = self.clock["r"] + LEASE
        self.renewals.append((sent_at, ahead, self.epoch))

    @precondition(lambda self: self.renewals)
    @rule()
    def a_lease_arrives(self) -> None:
        sent_at, ahead, epoch = self.renewals.pop(0)
        self.fence.granted("r", LEASE, sent_at, epoch, ahead)

    def the_router_looks(self) -> None:
        if not self.lost_in and self.clock["r"] >= self.lease_until:
            self.epoch += 1
            self.lost_in = self.epoch
        self.rings_arrive()

    @rule(which=st.sampled_from(["", "b", "c", "bc"]))
    def the_router_reaches(self, which: str) -> None:
        self.reached = which
        self.rings_arrive()

    def rings_arrive(self) -> None:
        """At once, which is the worst case; and not at a, which would serve nothing by them."""
        for who in self.reached:
            self.adopted[who] = self.epoch
            held = [epoch for until, epoch in self.promises[who] if self.clock[who] < until]
            self.acknowledged[who] = max(self.acknowledged[who], min([self.adopted[who], *held]))

    # ---- promises

    @rule()
    def all_promise_at_once(self) -> None:
        self.request_promises()
        self.promise("bc")
        self.promises_arrive()

    @rule()
    def request_promises(self) -> None:
        self.rounds.append((self.clock["a"], self.ahead, self.adopted["a"], set()))

    @precondition(lambda self: self.rounds)
    @rule(which=st.sampled_from(["b", "c", "bc"]))
    def promise(self, which: str) -> None:
        _, _, epoch, by = self.rounds[-1]
        for who in which:
            if self.adopted[who] == epoch:
                self.promises[who].append((self.clock[who] + LEASE, epoch))
                by.add(who)

    @precondition(lambda self: self.rounds)
    @rule()
    def promises_arrive(self) -> None:
        requested_at, ahead, epoch, by = self.rounds.pop()
        if self.adopted["a"] == epoch and by == OTHERS:
            self.fence.promised(LEASE, requested_at, epoch, ahead, frozenset(by))

    @invariant()
    def it_never_serves_what_the_router_may_have_given_away(self) -> None:
        given_away = (
            self.lost_in
            and self.clock["r"] >= self.lease_until
            and all(epoch >= self.lost_in for epoch in self.acknowledged.values())
        )
        if is_open(self.fence, self.clock["a"], self.ahead):
            assert not given_away


TestObserved = Observed.TestCase
TestObserved.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
