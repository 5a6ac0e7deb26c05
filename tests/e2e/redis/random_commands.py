"""Pure. Random sequences of commands on few keys, so that each has something to find there.

Expiries are in the far future or long past, so that no reply depends on when it was made, but for TTL and PTTL.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from random import Random

from tests.e2e.redis.cases import FUTURE

# In one slot, for clusters.
KEYS = tuple(b"{r}" + bytes((name,)) for name in b"abcdef")
VALUES = (
    *(b"", b"0", b"1", b"-1", b"10", b"9223372036854775807", b"-9223372036854775808", b"9223372036854775806"),
    *(b"1.5", b"-0.1", b"3.0e3", b"1e400", b"-0", b"007", b" 1", b"inf", b"nan", b"0x1p3", b"1e-20", b".5", b"5."),
    *(b"hello", b"ohmytext", b"mynewtext", b"\xff\x00\x81", b"a" * 50, b"abcabcabc"),
)
NUMBERS = (
    *(b"0", b"1", b"-1", b"2", b"5", b"-3", b"7", b"8", b"100", b"x", b"", b"1.5", b"+1"),
    *(
        b"9223372036854775807",
        b"-9223372036854775808",
        b"9223372036854775808",
        b"4294967296",
        b"4611686018427387904",
    ),
)
OFFSETS = (b"0", b"1", b"3", b"7", b"9", b"20", b"-1", b"x", b"9223372036854775807")
SECONDS = (b"100000000", b"200000000", b"0", b"-1", b"x", b"9223372036854775807", b"9223372036854775808")
TIMES = (b"1", b"-5", b"0", b"x", b"9223372036854775808")
# The length of a part, so that no value gets very long.
SMALL = tuple(b"%d" % number for number in (0, 1, 2, 3, 5, 8, 13, -1, -2, -5, -20))


# Errors are returned as those of the command: a raised one has the script's line in Redis, and not here.
SCRIPTS = (
    b"return redis.call('get', KEYS[1])",
    b"local r = redis.pcall('incrby', KEYS[1], ARGV[1]) "
    b"if type(r) == 'table' then return redis.error_reply(r.err) end return {'done'}",
    b"redis.call('set', KEYS[1], ARGV[1]) return redis.status_reply('DONE')",
    b"if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end",
    b"for at, key in ipairs(KEYS) do redis.call('append', key, at) end return {#KEYS, ARGV[1]}",
    b"redis.call('append', KEYS[1], 'x')\nreturn redis.call('incr', KEYS[1])",
    b"local done, raised = pcall(redis.call, 'decr', KEYS[1])\nif not done then error(raised) end",
    b"redis.call('setex', KEYS[1], 100000000, ARGV[1]) return {redis.call('ttl', KEYS[1]) > 0, false, 'x'}",
)
READ_ONLY_SCRIPTS = (
    b"return {redis.call('get', KEYS[1]), KEYS[1], ARGV[1]}",
    b"return redis.call('exists', KEYS[1])",
    b"return redis.call('strlen', KEYS[1]) + 1",
)


class Commands:
    """A source of random commands. `transactions`: also in MULTI … EXEC, and with WATCH; `msetex`: also MSETEX."""

    def __init__(self, seed: int, *, transactions: bool = False, msetex: bool = False) -> None:
        self._random = Random(seed)
        self._msetex = msetex
        self._transactions = transactions

    def __iter__(self) -> Iterator[list[bytes]]:
        random = self._random
        while True:
            if self._transactions and random.random() < 0.05:
                yield from self._transaction()
            yield self.one()

    def _transaction(self) -> Iterator[list[bytes]]:
        random = self._random
        if random.random() < 0.4:
            yield [b"WATCH", *random.sample(KEYS, random.randint(1, 3))]
            if random.random() < 0.5:
                yield self.one()
            if random.random() < 0.1:
                yield [b"UNWATCH"]
        yield [b"MULTI"]
        for _ in range(random.randint(0, 6)):
            yield self.one() if random.random() < 0.97 else [random.choice((b"NOSUCH", b"GET", b"MULTI"))]
        yield [random.choice((b"EXEC", b"EXEC", b"EXEC", b"DISCARD"))]

    def one(self) -> list[bytes]:
        """Return one command; now and then with an argument too many or too few, in lower case."""
        random = self._random
        argv = self._valid()
        # Not of scripts, which would raise an error.
        if random.random() < 0.02 and not argv[0].lower().startswith(b"eval"):
            argv = argv[:-1] if random.random() < 0.5 and len(argv) > 1 else [*argv, random.choice((b"1", b"x"))]
        if random.random() < 0.1:
            argv[0] = argv[0].lower()
        return argv

    def _valid(self) -> list[bytes]:
        random = self._random
        pick = random.choice
        key = pick(KEYS)
        match random.randrange(50):
            case 0 | 1:
                return [b"SET", key, pick(VALUES)]
            case 2 | 3:
                return [b"SET", key, pick(VALUES), *self._set_options()]
            case 4:
                return [b"GET", key]
            case 5:
                return [pick((b"INCR", b"DECR")), key]
            case 6 | 7:
                return [pick((b"INCRBY", b"DECRBY")), key, pick(NUMBERS)]
            case 8 | 9:
                return [b"INCRBYFLOAT", key, pick(VALUES + NUMBERS)]
            case 10:
                return [b"APPEND", key, pick((b"", b"x", b"12", b"\x00\xff"))]
            case 11:
                return [b"SETRANGE", key, pick(OFFSETS), pick((b"", b"x", b"abc"))]
            case 12:
                return [pick((b"GETRANGE", b"SUBSTR")), key, pick(SMALL), pick(SMALL)]
            case 13:
                return [b"STRLEN", key]
            case 14:
                return [b"SETNX", key, pick(VALUES)]
            case 15:
                return [b"GETSET", key, pick(VALUES)]
            case 16:
                return [pick((b"SETEX", b"PSETEX")), key, pick(SECONDS), pick(VALUES)]
            case 17:
                return [b"GETDEL", key]
            case 18:
                return [b"GETEX", key, *self._getex_options()]
            case 19:
                return [pick((b"MSET", b"MSETNX")), *self._pairs()]
            case 20:
                return [b"MGET", *self._keys()]
            case 21:
                return [pick((b"DEL", b"UNLINK")), *self._keys()]
            case 22:
                return [pick((b"EXISTS", b"TOUCH")), *self._keys()]
            case 23:
                # Not GT and LT: the two servers do not get the command in the same millisecond.
                return [
                    pick((b"EXPIRE", b"PEXPIRE")),
                    key,
                    pick(SECONDS),
                    *pick(((), (b"NX",), (b"xx",), (b"BAD",))),
                ]
            case 24 | 25:
                name = pick((b"EXPIREAT", b"PEXPIREAT"))
                return [name, key, self._time(name), *self._conditions()]
            case 26:
                return [pick((b"EXPIRETIME", b"PEXPIRETIME")), key]
            case 27:
                return [b"PERSIST", key]
            case 28:
                return [b"TYPE", key]
            case 29 | 30:
                return [b"SETBIT", key, pick(OFFSETS), pick((b"0", b"1", b"1", b"2", b"x"))]
            case 31:
                return [b"GETBIT", key, pick(OFFSETS)]
            case 32 | 33:
                return [b"BITCOUNT", key, *self._range()]
            case 34:
                return [b"LCS", key, pick(KEYS), *self._lcs_options()]
            case 35:
                return [b"COPY", key, pick(KEYS), *pick(((), (), (b"REPLACE",), (b"DB", b"0"), (b"X",)))]
            case 36:
                return [pick((b"RENAME", b"RENAMENX")), key, pick(KEYS)]
            case 37:
                return [pick((b"TTL", b"PTTL")), key]
            case 38 | 39:
                return [b"BITFIELD", key, *(word for _ in range(random.randint(0, 3)) for word in self._field())]
            case 40:
                return [b"BITPOS", key, pick((b"0", b"1", b"1", b"2")), *self._range()]
            case 41:
                return [pick((b"BITOP", b"bitop")), *self._bit_operation()]
            case 42:
                return [b"BITFIELD_RO", key, *(word for _ in range(random.randint(0, 2)) for word in self._field())]
            case 43 | 44:
                return self._script()
            case 45 if self._msetex:
                keys = self._keys()
                pairs = [word for each in keys for word in (each, pick(VALUES))]
                number = b"%d" % len(keys) if random.random() < 0.9 else pick(NUMBERS)
                return [b"MSETEX", number, *pairs, *self._set_options()]
            case _:
                return [b"GET", key]

    def _script(self) -> list[bytes]:
        random = self._random
        keys = self._keys()
        number = b"%d" % len(keys) if random.random() < 0.95 else random.choice((b"-1", b"x", b"9"))
        name, sources = random.choice(((b"EVAL", SCRIPTS), (b"eval_ro", READ_ONLY_SCRIPTS)))
        source = random.choice(sources)
        if random.random() < 0.2:
            name, source = name + b"SHA" if name == b"EVAL" else b"EVALSHA_RO", sha1(source).hexdigest().encode()
        return [name, source, number, *keys, random.choice(VALUES)]

    def _bit_operation(self) -> list[bytes]:
        name = self._random.choice((b"AND", b"or", b"XOR", b"NOT", b"BAD"))
        return [name, self._random.choice(KEYS), *(self._keys()[:1] if name == b"NOT" else self._keys())]

    def _field(self) -> list[bytes]:
        pick = self._random.choice
        if self._random.random() < 0.2:
            return [b"OVERFLOW", pick((b"WRAP", b"sat", b"FAIL", b"SAT", b"FAIL", b"BAD"))]
        place = [
            pick((b"u8", b"i5", b"u1", b"i64", b"u63", b"I16", b"u64", b"x", b"i0")),
            pick((b"0", b"#2", b"7", *SMALL)),
        ]
        name = pick((b"GET", b"SET", b"incrby", b"INCRBY"))
        return [name, *place] if name == b"GET" else [name, *place, pick(NUMBERS)]

    def _keys(self) -> list[bytes]:
        return self._random.choices(KEYS, k=self._random.randint(1, 4))

    def _pairs(self) -> list[bytes]:
        return [word for key in self._keys() for word in (key, self._random.choice(VALUES))]

    def _expiry(self) -> list[bytes]:
        random = self._random
        if random.random() < 0.5:
            return [random.choice((b"EX", b"px")), random.choice(SECONDS)]
        name = random.choice((b"EXAT", b"PXAT"))
        return [name, self._time(name)]

    def _time(self, name: bytes) -> bytes:
        if self._random.random() < 0.4:
            return self._random.choice(TIMES)
        return b"%d" % ((FUTURE + self._random.randint(0, 3)) * (1000 if name.startswith(b"P") else 1))

    def _set_options(self) -> list[bytes]:
        random = self._random
        options: list[bytes] = []
        if random.random() < 0.5:
            options.append(random.choice((b"NX", b"xx")))
        if random.random() < 0.3:
            options.append(b"GET")
        if random.random() < 0.5:
            options += self._expiry()
        if random.random() < 0.2:
            options.append(random.choice((b"KEEPTTL", b"NX", b"BAD")))
        return options

    def _getex_options(self) -> list[bytes]:
        if self._random.random() < 0.6:
            return self._expiry()
        return list(self._random.choice(((), (b"PERSIST",), (b"BAD",))))

    def _conditions(self) -> list[bytes]:
        return self._random.choices((b"NX", b"XX", b"gt", b"LT", b"BAD"), k=self._random.choice((0, 0, 1, 1, 2)))

    def _range(self) -> list[bytes]:
        pick = self._random.choice
        return pick(
            (
                [],
                [pick(SMALL), pick(SMALL)],
                [pick(SMALL), pick(SMALL), pick((b"BIT", b"byte", b"X"))],
                [pick(SMALL), pick(SMALL), b"BIT"],
                [pick(SMALL)],
            )
        )

    def _lcs_options(self) -> list[bytes]:
        words = (b"LEN", b"IDX", b"IDX", b"WITHMATCHLEN", b"MINMATCHLEN", b"2", b"BAD")
        return self._random.choices(words, weights=(2, 3, 3, 3, 1, 1, 1), k=self._random.choice((0, 0, 1, 2, 3)))
