"""Deadlines on another process's clock: never later than the caller's, and by how much earlier."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milena_common.resp.peer_clock import DRIFT, RENEW_SECONDS, PeerClock

# Each clock runs by at most 500 ppm too fast or too slow.
rates = st.floats(1 - 0.00049, 1 + 0.00049)
seconds = st.floats(0.0, 10.0)


@given(rates, rates, st.floats(0.0, 1e6), st.floats(0.0, 1e6), seconds, st.floats(0.0, 1e5), st.floats(0.001, 60.0))
def test_a_deadline_is_never_late_and_early_by_the_way_of_the_reply_and_the_drift(
    mine: float, theirs: float, my_zero: float, their_zero: float, reply: float, age: float, timeout: float
) -> None:
    """All but the rates and zeros in true seconds; the node looks at its clock at 0."""

    def here(at: float) -> float:
        return my_zero + mine * at

    def there(at: float) -> float:
        return their_zero + theirs * at

    clock = PeerClock()
    clock.observe(int(1000 * there(0.0)), here(reply))
    called_at = reply + age
    gives_up_at = called_at + timeout / mine
    deadline = clock.deadline(here(called_at), timeout)
    assert deadline is not None
    assert deadline / 1000 <= there(gives_up_at)
    assert deadline / 1000 >= there(gives_up_at) - reply * theirs - 2 * DRIFT * (age + timeout) - 0.004


def test_a_node_that_shows_no_time_gets_no_deadlines() -> None:
    clock = PeerClock()
    clock.observe(b"OK", 5.0)
    clock.doubt()
    assert clock.deadline(6.0, 1.0) is None
    assert not clock.needs_renewal(1e9)


def test_the_time_is_requested_by_one_caller_when_it_is_old_or_in_doubt() -> None:
    clock = PeerClock()
    clock.observe(100_000, 5.0)
    assert not clock.needs_renewal(5.0 + RENEW_SECONDS - 1)
    assert [clock.needs_renewal(5.0 + RENEW_SECONDS + 1) for _ in range(2)] == [True, False]
    clock.observe(140_000, 45.0)
    assert not clock.needs_renewal(45.0)
    clock.doubt()
    assert [clock.needs_renewal(45.0) for _ in range(2)] == [True, False]
    # After an hour a deadline would be early by 3.6 s, longer than many timeouts.
    assert [clock.needs_renewal(45.0 + 3600) for _ in range(2)] == [True, True]
