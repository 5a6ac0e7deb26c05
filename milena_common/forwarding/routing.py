"""Pure. The commands that are forwarded: which keys they have, how they are split, and how the replies are merged.

A command on several keys becomes one command for each key, since a slot may move at any moment: then a single key
follows it, and not the whole command. It was never atomic on a node either. Keys that are named twice are sent once
where a second time would change the reply: `DEL k k` returns 1.

The table has the same names, numbers of arguments and keys as a node's, which a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from milena_common.access.commands import NEEDS, SCRIPTS, Need
from milena_common.api.keys import SCHEME, cache_key, canonical_bucket, check_key, split_cache_key
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.numbered_keys import (
    KEYS_OF_MSETEX,
    KEYS_OF_SCRIPT,
    NumberedKeys,
    end_of_pairs,
)
from milena_common.resp.command_ordering import Access
from milena_common.resp.encoding import OK, RESP2, null
from milena_common.resp.protocol_conversion import to_resp2
from milena_common.resp.redis_replies import CommandError, wrong_arity

# Maximum number of keys of one command: some milliseconds of work. A node, which need not split it, takes more.
MAX_KEYS: Final = 16_384

# How the replies to the parts of a command become one: its only part's reply, an array of them, the sum of numbers,
# OK if all are, or 1 if they are. A command with "only" and several keys is not split.
Merge = Literal["only", "array", "sum", "ok", "one"]

_NULL3: Final = b"_\r\n"
_NULL2: Final = null(RESP2)
_ERROR: Final = ord("-")
_NEED_OF: Final[dict[Access, Need]] = {"none": "", "read": "r", "write": "w", "modify": "rw"}
_NO_KEYS: Final = (0, 0, 0)
# Options of SET that a node accepts with these numbers.
_EXPIRY_OPTIONS: Final = frozenset((b"EX", b"PX", b"EXAT", b"PXAT"))
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,11}")
_WITH_SUBCOMMANDS: Final = frozenset((b"OBJECT", b"MEMORY"))


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A command that goes to the owners of its keys.

    name: in lower case, of a subcommand with its parent's: `object|encoding`
    arity: the number of arguments with the name; negative: the minimum
    access: what it does to its keys
    first, last, step: the positions of its keys among the arguments; `last` may be negative
    merge: see `Merge`
    part: the command for one key, if that has another name
    numbered_keys: where its keys are, if its arguments say how many they are (EVAL); `first` is 0 then
    operation: the label under which it is counted
    """

    name: str
    arity: int
    access: Access
    first: int = 1
    last: int = 1
    step: int = 1
    merge: Merge = "only"
    part: bytes = b""
    numbered_keys: NumberedKeys | None = None
    operation: str = "get"

    @property
    def ordering(self) -> Access:
        """Return what it does to its keys for the order of commands.

        Two writes of a key are not in flight together: the first one may be sent again, since its slot is handed
        over, and would be done after the second.
        """
        return "read" if self.access == "read" else "modify"

    @property
    def is_script(self) -> bool:
        """True if it runs a script (EVAL)."""
        return self.name in SCRIPTS

    @property
    def writes(self) -> bool:
        return self.access != "read"

    def accepts(self, number: int) -> bool:
        """True if `number` arguments, the name included, are allowed."""
        return number == self.arity if self.arity >= 0 else number >= -self.arity

    def keys_in(self, argv: Sequence[bytes]) -> list[bytes]:
        """Return the keys among `argv`."""
        if self.numbered_keys is not None:
            return self.numbered_keys.keys_in(argv)
        stop = self.last + 1 if self.last >= 0 else len(argv) + self.last + 1
        return list(argv[self.first : stop : self.step])

    def need(self, argv: Sequence[bytes]) -> Need:
        """Return what it does to its keys, in the terms of key patterns."""
        known = NEEDS.get(self.name)
        if known is not None:
            return known
        if self.name == "set":
            # Only with GET does it return the value.
            return "rw" if any(word.upper() == b"GET" for word in argv[3:]) else "w"
        return _NEED_OF[self.access]


