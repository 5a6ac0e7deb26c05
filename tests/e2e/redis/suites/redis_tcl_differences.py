"""Pure. Tests of Redis's Tcl units that pass at a Redis server and not at a node, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# By reason, the tests. docs/protocol.md has the reasons.
DIFFERENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "values are of bytes, and of no other type": (
        "INCR fails against a key holding a list",
        "INCRBYFLOAT fails against a key holding a list",
        "Regression for a crash with blocking ops and pipelining",
        "raw protocol response",
        "raw protocol response - deferred",
        "raw protocol response - multiline",
        "Extended SET GET with incorrect type should result in wrong type error",
        "MGET against non-string key",
        "SETBIT against key with wrong type",
        "SETRANGE against key with wrong type",
        "EXPIRE - write on expire should work",
        *(f"{name}SCAN with PATTERN" for name in "HSZ"),
        *(f"HSCAN with encoding {name}" for name in ("hashtable", "listpack")),
        *(f"SSCAN with encoding {name}" for name in ("hashtable", "intset")),
        *(f"ZSCAN with encoding {name}" for name in ("skiplist", "listpack")),
        "SCAN regression test for issue #4906",
        "SSCAN with integer encoded object (issue #1345)",
        "ZSCAN scores: regression test for issue #2175",
        "MULTI / EXEC basics",
        "DISCARD",
        "MULTI where commands alter argc/argv",
        "Blocking commands ignores the timeout",
        "EXEC fail on WATCHed key modified by SORT with STORE even if the result is empty",
        *(f"Keyspace notifications: {name} events test" for name in ("list", "set", "zset", "hash", "stream")),
        "Keyspace notifications: we are able to mask events",
        "hdel deliver invalidate message after response in the same connection",
        "Unblocked BLMOVE gets notification after response",
    ),
    "`CONFIG SET` changes little": (
        "DISCARD should not fail during OOM",
        "EXEC fails if there are errors while queueing commands #2",
        "EXEC with at least one use-memory command should fail",
        "EXEC with only read commands should not be rejected when OOM",
        "EXEC and script timeout",
        "just EXEC and script timeout",
        "MULTI and script timeout",
        "MULTI-EXEC body and script timeout",
        "Keyspace notifications: evicted events",
        "Tracking invalidation message of eviction keys should be before response",
        "Tracking gets notification on tracking table key eviction",
        "Server is able to evacuate enough keys when num of keys surpasses limit by more than defined initial "
        "effort",
    ),
    "commands that are not listed do not exist": (
        "MULTI with SAVE",
        "MULTI with SHUTDOWN",
        "trim on SET with big value",
    ),
    "`DBSIZE` and `RANDOMKEY` concern this node's memory": (
        "Redis should actively expire keys incrementally",
        "WATCH will consider touched expired keys",
    ),
    "scripts use the keys that they declare": (
        "Tracking only occurs for scripts when a command calls a read-only command",
    ),
    "`FLUSHDB` deletes objects one after the other": (
        "Test ASYNC flushall",
        "flushdb tracking invalidation message is not interleaved with transaction response",
    ),
    "messages of tracking have no fixed place among replies": (
        "Tracking gets notification of expired keys",
        "Tracking invalidation message is not interleaved with transaction response",
    ),
    "keyspace notifications are `set`, `del`, `expired` and `evicted`": (
        "Keyspace notifications: general events test",
        "Keyspace notifications: expired events (background expire)",
        "Keyspace notifications: new key test",
    ),
}

# Of these, those that wait for what a node does not send, or leave replies behind: the tests behind them would not
# run, or fail.
WAITING: Final = (
    "Tracking gets notification of expired keys",
    "Tracking invalidation message is not interleaved with transaction response",
    "Keyspace notifications: expired events (background expire)",
    "Keyspace notifications: new key test",
)
