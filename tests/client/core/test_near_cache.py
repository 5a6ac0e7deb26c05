"""The near cache: its bounds, and that it never returns what is not the object's any more."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from linecache import getline
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from milena_client import AsyncMilena, Milena
from milena_client.core import near_cache
from milena_client.core.invalidations import apply_push
from milena_client.core.near_cache import BOUND_SECONDS, ENTRY_OVERHEAD, NearCache, ReadMark
from milena_client.core.values import Key
from milena_common.api.errors import InvalidRequest, NodeLost


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


class NearUnderTest:
    """A cache with one source, `node`, that has just replied."""

    def __init__(self, max_bytes: int = 10**6, max_age: float = 30.0) -> None:
        self.clock = Clock()
        self.near = NearCache(max_bytes, max_age, now=self.clock.now)
        self.replies()

    def replies(self, node: str = "node") -> None:
        self.near.confirmed(node, self.clock.time)

    def advance(self, seconds: float) -> None:
        """Time passes, with the node there."""
        self.clock.time += seconds
        self.replies()

    def keep(self, key: Key, value: bytes) -> None:
        assert self.read(key, lambda: value) == value

    def read(self, key: Key, request: Callable[[], Any]) -> Any:
        """Read `key` as the clients do: `request` finds it."""
        mark = self.near.begin_read(key)
        found = None
        try:
            found = request()
            return found
        finally:
            self.near.end_read(key, mark, found)


def test_a_value_is_returned_as_the_same_object_until_it_is_too_old() -> None:
    t = NearUnderTest(max_age=30)
    value = bytes(1000)
    t.keep("k", value)
    t.advance(29.9)
    assert t.near.get("k") is value
    t.advance(0.1)
    assert t.near.get("k") is None
    assert (t.near.hits, t.near.misses) == (1, 1)


def test_the_age_counts_from_the_beginning_of_the_read() -> None:
    t = NearUnderTest(max_age=30)

    def slowly() -> bytes:
        t.advance(20)
        return b"v"

    t.read("k", slowly)
    t.advance(10)
    assert t.near.get("k") is None


@pytest.mark.parametrize("found", [None, NodeLost("gone"), 7])
def test_what_is_no_value_is_not_kept(found: Any) -> None:
    t = NearUnderTest()
    assert t.read("k", lambda: found) is found
    assert len(t.near) == 0
    assert not t.near._marks


def test_the_least_recently_used_goes_first_when_bytes_are_over() -> None:
    cost = ENTRY_OVERHEAD + 1 + 100
    t = NearUnderTest(max_bytes=3 * cost)
    for key in ("a", "b", "c"):
        t.keep(key, bytes(100))
    assert t.near.get("a") is not None
    t.keep("d", bytes(100))
    assert [t.near.get(key) is not None for key in "abcd"] == [True, False, True, True]
    assert t.near.bytes == 3 * cost
    t.keep("large", bytes(10 * cost))
    assert len(t.near) == 0
    assert t.near.bytes == 0


def test_a_key_may_be_spelled_as_str_and_as_bytes_and_one_message_is_about_both() -> None:
    t = NearUnderTest()
    t.keep("ö", b"1")
    t.keep("ö".encode(), b"1")
    assert len(t.near) == 2
    t.near.invalidate_keys(["ö".encode()])
    assert t.near.get("ö") is None
    assert t.near.get("ö".encode()) is None
    assert t.near.bytes == 0
    assert not t.near._spellings


def test_keys_that_are_none_are_left_to_the_call_that_follows() -> None:
    t = NearUnderTest()
    for key in (["list"], 7, None, "\ud800"):
        assert t.near.get(key) is None  # type: ignore[arg-type]
        assert t.read(key, lambda: b"v") == b"v"  # type: ignore[arg-type]
        t.near.drop_keys((key,))  # type: ignore[arg-type]
    assert len(t.near) == 0


def test_nothing_is_returned_once_a_node_has_been_silent_for_the_bound() -> None:
    t = NearUnderTest()
    t.replies("other")
    t.keep("k", b"v")
    t.clock.time += BOUND_SECONDS - 0.01
    t.replies("other")
    assert t.near.get("k") == b"v"
    t.clock.time += 0.01
    assert t.near.get("k") is None
    t.replies()  # on the same connection: every message before its reply has been heard
    assert t.near.get("k") == b"v"


def test_a_lost_connection_drops_every_entry_and_reads_in_flight() -> None:
    t = NearUnderTest()
    t.replies("other")
    t.keep("k", b"v")

    def request() -> bytes:
        t.near.lost("node")
        return b"v"

    t.read("under way", request)
    assert len(t.near) == 0
    t.keep("k", b"v")
    assert t.near.get("k") == b"v"  # of the other node
    t.near.lost("node")  # it was gone already
    assert t.near.get("k") == b"v"
    t.near.lost("other")
    t.keep("k", b"v")
    assert t.near.get("k") is None


def test_what_a_read_brings_is_not_kept_if_the_key_changed_meanwhile() -> None:
    t = NearUnderTest()
    for speaks_against in (
        lambda: t.near.invalidate_keys([b"k"]),
        lambda: t.near.invalidate_keys(None),
        lambda: t.near.drop_keys(("k",)),
        t.near.clear,
    ):
        mark = t.near.begin_read("k")
        speaks_against()
        t.near.end_read("k", mark, b"old")
        assert t.near.get("k") is None
        assert not t.near._marks
        t.keep("k", b"new")


def test_reads_that_overlap_and_find_different_things_keep_none() -> None:
    t = NearUnderTest()
    for one, other in ((b"old", b"new"), (b"old", None), (None, b"old")):
        first, second = t.near.begin_read("k"), t.near.begin_read("k")
        t.near.end_read("k", first, one)
        t.near.end_read("k", second, other)
        assert t.near.get("k") is None


def test_what_was_seen_past_it_speaks_against_what_is_kept_and_what_will_be() -> None:
    t = NearUnderTest()
    t.keep("k", b"old")
    mark = t.near.begin_read("k")
    t.near.observed("k", b"new")
    t.near.end_read("k", mark, b"old")
    assert t.near.get("k") is None
    t.keep("k", b"new")
    t.near.observed("k", b"new")
    assert t.near.get("k") == b"new"
    t.near.observed("k", None)
    assert t.near.get("k") is None


def test_reads_of_one_key_do_not_disturb_each_other() -> None:
    t = NearUnderTest()
    first, second = t.near.begin_read("k"), t.near.begin_read("k")
    t.near.end_read("k", first, NodeLost("gone"))
    t.near.end_read("k", second, b"v")
    assert t.near.get("k") == b"v"
    third = t.near.begin_read("k")
    t.near.invalidate_keys([b"k"])
    fourth = t.near.begin_read("k")
    t.near.end_read("k", third, b"new")
    assert t.near.get("k") is None
    t.near.end_read("k", fourth, b"new")
    assert t.near.get("k") == b"new"


def test_a_read_that_is_interrupted_leaves_nothing_behind() -> None:
    t = NearUnderTest()

    def interrupted_read() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        t.read("k", interrupted_read)
    assert not t.near._marks


def test_pushes_name_keys_everything_or_something_else() -> None:
    t = NearUnderTest()
    for key in ("a", "s3://b/c", "d"):
        t.keep(key, b"v")
    apply_push([b"invalidate", [b"a", b"s3://default/s3://b/c"]], t.near)
    assert t.near.get_many(["a", "s3://b/c", "d"]) == {"d": b"v"}
    apply_push([b"message", b"channel", b"text"], t.near)
    assert t.near.get("d") == b"v"
    apply_push([b"invalidate", None], t.near)
    assert len(t.near) == 0
    assert t.near.invalidations == 2


def test_many_at_once() -> None:
    t = NearUnderTest()
    keys = ["a", "b", "c"]
    t.near.end_reads(keys, t.near.begin_reads(keys), [b"1", None, NodeLost("gone")])
    assert t.near.get_many(["a", "b", "c"]) == {"a": b"1"}


def test_after_a_fork_it_is_empty_and_no_node_is_trusted() -> None:
    t = NearUnderTest()
    t.keep("k", b"v")
    t.near._lock.acquire()  # by a thread that is not there any more
    t.near.forked()
    t.keep("k", b"v")
    assert t.near.get("k") is None


def test_a_cache_belongs_to_one_client_and_needs_direct_access() -> None:
    near = NearCache(1000, 1)
    with pytest.raises(InvalidRequest, match="direct"):
        Milena(direct=False, near_cache=near)
    with pytest.raises(InvalidRequest, match="direct"):
        AsyncMilena.from_url("milena://127.0.0.1:1?direct=false", near_cache=near)
    with Milena("127.0.0.1:1", near_cache=near), pytest.raises(InvalidRequest, match="another client"):
        Milena("127.0.0.1:1", near_cache=near)


@pytest.mark.parametrize(("maximum", "age"), [(0, 1), (-1, 1), (1, 0), (1, float("nan"))])
def test_bounds_are_more_than_nothing(maximum: int, age: float) -> None:
    with pytest.raises(InvalidRequest, match="is not more than 0"):
        NearCache(maximum, age)


def test_threads_that_read_and_write_at_once_leave_the_sums_right() -> None:
    t = NearUnderTest(max_bytes=20 * (ENTRY_OVERHEAD + 10))
    keys = [f"k{number}" for number in range(40)]

    def work(seed: int) -> None:
        for turn in range(600):
            key = keys[(seed * 7 + turn) % len(keys)]
            if t.near.get(key) is None:
                t.read(key, key.encode)
            if turn % 5 == 0:
                t.near.invalidate_keys([key.encode()])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert t.near.bytes == sum(len(key) + len(key) + ENTRY_OVERHEAD for key in map(str, t.near._entries))
    assert t.near.bytes <= t.near.max_bytes
    assert not t.near._marks


def interrupted(at: int, work: Callable[[], object]) -> bool:
    """Do `work`, with Ctrl-C before line number `at` of the near cache that it comes to; whether it came so far."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != near_cache.__file__:
            return None
        if event == "line" and "with " not in getline(near_cache.__file__, frame.f_lineno):
            lines += 1
            if lines == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_wherever_it_is_interrupted_it_goes_on_and_drops_invalidated_keys() -> None:
    def work(t: NearUnderTest) -> None:
        t.keep("a", b"1")
        t.keep(b"a", b"1")
        t.keep("e", b"1")
        t.near.invalidate_keys([b"b"])
        t.keep("c", b"2")
        t.near.clear()

    def interrupt(at: int) -> bool:
        t = NearUnderTest(max_bytes=4 * (ENTRY_OVERHEAD + 2))
        for key in "abcd":
            t.keep(key, b"1")
        came_so_far = interrupted(at, lambda: work(t))
        for key in ("a", "b", "c", "d", "e"):
            t.near.invalidate_keys([key.encode()])
            assert t.near.get(key) is t.near.get(key.encode()) is None, at
        t.advance(100)
        t.keep("z", b"3")  # may find that there is less room than there is, and sets it right
        for key in ("a", b"a", "b", "c", "d", "e"):
            t.keep(key, b"3")
            assert t.near.get(key) == b"3", at
        return came_so_far

    at = 1
    while interrupt(at):
        at += 1
    assert at > 100


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000))))
@settings(deadline=None)
def test_it_never_takes_more_than_it_may(puts: list[tuple[str, int]]) -> None:
    t = NearUnderTest(max_bytes=5000)
    for key, size in puts:
        t.keep(key, bytes(size))
        assert t.near.bytes <= 5000
        kept = sum(len(value) + 1 + ENTRY_OVERHEAD for _, value in t.near._entries.values())
        assert t.near.bytes == kept