_MSETEX: Final = Forwarded(
    "msetex",
    -4,
    "modify",
    *_NO_KEYS,
    merge="one",
    part=b"SET",
    operation="put",
    numbered_keys=KEYS_OF_MSETEX,
)
# With a condition on all keys together, or what a node rejects.
_MSETEX_TOGETHER: Final = replace(_MSETEX, merge="only")


def _table() -> Mapping[bytes, Forwarded]:
    one_read = [
        *(
            Forwarded(name, 2, "read")
            for name in ("get", "strlen", "ttl", "pttl", "expiretime", "pexpiretime", "type")
        ),
        *(Forwarded(name, 4, "read") for name in ("getrange", "substr")),
        Forwarded("getbit", 3, "read"),
        *(Forwarded(name, -2, "read") for name in ("bitcount", "bitfield_ro")),
        Forwarded("bitpos", -3, "read"),
        Forwarded("lcs", -3, "read", last=2),
    ]
    others = [
        Forwarded("set", -3, "write", operation="put"),
        *(Forwarded(name, 4, "write", operation="put") for name in ("setex", "psetex")),
        *(Forwarded(name, 2, "modify", operation="put") for name in ("incr", "decr")),
        *(
            Forwarded(name, 3, "modify", operation="put")
            for name in ("incrby", "decrby", "incrbyfloat", "append", "setnx", "getset")
        ),
        *(Forwarded(name, 4, "modify", operation="put") for name in ("setrange", "setbit")),
        Forwarded("bitfield", -2, "modify", operation="put"),
        Forwarded("bitop", -4, "modify", first=2, last=-1, operation="put"),
        Forwarded("delex", -2, "modify", operation="delete"),
        Forwarded("msetnx", -3, "modify", last=-1, step=2, operation="put"),
        Forwarded("copy", -3, "modify", last=2, operation="put"),
        *(Forwarded(name, 3, "modify", last=2, operation="put") for name in ("rename", "renamenx")),
        Forwarded("getdel", 2, "modify", operation="delete"),
        Forwarded("getex", -2, "modify"),
        *(
            Forwarded(name, -3, "modify", operation="put")
            for name in ("expire", "pexpire", "expireat", "pexpireat")
        ),
        Forwarded("persist", 2, "modify", operation="put"),
        Forwarded("mget", -2, "read", last=-1, merge="array", part=b"GET"),
        Forwarded("mset", -3, "modify", last=-1, step=2, merge="ok", part=b"SET", operation="put"),
        _MSETEX,
        *(Forwarded(name, -2, "modify", last=-1, merge="sum", operation="delete") for name in ("del", "unlink")),
        *(Forwarded(name, -2, "read", last=-1, merge="sum") for name in ("exists", "touch")),
        *(
            Forwarded(name, -3, "modify", *_NO_KEYS, operation="put", numbered_keys=KEYS_OF_SCRIPT)
            for name in ("eval", "evalsha")
        ),
        *(
            Forwarded(name, -3, "read", *_NO_KEYS, numbered_keys=KEYS_OF_SCRIPT)
            for name in ("eval_ro", "evalsha_ro")
        ),
        Forwarded("milena.refresh", -2, "write", last=-1, merge="sum", operation="refresh"),
        Forwarded("memory|usage", -3, "read", first=2, last=2, operation="other"),
        *(
            Forwarded(f"object|{name}", 3, "read", first=2, last=2, operation="other")
            for name in ("encoding", "freq", "idletime")
        ),
    ]
    return {command.name.upper().encode(): command for command in (*one_read, *others)}


FORWARDED: Final = _table()
GET: Final = FORWARDED[b"GET"]


def find(argv: Sequence[bytes]) -> Forwarded | None:
    """Return the command that `argv` begins with; None if it is not forwarded."""
    name = argv[0].upper()
    if name in _WITH_SUBCOMMANDS and len(argv) > 1:
        name = b"%b|%b" % (name, argv[1].upper())
    found = FORWARDED.get(name)
    return found if found is not _MSETEX or _has_independent_keys(argv) else _MSETEX_TOGETHER


