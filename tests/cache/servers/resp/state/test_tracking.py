"""The table of CLIENT TRACKING: which client is notified of what, and that no client keeps a stale value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.tracking import EVERYTHING, Options, Tracking, Work


def session(number: int) -> Session:
    made = Session(number, "127.0.0.1:1", "127.0.0.1:2", 0.0)
    made.protocol = 3
    return made


def following(tracking: Tracking, number: int, **options: Any) -> Session:
    made = session(number)
    tracking.follow(made, Options(**options))
    made.commands += 1
    return made


def notified(tracking: Tracking) -> dict[int, list[bytes] | None]:
    return {
        client: None if keys is EVERYTHING else list(keys) for client, keys in tracking.take_invalidated().items()
    }


def test_a_reader_is_notified_of_the_next_change_and_of_no_other() -> None:
    tracking = Tracking(10)
    following(tracking, 1)
    following(tracking, 2)
    tracking.track(1, b"k")
    tracking.track(2, b"k")
    tracking.track(2, b"other")
    tracking.changed(b"k")
    tracking.changed(b"nobody read this")
    assert notified(tracking) == {1: [b"k"], 2: [b"k"]}
    tracking.changed(b"k")
    assert notified(tracking) == {}
    assert (tracking.keys, tracking.clients, tracking.invalidations) == (1, 2, 2)


def test_changes_of_one_step_are_notified_together_and_each_key_once() -> None:
    tracking = Tracking(10)
    woken: list[int] = []
    tracking.wake = lambda: woken.append(1)
    following(tracking, 1, bcast=True)
    for key in (b"b", b"a", b"b"):
        tracking.changed(key)
    assert notified(tracking) == {1: [b"b", b"a"]}
    tracking.changed(b"c")
    assert notified(tracking) == {1: [b"c"]}
    assert len(woken) == 2


def test_broadcast_is_by_prefix_and_independent_of_reads() -> None:
    tracking = Tracking(10)
    following(tracking, 1, bcast=True, prefixes=(b"user:", b"team:"))
    following(tracking, 2, bcast=True)
    tracking.track(1, b"user:7")
    assert tracking.keys == 0
    tracking.changed(b"user:7")
    tracking.changed(b"item:1")
    assert notified(tracking) == {1: [b"user:7"], 2: [b"user:7", b"item:1"]}


def test_optin_remembers_only_the_command_after_caching_yes() -> None:
    tracking = Tracking(10)
    client = following(tracking, 1, optin=True)
    follower = tracking.of(1)
    assert follower is not None
    tracking.track(1, b"not asked for")
    follower.caching = client.commands
    client.commands += 1
    tracking.track(1, b"a")
    tracking.track(1, b"b")  # of the same command
    client.commands += 1
    tracking.track(1, b"later")
    for key in (b"not asked for", b"a", b"b", b"later"):
        tracking.changed(key)
    assert notified(tracking) == {1: [b"a", b"b"]}


def test_optout_leaves_out_only_the_command_after_caching_no() -> None:
    tracking = Tracking(10)
    client = following(tracking, 1, optout=True)
    follower = tracking.of(1)
    assert follower is not None
    follower.caching = client.commands
    client.commands += 1
    tracking.track(1, b"left out")
    client.commands += 1
    tracking.track(1, b"k")
    tracking.changed(b"left out")
    tracking.changed(b"k")
    assert notified(tracking) == {1: [b"k"]}


def test_beyond_the_limit_of_keys_the_oldest_is_invalidated_and_removed() -> None:
    tracking = Tracking(2)
    following(tracking, 1)
    for key in (b"1", b"2", b"3"):
        tracking.track(1, key)
    assert notified(tracking) == {1: [b"1"]}
    assert tracking.keys == 2
    assert b"1" not in tracking


def test_a_client_that_has_left_gets_nothing_and_the_last_one_frees_the_table() -> None:
    tracking = Tracking(10)
    one, two = following(tracking, 1), following(tracking, 2, bcast=True, prefixes=(b"k",))
    tracking.track(1, b"k")
    tracking.changed(b"k")
    tracking.track(1, b"k")
    tracking.stop_tracking(1)
    assert notified(tracking) == {2: [b"k"]}
    assert not one.tracking
    assert two.tracking
    assert tracking.active
    tracking.stop_tracking(2)
    tracking.stop_tracking(2)
    assert not tracking.active
    assert tracking.keys == tracking.prefixes == tracking.clients == 0


def test_a_change_of_the_ring_makes_every_client_drop_everything() -> None:
    tracking = Tracking(10)
    following(tracking, 1)
    following(tracking, 2, bcast=True, prefixes=(b"x",))
    tracking.track(1, b"k")
    tracking.flush_all()
    tracking.changed(b"k")
    assert notified(tracking) == {1: None, 2: None}
    assert tracking.keys == 0


def test_noloop_spares_the_writer_its_own_change_and_goes_on_tracking() -> None:
    tracking = Tracking(10)
    following(tracking, 1, noloop=True)
    following(tracking, 2)
    tracking.track(1, b"k")
    tracking.track(2, b"k")
    work = tracking.begin(1, "write", [b"k"])
    assert work is not None
    tracking.changed(b"k")
    tracking.end(work)
    assert notified(tracking) == {2: [b"k"]}
    tracking.changed(b"k")
    assert notified(tracking) == {1: [b"k"]}


def test_noloop_notifies_a_second_change_while_the_command_is_in_flight() -> None:
    tracking = Tracking(10)
    following(tracking, 1, noloop=True)
    tracking.track(1, b"k")
    work = tracking.begin(1, "write", [b"k"])
    assert work is not None
    tracking.changed(b"k")
    tracking.changed(b"k")
    assert notified(tracking) == {1: [b"k"]}
    tracking.end(work)
    assert notified(tracking) == {1: [b"k"]}  # behind the reply, too


def test_noloop_notifies_the_writer_whose_write_failed() -> None:
    tracking = Tracking(10)
    following(tracking, 1, noloop=True, bcast=True)
    work = tracking.begin(1, "modify", [b"k"])
    assert work is not None
    tracking.changed(b"k")
    assert notified(tracking) == {}
    work.failed = True
    tracking.end(work)
    assert notified(tracking) == {1: [b"k"]}


def test_noloop_notifies_both_writers_while_two_write_the_same_key() -> None:
    tracking = Tracking(10)
    for number in (1, 2):
        following(tracking, number, noloop=True)
        tracking.track(number, b"k")
    one, two = (tracking.begin(number, "write", [b"k"]) for number in (1, 2))
    assert one is not None
    assert two is not None
    tracking.changed(b"k")
    assert notified(tracking) == {1: [b"k"], 2: [b"k"]}
    tracking.end(one)
    tracking.end(two)


def test_a_change_while_a_read_waits_is_notified_again_after_the_reply() -> None:
    tracking = Tracking(10)
    following(tracking, 1)
    work = tracking.begin(1, "read", [b"k", b"k"])
    assert work is not None
    tracking.track(1, b"k")
    tracking.changed(b"k")
    assert notified(tracking) == {1: [b"k"]}
    tracking.end(work)
    assert notified(tracking) == {1: [b"k"]}


@dataclass
class Pending:
    """A command in flight. `seen`: the version that a read has already."""

    client: int
    key: bytes
    work: Work | None
    seen: int
    kept: bool


@dataclass
class Modelled:
    """A client that keeps what its connection brings, in that order, and nothing more clever."""

    session: Session
    options: Options
    kept: dict[bytes, int] = field(default_factory=dict)


KEYS = [b"a", b"b", b"c"]
MODES = [
    Options(),
    Options(noloop=True),
    Options(bcast=True, noloop=True),
    Options(bcast=True, prefixes=(b"a", b"b")),
    Options(optin=True),
]
numbers = st.integers(0, len(MODES) - 1)
keys = st.sampled_from(KEYS)


class ReadersAndWriters(RuleBasedStateMachine):
    """Values are versions. What a client keeps after a step of the loop is the newest version, unless it has a
    command of that key in flight.
    """

    @initialize(maximum=st.integers(1, 4))
    def begin(self, maximum: int) -> None:
        self.tracking = Tracking(maximum)
        self.versions = dict.fromkeys(KEYS, 0)
        self.clients = [Modelled(session(number + 1), options) for number, options in enumerate(MODES)]
        for client in self.clients:
            self.tracking.follow(client.session, client.options)
        self.reading: list[Pending] = []
        self.writing: list[Pending] = []

    def _read(self, number: int, key: bytes, *, keep: bool) -> Pending:
        client = self.clients[number]
        client.session.commands += 1
        if client.options.optin and keep:
            follower = self.tracking.of(client.session.id)
            assert follower is not None
            follower.caching = client.session.commands
            client.session.commands += 1
        prefixes = client.options.prefixes
        may_keep = keep and (not prefixes or key.startswith(prefixes))
        work = self.tracking.begin(client.session.id, "read", [key])
        self.tracking.track(client.session.id, key)
        return Pending(number, key, work, self.versions[key], may_keep)

    def _reply(self, pending: Pending, version: int) -> None:
        if pending.kept:
            self.clients[pending.client].kept[pending.key] = version
        assert pending.work is not None
        self.tracking.end(pending.work)

    @rule(number=numbers, key=keys, keep=st.booleans())
    def reads(self, number: int, key: bytes, keep: bool) -> None:
        pending = self._read(number, key, keep=keep)
        self._reply(pending, pending.seen)

    @rule(number=numbers, key=keys, keep=st.booleans())
    def begins_to_read(self, number: int, key: bytes, keep: bool) -> None:
        self.reading.append(self._read(number, key, keep=keep))

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), late=st.booleans())
    def has_a_reply(self, data: st.DataObject, late: bool) -> None:
        pending = self.reading.pop(data.draw(st.integers(0, len(self.reading) - 1)))
        self._reply(pending, self.versions[pending.key] if late else pending.seen)

    @rule(key=keys)
    def another_client_writes(self, key: bytes) -> None:
        self.versions[key] += 1
        self.tracking.changed(key)

    @rule(key=keys)
    def is_notified_without_need(self, key: bytes) -> None:
        self.tracking.changed(key)

    @rule(number=numbers, key=keys)
    def begins_to_write(self, number: int, key: bytes) -> None:
        client = self.clients[number]
        client.session.commands += 1
        self.writing.append(Pending(number, key, self.tracking.begin(client.session.id, "write", [key]), -1, True))

    @precondition(lambda self: self.writing)
    @rule(data=st.data())
    def takes_effect(self, data: st.DataObject) -> None:
        pending = self.writing[data.draw(st.integers(0, len(self.writing) - 1))]
        if pending.seen < 0:
            self.versions[pending.key] += 1
            pending.seen = self.versions[pending.key]
            self.tracking.changed(pending.key)

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), fails=st.booleans())
    def is_acknowledged(self, data: st.DataObject, fails: bool) -> None:
        pending = self.writing.pop(data.draw(st.integers(0, len(self.writing) - 1)))
        client = self.clients[pending.client]
        if pending.seen < 0:
            fails = True
        elif not fails and pending.key in client.kept:
            # Replies on a connection are in the order of its commands: a read behind this write has a later value.
            client.kept[pending.key] = max(client.kept[pending.key], pending.seen)
        if pending.work is not None:
            pending.work.failed = fails
            self.tracking.end(pending.work)

    @rule()
    def the_ring_moves(self) -> None:
        self.tracking.flush_all()
        self.versions = {key: version + 1 for key, version in self.versions.items()}

    @rule()
    def a_step_of_the_loop_ends(self) -> None:
        for number, notified in self.tracking.take_invalidated().items():
            kept = self.clients[number - 1].kept
            for key in list(kept) if notified is EVERYTHING else notified:
                kept.pop(key, None)
        busy = {(pending.client, pending.key) for pending in (*self.reading, *self.writing)}
        for number, client in enumerate(self.clients):
            for key, version in client.kept.items():
                assert version == self.versions[key] or (number, key) in busy, (number, client.options, key)

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "tracking"):
            assert self.tracking.keys <= self.tracking._max_keys

    def teardown(self) -> None:
        if hasattr(self, "tracking"):
            for pending in self.reading:
                self._reply(pending, pending.seen)
            for pending in self.writing:
                if pending.work is not None:
                    pending.work.failed = True
                    self.tracking.end(pending.work)
            self.reading, self.writing = [], []
            self.a_step_of_the_loop_ends()
            assert not self.tracking._reading
            assert not self.tracking._writing


TestReadersAndWriters = ReadersAndWriters.TestCase
TestReadersAndWriters.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