@dataclass
class Reading:
    key: Key
    mark: ReadMark | None
    version: int | None  # once the node has seen the read


KEYS: list[Key] = ["a", b"a", "b"]
keys = st.sampled_from(KEYS)


def cache_key(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key


class ReadsAndMessages(RuleBasedStateMachine):
    """A node that follows what was read of it, as CLIENT TRACKING does, and whose replies and messages come when
    they like, each in its own order. The client's own writes are known when they are acknowledged, its reads when
    they have their replies. What the cache returns is never older than what is known, nor than what a message was
    about.
    """

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.near = NearCache(10**6, 1000.0, now=self.clock.now)
        self.near.confirmed("node", self.clock.time)
        self.versions: dict[bytes, int] = {b"a": 0, b"b": 0}
        self.known = dict(self.versions)
        self.followed: set[bytes] = set()
        self.messages: list[tuple[bytes, int]] = []
        self.readings: list[Reading] = []

    def _notify(self, key: bytes) -> None:
        if key in self.followed:
            self.followed.discard(key)
            self.messages.append((key, self.versions[key]))

    @rule(key=keys)
    def begins_to_read(self, key: Key) -> None:
        if self.near.get(key) is None:
            self.readings.append(Reading(key, self.near.begin_read(key), None))

    def _one(self, data: st.DataObject) -> Reading:
        return self.readings[data.draw(st.integers(0, len(self.readings) - 1))]

    @precondition(lambda self: self.readings)
    @rule(data=st.data())
    def reaches_the_node(self, data: st.DataObject) -> None:
        reading = self._one(data)
        if reading.version is None:
            reading.version = self.versions[cache_key(reading.key)]
            self.followed.add(cache_key(reading.key))

    @precondition(lambda self: self.readings)
    @rule(data=st.data())
    def has_a_reply(self, data: st.DataObject) -> None:
        reading = self._one(data)
        self.readings.remove(reading)
        if reading.version is not None:
            self.known[cache_key(reading.key)] = max(self.known[cache_key(reading.key)], reading.version)
        self.near.end_read(reading.key, reading.mark, None if reading.version is None else b"%d" % reading.version)

    @rule(key=keys)
    def reads_past_it(self, key: Key) -> None:
        version = self.known[cache_key(key)] = self.versions[cache_key(key)]
        self.near.observed(key, b"%d" % version)

    @rule(key=keys)
    def another_client_writes(self, key: Key) -> None:
        self.versions[cache_key(key)] += 1
        self._notify(cache_key(key))

    @rule(key=keys)
    def this_client_writes(self, key: Key) -> None:
        self.another_client_writes(key)
        self.near.drop_keys((key,))
        self.known[cache_key(key)] = self.versions[cache_key(key)]

    @precondition(lambda self: self.messages)
    @rule()
    def a_message_comes(self) -> None:
        key, version = self.messages.pop(0)
        self.near.invalidate_keys([key])
        self.known[key] = max(self.known[key], version)

    @rule()
    def the_connection_breaks_and_is_made_again(self) -> None:
        self.messages.clear()
        self.followed.clear()
        for reading in self.readings:
            if reading.version is None:
                reading.version = self.versions[cache_key(reading.key)]  # it may have been the last thing seen
        self.near.lost("node")
        self.near.confirmed("node", self.clock.time)
        self.known = dict(self.versions)

    @rule(key=keys)
    def returns_nothing_that_is_known_to_be_old(self, key: Key) -> None:
        value = self.near.get(key)
        assert value is None or int(value) >= self.known[cache_key(key)]

    def teardown(self) -> None:
        if hasattr(self, "near"):
            while self.messages:
                self.a_message_comes()
            for key in KEYS:
                value = self.near.get(key)
                assert value is None or int(value) == self.versions[cache_key(key)]


TestReadsAndMessages = ReadsAndMessages.TestCase
TestReadsAndMessages.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