def _has_independent_keys(argv: Sequence[bytes]) -> bool:
    """True if an MSETEX is as good as a SET for each of its keys, with the same options."""
    try:
        options = argv[end_of_pairs(argv) :]
    except (CommandError, IndexError):
        return False
    if not options:
        return True
    return len(options) == 2 and options[0].upper() in _EXPIRY_OPTIONS and _NUMBER.fullmatch(options[1]) is not None


def canonical(key: bytes, default_bucket: str) -> bytes:
    """Return the cache key of the object that a client calls `key`, which determines its slot.

    A key that no node accepts is returned as it is: the node replies with the error.
    """
    if not key.startswith(SCHEME):
        return key
    try:
        bucket, object_key = split_cache_key(key)
        return cache_key(canonical_bucket(bucket, default_bucket), object_key)
    except UnicodeDecodeError:
        return key


def split(command: Forwarded, argv: list[bytes]) -> list[tuple[bytes, list[bytes]]]:
    """Return the parts of a command: the key of each, and its arguments. Raises CommandError, InvalidRequest.

    A command whose keys are changed as one, or compared, is its only part: its keys are to be in one slot.

    The keys of several are checked here: a node does nothing if it rejects one of them, and so all are checked
    before the first part is sent.
    """
    if command.name == "set" and len(argv) > 3 and any(word.upper() == b"WITHIN" for word in argv[3:]):
        raise CommandError(
            "ERR WITHIN is not available for keys of other nodes, since its deadline is on the clock of one; use "
            "MILENA.CALL"
        )
    if command.merge == "only":
        keys = command.keys_in(argv)
        return [(keys[0] if keys else b"", argv)]  # a script may have no key
    keys = command.keys_in(argv)
    if len(keys) > MAX_KEYS:
        raise CommandError(f"ERR the command has {len(keys)} keys; allowed are at most {MAX_KEYS}")
    if command.merge == "ok" and len(argv) % 2 == 0:
        raise wrong_arity(command.name)
    if len(keys) > 1:
        for key in keys:
            check_key(split_cache_key(key)[1] if key.startswith(SCHEME) and key.isascii() else key)
    name = command.part or argv[0]
    if command.merge in ("ok", "one"):
        first = command.first or 2
        end = len(argv) if command.merge == "ok" else end_of_pairs(argv)
        # The last value of a key that is named twice.
        values = dict(zip(keys, argv[first + 1 : end : 2], strict=True))
        return [(key, [name, key, value, *argv[end:]]) for key, value in values.items()]
    if command.merge == "sum" and command.writes:
        keys = list(dict.fromkeys(keys))
    return [(key, [name, key]) for key in keys]


def check_one_slot(keys: Sequence[bytes]) -> None:
    """Raise CommandError unless the cache keys are all in one slot."""
    if len({slot_of(key) for key in keys}) > 1:
        raise CommandError("CROSSSLOT Keys in request don't hash to the same slot")


def merge(command: Forwarded, replies: list[bytes], protocol: int) -> bytes:
    """Return the reply of a command from those of its parts, in their order; the first error is that of all."""
    for reply in replies:
        if reply[0] == _ERROR:
            return reply
    if command.merge == "sum":
        return b":%d\r\n" % sum(int(reply[1:-2]) for reply in replies)
    if command.merge == "ok":
        return OK
    if command.merge == "one":
        return b":1\r\n"
    if command.merge == "array":
        if protocol == RESP2:
            replies = [_NULL2 if reply == _NULL3 else reply for reply in replies]
        return b"*%d\r\n%b" % (len(replies), b"".join(replies))
    return in_protocol(replies[0], protocol)


def in_protocol(reply: bytes, protocol: int) -> bytes:
    """Return a RESP3 reply to a command on one key in `protocol`."""
    return to_resp2(reply) if protocol == RESP2 else reply
