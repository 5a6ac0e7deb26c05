"""Pure. The names by which permissions are given: commands, their subcommands, and their categories.

It is a table of its own, because routers read the same file of users and have no commands of the Redis protocol;
a test compares it with the commands of a node. `milena.call|…` are methods of the API that Redis has nothing like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

# What a command does to a key: "" if it reads metadata only, for which a pattern of any kind is enough.
Need = Literal["", "r", "w", "rw"]

# Redis's categories, also those in which no command is.
CATEGORIES: Final = (
    *("keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo"),
    *(
        "stream",
        "pubsub",
        "admin",
        "fast",
        "slow",
        "blocking",
        "dangerous",
        "connection",
        "transaction",
        "scripting",
    ),
)

_CATEGORIES_OF: Final = {
    "acl": "slow",
    "acl|cat": "slow",
    "acl|deluser": "admin dangerous slow",
    "acl|dryrun": "admin dangerous slow",
    "acl|genpass": "slow",
    "acl|getuser": "admin dangerous slow",
    "acl|help": "slow",
    "acl|list": "admin dangerous slow",
    "acl|load": "admin dangerous slow",
    "acl|log": "admin dangerous slow",
    "acl|save": "admin dangerous slow",
    "acl|setuser": "admin dangerous slow",
    "acl|users": "admin dangerous slow",
    "acl|whoami": "slow",
    "append": "write fast string",
    "asking": "fast connection",
    "auth": "fast connection",
    "bitcount": "read bitmap slow",
    "bitfield": "write bitmap slow",
    "bitfield_ro": "read fast bitmap",
    "bitop": "write bitmap slow",
    "bitpos": "read bitmap slow",
    "client": "slow",
    "client|caching": "slow connection",
    "client|defer": "connection slow",
    "client|getname": "connection slow",
    "client|getredir": "slow connection",
    "client|help": "slow",
    "client|id": "connection slow",
    "client|info": "connection slow",
    "client|kill": "admin dangerous connection slow",
    "client|list": "admin dangerous connection slow",
    "client|no-evict": "admin dangerous connection slow",
    "client|no-touch": "connection slow",
    "client|reply": "connection slow",
    "client|setinfo": "connection slow",
    "client|setname": "connection slow",
    "client|tracking": "slow connection",
    "client|trackinginfo": "slow connection",
    "client|unblock": "admin dangerous connection slow",
    "cluster": "slow",
    "cluster|countkeysinslot": "slow",
    "cluster|getkeysinslot": "slow",
    "cluster|help": "slow",
    "cluster|info": "slow",
    "cluster|keyslot": "slow",
    "cluster|links": "slow",
    "cluster|myid": "slow",
    "cluster|nodes": "slow",
    "cluster|replicas": "slow",
    "cluster|shards": "slow",
    "cluster|slots": "slow",
    "command": "connection slow",
    "command|count": "connection slow",
    "command|docs": "connection slow",
    "command|getkeys": "connection slow",
    "command|help": "slow",
    "command|info": "connection slow",
    "command|list": "connection slow",
    "config": "slow",
    "config|get": "admin dangerous slow",
    "config|help": "slow",
    "config|resetstat": "admin dangerous slow",
    "config|rewrite": "admin dangerous slow",
    "config|set": "admin dangerous slow",
    "copy": "write keyspace slow",
    "dbsize": "read fast keyspace",
    "debug": "slow",
    "debug|help": "slow",
    "debug|sleep": "admin dangerous slow",
    "decr": "write fast string",
    "decrby": "write fast string",
    "del": "write keyspace slow",
    "delex": "write fast string",
    "discard": "fast transaction",
    "echo": "fast connection",
    "eval": "write scripting slow",
    "eval_ro": "read scripting slow",
    "evalsha": "write scripting slow",
    "evalsha_ro": "read scripting slow",
    "exec": "transaction slow",
    "exists": "read fast keyspace",
    "expire": "write fast keyspace",
    "expireat": "write fast keyspace",
    "expiretime": "read fast keyspace",
    "flushall": "write keyspace dangerous slow",
    "flushdb": "write keyspace dangerous slow",
    "get": "read fast string",
    "getbit": "read fast bitmap",
    "getdel": "write fast string",
    "getex": "write fast string",
    "getrange": "read string slow",
    "getset": "write fast string",
    "hello": "fast connection",
    "hotkeys": "slow",
    "hotkeys|get": "admin dangerous slow",
    "hotkeys|help": "slow",
    "hotkeys|reset": "admin dangerous slow",
    "incr": "write fast string",
    "incrby": "write fast string",
    "incrbyfloat": "write fast string",
    "info": "dangerous slow",
    "keys": "read keyspace dangerous slow",
    "latency": "slow",
    "latency|doctor": "admin dangerous slow",
    "latency|graph": "admin dangerous slow",
    "latency|help": "slow",
    "latency|history": "admin dangerous slow",
    "latency|latest": "admin dangerous slow",
    "latency|reset": "admin dangerous slow",
    "lcs": "read string slow",
    "memory": "slow",
    "memory|doctor": "slow",
    "memory|help": "slow",
    "memory|purge": "slow",
    "memory|stats": "slow",
    "memory|usage": "read slow",
    "mget": "read fast string",
    "milena.call": "slow",
    "milena.call|flush": "admin dangerous slow",
    "milena.call|flush_keys": "write keyspace slow",
    "milena.call|leave": "admin dangerous slow",
    "milena.call|list_dead_letters": "admin dangerous slow",
    "milena.call|refresh_all": "admin dangerous slow",
    "milena.call|resolve_dead_letters": "admin dangerous slow",
    "milena.call|warm": "admin dangerous slow",
    "milena.hello": "fast connection",
    "milena.refresh": "write fast keyspace",
    "mset": "write string slow",
    "msetex": "write string slow",
    "msetnx": "write string slow",
    "multi": "fast transaction",
    "object": "slow",
    "object|encoding": "read keyspace slow",
    "object|freq": "read keyspace slow",
    "object|help": "slow",
    "object|idletime": "read keyspace slow",
    "persist": "write fast keyspace",
    "pexpire": "write fast keyspace",
    "pexpireat": "write fast keyspace",
    "pexpiretime": "read fast keyspace",
    "ping": "fast connection",
    "psetex": "write string slow",
    "psubscribe": "pubsub slow",
    "pttl": "read fast keyspace",
    "publish": "fast pubsub",
    "pubsub": "slow",
    "pubsub|channels": "pubsub slow",
    "pubsub|help": "slow",
    "pubsub|numpat": "pubsub slow",
    "pubsub|numsub": "pubsub slow",
    "pubsub|shardchannels": "pubsub slow",
    "pubsub|shardnumsub": "pubsub slow",
    "punsubscribe": "pubsub slow",
    "quit": "fast connection",
    "randomkey": "read keyspace slow",
    "readonly": "fast connection",
    "readwrite": "fast connection",
    "rename": "write keyspace slow",
    "renamenx": "write fast keyspace",
    "reset": "fast connection",
    "role": "fast admin dangerous",
    "scan": "read keyspace slow",
    "script": "slow",
    "script|exists": "scripting slow",
    "script|flush": "scripting slow",
    "script|help": "slow",
    "script|load": "scripting slow",
    "select": "fast connection",
    "set": "write string slow",
    "setbit": "write bitmap slow",
    "setex": "write string slow",
    "setnx": "write fast string",
    "setrange": "write string slow",
    "slowlog": "slow",
    "slowlog|get": "admin dangerous slow",
    "slowlog|help": "slow",
    "slowlog|len": "admin dangerous slow",
    "slowlog|reset": "admin dangerous slow",
    "spublish": "fast pubsub",
    "ssubscribe": "pubsub slow",
    "strlen": "read fast string",
    "subscribe": "pubsub slow",
    "substr": "read string slow",
    "sunsubscribe": "pubsub slow",
    "time": "fast",
    "touch": "read fast keyspace",
    "ttl": "read fast keyspace",
    "type": "read fast keyspace",
    "unlink": "write fast keyspace",
    "unsubscribe": "pubsub slow",
    "unwatch": "fast transaction",
    "wait": "connection slow",
    "waitaof": "connection slow",
    "watch": "fast transaction",
}

CATEGORIES_OF: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(categories.split()) for name, categories in _CATEGORIES_OF.items()
}

# Commands for which their access to the key does not say what they need, by Redis's description of them.
NEEDS: Final[Mapping[str, Need]] = {
    **dict.fromkeys(("append", "msetex", "msetnx", "psetex", "setex", "setnx", "setrange"), "w"),
    **dict.fromkeys(("del", "unlink", "mset", "expire", "pexpire", "expireat", "pexpireat", "persist"), "w"),
    **dict.fromkeys(("exists", "touch", "type", "strlen", "watch", "memory|usage"), ""),
    **dict.fromkeys(("object|encoding", "object|freq", "object|idletime"), ""),
}

# What a script may call: a user who may run scripts needs permission for all of it, since a node that runs a
# script for a client of another one does not know the user.
SCRIPTS: Final = frozenset(("eval", "evalsha", "eval_ro", "evalsha_ro"))
CALLED_BY_SCRIPTS: Final = (
    *(
        "append",
        "bitcount",
        "bitfield",
        "bitfield_ro",
        "bitop",
        "bitpos",
        "copy",
        "decr",
        "decrby",
        "del",
        "delex",
        "exists",
        "expire",
        "expireat",
    ),
    *("expiretime", "get", "getbit", "getdel", "getex", "getrange", "getset", "incr", "incrby", "incrbyfloat"),
    *(
        "lcs",
        "mget",
        "mset",
        "msetex",
        "msetnx",
        "object|encoding",
        "persist",
        "pexpire",
        "pexpireat",
        "pexpiretime",
    ),
    *("psetex", "pttl", "rename", "renamenx", "set", "setbit", "setex", "setnx", "setrange", "strlen", "substr"),
    *("touch", "ttl", "type", "unlink"),
)

# Commands on channels: how many of their arguments, from the first one on, are channels; 0: all of them.
CHANNEL_COMMANDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("subscribe", "psubscribe", "ssubscribe"), 0),
    **dict.fromkeys(("publish", "spublish"), 1),
}

# Commands that no rule denies: those with which a connection begins or ends.
ALWAYS_ALLOWED: Final = frozenset(
    ("hello", "auth", "quit", "reset", "milena.hello", "client|setinfo", "client|defer")
)

# Commands of operators that the audit log records.
AUDITED: Final = frozenset(
    (
        "client|kill",
        "client|unblock",
        "flushall",
        "flushdb",
        "config|set",
        "config|resetstat",
        "debug|sleep",
        "latency|reset",
        "hotkeys|reset",
        "acl|load",
    )
)

# Commands between nodes, with their subcommands: no rule allows them, only the cluster's own identity does.
CLUSTER_COMMANDS: Final = frozenset(
    f"milena.{name}"
    for name in (
        *("block", "publish", "handover", "merge", "copy", "collect", "promise", "ring", "listing", "peek"),
        *("watch", "exec", "all", "subscribe", "unsubscribe"),
    )
)


def is_of_cluster(command: str) -> bool:
    """True if `command`, a full name, is only for the cluster's own processes."""
    return command.partition("|")[0] in CLUSTER_COMMANDS


def channels_in(command: str, argv: Sequence[bytes]) -> Sequence[bytes]:
    """Return the channels, or patterns of them, among the arguments of one of CHANNEL_COMMANDS."""
    number = CHANNEL_COMMANDS[command]
    return argv[1 : 1 + number] if number else argv[1:]
