"""When a worker is started again, and the exit code of the parent."""

from __future__ import annotations

import pytest

from milena_cache.workers.restarts import BACKOFF, STEADY_SECONDS, Restarts, exit_code, worst


def test_the_delay_grows_while_the_worker_ends_soon_after_its_start() -> None:
    restarts = Restarts()
    assert [restarts.delay(1, 2.0, lambda: 1.0) for _ in range(4)] == [1.0, 2.0, 4.0, 8.0]
    for _ in range(20):
        restarts.delay(1, 2.0, lambda: 1.0)
    assert restarts.delay(1, 2.0, lambda: 1.0) == BACKOFF.max_delay
    assert restarts.delay(137, STEADY_SECONDS, lambda: 1.0) == BACKOFF.first


@pytest.mark.parametrize("code", [0, 1, 3, 137])
def test_whatever_ended_it_it_is_started_again(code: int) -> None:
    assert Restarts().delay(code, 1000.0, lambda: 0.5) is not None


def test_a_wrong_environment_does_not_get_right() -> None:
    assert Restarts().delay(2, 0.1, lambda: 0.5) is None


def test_a_signal_has_the_exit_code_that_a_shell_reports() -> None:
    assert [exit_code(each) for each in (0, 3, -9, -15)] == [0, 3, 137, 143]


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([0, 0], 0), ([0, 3], 3), ([3, 2], 2), ([2, 1, 3], 1), ([1, 137, 0], 137)]
)
def test_the_worst_code_counts(codes: list[int], code: int) -> None:
    assert worst(codes) == code
