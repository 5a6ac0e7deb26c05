"""ACL LOG: rejections of a kind are one entry, and the newest ones are kept."""

from __future__ import annotations

from milena_common.access.acl_log import MAX_ENTRIES, MAX_OBJECT, AclLog


def test_the_same_rejection_counts_up_for_a_minute() -> None:
    log = AclLog()
    log.add("key", "alice", "a", "x", 0.0)
    log.add("key", "alice", "a", "y", 59.0)
    log.add("key", "alice", "a", "z", 61.0)
    log.add("key", "bob", "a", "z", 61.0)
    assert [(entry.user, entry.count, entry.number) for entry in log.entries] == [
        ("bob", 1, 2),
        ("alice", 1, 1),
        ("alice", 2, 0),
    ]
    assert (log.entries[2].created_at, log.entries[2].updated_at, log.entries[2].client) == (0.0, 59.0, "y")
    log.remove_all()
    assert not log.entries


def test_it_is_bounded() -> None:
    log = AclLog()
    for number in range(1000):
        log.add("command", "u", f"{number}" + "x" * 500, "c", 0.0)
    assert len(log.entries) == MAX_ENTRIES
    assert len(log.entries[0].what) == MAX_OBJECT
