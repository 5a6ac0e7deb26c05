"""The queue of keys, and walks through it while it changes."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.eviction import key_queue
from milena_cache.eviction.key_queue import BLOCK_KEYS, KeyQueue
from milena_cache.eviction.policies import EVICTION_POLICIES
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import Entry

# Of each step: how many keys are new, how many are put from the beginning to the end, how many are taken for good.
STEPS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 10)), max_size=20)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_queue, "BLOCK_KEYS", 4)


def queue_of(number: int) -> KeyQueue:
    queue = KeyQueue()
    for each in range(number):
        queue.append(b"%d" % each)
    return queue


@given(st.lists(st.sampled_from(["append", "popleft"]), max_size=60))
def test_it_is_a_queue(steps: list[str]) -> None:
    queue, model = KeyQueue(), deque[bytes]()
    for number, step in enumerate(steps):
        if step == "append":
            queue.append(b"%d" % number)
            model.append(b"%d" % number)
        elif model:
            assert queue.popleft() == model.popleft()
        else:
            with pytest.raises(IndexError):
                queue.popleft()
        assert len(queue) == len(model)
        assert list(reversed(queue)) == list(reversed(model))
        assert [key for part in queue.walk() for key in part] == list(model)


@given(st.integers(0, 60), STEPS)
def test_a_walk_visits_what_stays_whatever_comes_and_moves(number: int, steps: list[tuple[int, int, int]]) -> None:
    queue = queue_of(number)
    staying = {b"%d" % each for each in range(number)}
    visited: set[bytes] = set()
    new = number
    left = iter(steps)
    for part in queue.walk():
        visited.update(part)
        appended, moved, taken = next(left, (0, 0, 0))
        for _ in range(min(taken, len(queue))):
            staying.discard(queue.popleft())
        for _ in range(min(moved, len(queue))):
            queue.append(queue.popleft())
        for _ in range(appended):
            queue.append(b"%d" % new)
            new += 1
    assert staying <= visited


def test_a_walk_ends_though_each_step_moves_keys() -> None:
    queue = queue_of(100)
    parts = 0
    for _ in queue.walk():
        parts += 1
        for _ in range(30):
            queue.append(queue.popleft())
    assert parts <= 26


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
def test_a_memory_under_pressure_visits_each_entry_that_stays(policy: str) -> None:
    memory = Memory(200, 10**6, policy)
    for number in range(200):
        memory.store(b"%d" % number, Entry(b"v" * (number % 7 * 40), '"e"', 0.0, 0))
    before = set(memory)
    visited: set[bytes] = set()
    number = 200
    for part in memory.walk_keys():
        assert all(key in memory for key in part)
        visited.update(part)
        for key in list(memory)[::3]:
            memory.get(key)
        for _ in range(20):
            memory.store(b"%d" % number, Entry(b"v", '"e"', 0.0, 0))
            number += 1
        memory.remove(next(iter(memory)))
    assert before & set(memory) <= visited


def test_blocks_have_some_hundred_keys() -> None:
    assert BLOCK_KEYS == 512
