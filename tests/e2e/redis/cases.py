"""The commands that a node and a Redis server both get. Each case is a connection of its own, with keys of its own.

`<k>`, `<l>` … stand for keys that no other case uses. The far future is FUTURE, so that replies do not depend on
when they were recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Year 2100, in seconds since 1970.
FUTURE = 4_102_444_800

TOO_LONG = "<k>" + "k" * 1024
GET_OF_TOO_LONG, SET_OF_TOO_LONG = f"GET {TOO_LONG}", f"SET {TOO_LONG} v"
NO_UTF8 = r"""NoSuch "a'b" "c\r\nd" "\xff\x00" """.strip()

Compare = Literal["bytes", "near", "any order"]


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send as they are, and how many replies they have."""

    data: bytes
    replies: int = 1


@dataclass(frozen=True, slots=True)
class Case:
    """`compare`: the bytes of the replies; "near" numbers may differ a little, because time passes; the elements of
    arrays in "any order".
    """

    name: str
    steps: tuple[str | Step, ...]
    compare: Compare = "bytes"


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


GET_AND_SET = (
    Case(
        "get and set",
        _lines(
            r"""
            GET <k>
            SET <k> value
            GET <k>
            set <k> "\x00\r\n\xff"
            get <k>
            SET <k> ""
            GET <k>
            STRLEN <k>
            GET
            GET <k> <l>
            SET
            SET <k>
            """
        ),
    ),
    Case(
        "options of set",
        _lines(
            """
            SET <k> 1 NX
            SET <k> 2 NX
            GET <k>
            SET <k> 3 XX
            GET <k>
            SET <l> 1 XX
            GET <l>
            SET <k> 4 GET
            SET <m> 4 GET
            GET <m>
            SET <k> 5 XX GET
            SET <n> 5 XX GET
            GET <n>
            SET <k> 6 NX GET
            SET <o> 6 NX GET
            GET <k>
            GET <o>
            set <k> 7 nx
            set <k> 8 xx get ex 100
            TTL <k>
            """
        ),
    ),
    Case(
        "wrong options of set",
        _lines(
            """
            SET <k> v NX XX
            SET <k> v XX NX
            SET <k> v EX
            SET <k> v EX 10 PX 10
            SET <k> v EX 10 EXAT 10
            SET <k> v EX 10 KEEPTTL
            SET <k> v KEEPTTL EX 10
            SET <k> v PERSIST
            SET <k> v NOSUCH
            SET <k> v NX NX
            SET <k> v w
            SET <k> v EX abc
            SET <k> v EX 1.5
            SET <k> v EX ""
            SET <k> v EX " 1"
            SET <k> v EX 1x
            SET <k> v EX 01
            SET <k> v EX +1
            SET <k> v EX 0
            SET <k> v EX -1
            SET <k> v PX 0
            SET <k> v PX -9223372036854775808
            SET <k> v EX 9223372036854775807
            SET <k> v EX 9223372036854775808
            SET <k> v EX 9223372036854776
            SET <k> v EX 9223372036854775
            SET <k> v PX 9223372036854775807
            SET <k> v EXAT 0
            SET <k> v EXAT -5
            SET <k> v PXAT -5
            SET <k> v EXAT 9223372036854776
            GET <k>
            SET <l> v EX 10 EX 100 GET
            TTL <l>
            """
        ),
    ),
    Case(
        "ends of set",
        _lines(
            f"""
            SET <k> v EX 100
            TTL <k>
            SET <k> v
            TTL <k>
            SET <k> v EXAT {FUTURE}
            EXPIRETIME <k>
            PEXPIRETIME <k>
            SET <k> w KEEPTTL
            EXPIRETIME <k>
            GET <k>
            SET <k> x PXAT {FUTURE}123
            PEXPIRETIME <k>
            EXPIRETIME <k>
            SET <k> y KEEPTTL GET
            PEXPIRETIME <k>
            SET <k> z EXAT 1
            GET <k>
            EXISTS <k>
            TTL <k>
            SET <k> z PXAT 1
            SET <k> a NX
            SET <k> b NX EXAT 1
            GET <k>
            SET <k> b XX EXAT 1
            GET <k>
            SET <k> c EXAT {FUTURE}
            SET <k> d GET
            TTL <k>
            """
        ),
    ),
    Case(
        "getex",
        _lines(
            f"""
            GETEX <k>
            GETEX <k> EX 100
            GETEX <k> EX 0
            GETEX <k> EX abc
            GETEX <k> PERSIST
            SET <k> v
            GETEX <k>
            GETEX <k> EXAT {FUTURE}
            EXPIRETIME <k>
            GETEX <k> PERSIST
            TTL <k>
            GETEX <k> PERSIST
            GETEX <k> PXAT {FUTURE}001
            PEXPIRETIME <k>
            GETEX <k>
            PEXPIRETIME <k>
            GETEX <k> EX 0
            GETEX <k> EX -1
            GETEX <k> EX abc
            GETEX <k> EX 9223372036854775807
            GETEX <k> EX
            GETEX <k> PERSIST EX 10
            GETEX <k> EX 10 PERSIST
            GETEX <k> EX 10 PX 10
            GETEX <k> KEEPTTL
            GETEX <k> NX
            GETEX <k> NOSUCH 10
            GETEX
            GETEX <k> EXAT 1
            GET <k>
            """
        ),
    ),
    Case(
        "getdel",
        _lines(
            """
            GETDEL <k>
            SET <k> v
            GETDEL <k>
            GETDEL <k>
            EXISTS <k>
            GETDEL
            GETDEL <k> <l>
            """
        ),
    ),
    Case(
        "mget and mset",
        _lines(
            """
            MGET <k>
            MSET <k> 1 <l> 2
            MGET <k> <l>
            MGET <k> <m> <l> <k>
            MSET <k> 1 <k> 2
            MGET <k>
            MSET <k>
            MSET <k> 1 <l>
            MSET
            MGET
            MSET <m> ""
            MGET <m>
            """
        ),
    ),
    Case(
        "ranges",
        _lines(
            """
            SET <k> 0123456789
            GETRANGE <k> 0 -1
            GETRANGE <k> 0 0
            GETRANGE <k> 2 4
            GETRANGE <k> -3 -1
            GETRANGE <k> -1 -3
            GETRANGE <k> 5 3
            GETRANGE <k> 0 100
            GETRANGE <k> 100 200
            GETRANGE <k> -100 2
            GETRANGE <k> -100 -50
            GETRANGE <k> 0 -100
            GETRANGE <k> 9 9
            GETRANGE <k> 10 10
            GETRANGE <k> 0 9223372036854775807
            GETRANGE <k> -9223372036854775808 9223372036854775807
            GETRANGE <k> 0 9223372036854775808
            GETRANGE <k> a 1
            GETRANGE <k> 0 a
            GETRANGE <l> 0 -1
            GETRANGE <l> a b
            GETRANGE <k> 0
            GETRANGE <k> 0 1 2
            SUBSTR <k> 1 3
            SUBSTR <k> 1
            SET <k> ""
            GETRANGE <k> 0 -1
            STRLEN <k>
            STRLEN <l>
            STRLEN
            STRLEN <k> <l>
            """
        ),
    ),
)

KEYS = (
    Case(
        "keys that exist",
        _lines(
            """
            EXISTS <k>
            SET <k> v
            EXISTS <k>
            EXISTS <k> <k> <l>
            TOUCH <k> <k> <l>
            TOUCH <l>
            TYPE <k>
            TYPE <l>
            DEL <l>
            DEL <k> <k> <l>
            DEL <k>
            EXISTS <k>
            MSET <k> 1 <l> 2 <m> 3
            UNLINK <k> <n>
            UNLINK <l> <m>
            UNLINK <l>
            EXISTS
            TOUCH
            DEL
            UNLINK
            TYPE
            TYPE <k> <l>
            """
        ),
    ),
    Case(
        "object",
        _lines(
            """
            OBJECT ENCODING <k>
            OBJECT FREQ <k>
            OBJECT IDLETIME <k>
            SET <k> 12345
            OBJECT ENCODING <k>
            SET <k> -9223372036854775808
            OBJECT ENCODING <k>
            SET <k> 9223372036854775808
            OBJECT ENCODING <k>
            SET <k> 012
            OBJECT ENCODING <k>
            SET <k> short
            OBJECT ENCODING <k>
            SET <k> 01234567890123456789012345678901234567890123
            OBJECT ENCODING <k>
            SET <k> 012345678901234567890123456789012345678901234
            OBJECT ENCODING <k>
            OBJECT FREQ <k>
            OBJECT IDLETIME <k>
            OBJECT ENCODING
            OBJECT ENCODING <k> <l>
            OBJECT FREQ
            OBJECT NOSUCH <k>
            OBJECT NOSUCH
            OBJECT
            OBJECT HELP
            OBJECT HELP <k>
            OBJECT REFCOUNT <k>
            """
        ),
    ),
    Case(
        "how many keys",
        _lines(
            """
            SET <k> v
            DBSIZE
            DBSIZE <k>
            RANDOMKEY <k>
            """
        ),
    ),
    Case(
        "some key",
        _lines(
            """
            SET <k> v
            RANDOMKEY
            """
        ),
    ),
)

ENDS = (
    Case(
        "expire",
        _lines(
            f"""
            TTL <k>
            PTTL <k>
            EXPIRETIME <k>
            PEXPIRETIME <k>
            EXPIRE <k> 100
            PERSIST <k>
            SET <k> v
            TTL <k>
            PTTL <k>
            EXPIRETIME <k>
            PEXPIRETIME <k>
            PERSIST <k>
            EXPIRE <k> 100
            TTL <k>
            EXPIREAT <k> {FUTURE}
            EXPIRETIME <k>
            PEXPIRETIME <k>
            PEXPIREAT <k> {FUTURE}499
            EXPIRETIME <k>
            PEXPIREAT <k> {FUTURE}500
            EXPIRETIME <k>
            PERSIST <k>
            TTL <k>
            GET <k>
            EXPIRE <k> 0
            GET <k>
            SET <k> v
            EXPIRE <k> -1
            EXISTS <k>
            SET <k> v
            EXPIREAT <k> 1
            EXISTS <k>
            SET <k> v
            PEXPIREAT <k> -1
            EXISTS <k>
            SET <k> v
            PEXPIRE <k> -9223372036854775808
            EXISTS <k>
            SET <k> v
            EXPIRE <k> -9223372036854775
            EXISTS <k>
            """
        ),
    ),
    Case(
        "conditions of expire",
        _lines(
            f"""
            SET <k> v
            EXPIREAT <k> {FUTURE} XX
            EXPIREAT <k> {FUTURE} GT
            EXPIREAT <k> {FUTURE} NX
            EXPIREAT <k> {FUTURE} NX
            EXPIREAT <k> {FUTURE} XX
            EXPIREAT <k> {FUTURE} GT
            EXPIREAT <k> {FUTURE} LT
            EXPIREAT <k> {FUTURE + 1} LT
            EXPIREAT <k> {FUTURE + 1} GT
            EXPIREAT <k> {FUTURE} GT
            EXPIREAT <k> {FUTURE} lt
            EXPIREAT <k> {FUTURE + 5} XX GT
            EXPIREAT <k> {FUTURE} XX LT
            EXPIRETIME <k>
            PERSIST <k>
            EXPIREAT <k> {FUTURE} LT
            EXPIREAT <k> {FUTURE} NX XX
            EXPIREAT <k> {FUTURE} NX GT
            EXPIREAT <k> {FUTURE} LT NX
            EXPIREAT <k> {FUTURE} GT LT
            EXPIREAT <k> {FUTURE} NOSUCH
            EXPIREAT <k> {FUTURE} GT NOSUCH
            EXPIREAT <k> {FUTURE} XX XX
            EXPIREAT <l> {FUTURE} XX
            EXPIREAT <k> 1 GT
            EXPIREAT <k> 1 NX
            EXISTS <k>
            EXPIREAT <k> 1 LT
            EXISTS <k>
            """
        ),
    ),
    Case(
        "wrong ends",
        _lines(
            """
            SET <k> v
            EXPIRE <k>
            EXPIRE <k> abc
            EXPIRE <k> 1.5
            EXPIRE <k> 9223372036854775807
            EXPIRE <k> 9223372036854775808
            EXPIRE <k> -9223372036854775808
            EXPIRE <k> -9223372036854775809
            EXPIRE <k> 9223372036854775
            EXPIRE <k> 9223372036854776
            EXPIRE <k> -9223372036854776
            EXPIREAT <k> 9223372036854776
            PEXPIRE <k> 9223372036854775807
            PEXPIRE <k> abc NOSUCH
            PEXPIRE <l> abc
            PEXPIREAT <l> abc
            PEXPIREAT <k> 9223372036854775808
            TTL
            TTL <k> <l>
            PTTL
            PERSIST
            PERSIST <k> <l>
            EXPIRETIME
            PEXPIRETIME
            """
        ),
    ),
    Case(
        "far ends",
        _lines(
            """
            SET <k> v
            PEXPIREAT <k> 999999999999999
            PEXPIRETIME <k>
            SET <l> v
            PEXPIREAT <l> 1000000000000000
            PEXPIRETIME <l>
            """
        ),
    ),
    Case(
        "time that is left",
        _lines(
            """
            SET <k> v PX 100000
            PTTL <k>
            PEXPIRE <k> 200000
            PTTL <k>
            GETEX <k> EX 300
            PTTL <k>
            """
        ),
        "near",
    ),
)

SCANS = (
    Case(
        "scan",
        _lines(
            r"""
            MSET <k>1 v <k>2 v <k>10 v <k>[ v
            SCAN 0 MATCH <k>* COUNT 1000
            SCAN 0 COUNT 1000 MATCH <k>?
            SCAN 0 MATCH <k>[12] COUNT 1000
            SCAN 0 MATCH <k>[^1] COUNT 1000
            SCAN 0 MATCH <k>[0-9]* COUNT 1000
            SCAN 0 MATCH <k>[9-0] COUNT 1000
            SCAN 0 MATCH "<k>\\[" COUNT 1000
            SCAN 0 MATCH <k>[[] COUNT 1000
            SCAN 0 MATCH <k>[ COUNT 1000
            SCAN 0 MATCH <k>[1 COUNT 1000
            SCAN 0 MATCH "" COUNT 1000
            SCAN 0 MATCH <l>* COUNT 1000
            SCAN 0 MATCH <k>* COUNT 1000 TYPE string
            SCAN 0 MATCH <k>* COUNT 1000 TYPE STRING
            SCAN 0 MATCH <k>* COUNT 1000 TYPE hash
            SCAN 0 MATCH <k>* COUNT 1000 TYPE nosuch
            scan 0 match <k>2 count 1000
            DEL <k>2
            SCAN 0 MATCH <k>* COUNT 1000
            """
        ),
        "any order",
    ),
    Case(
        "wrong scans",
        _lines(
            """
            SCAN
            SCAN abc
            SCAN 1.5
            SCAN 0x
            SCAN " 0"
            SCAN 99999999999999999999
            SCAN 0 MATCH
            SCAN 0 COUNT
            SCAN 0 COUNT abc
            SCAN 0 COUNT 0
            SCAN 0 COUNT -1
            SCAN 0 COUNT 9223372036854775808
            SCAN 0 TYPE
            SCAN 0 NOSUCH
            SCAN 0 NOSUCH 1
            SCAN 0 COUNT 0 NOSUCH
            """
        ),
    ),
    Case("cursors", _lines("SCAN 18446744073709551615"), "any order"),
)

UNKNOWN = (
    Case(
        "unknown commands",
        (
            *_lines(
                r"""
                NOSUCH
                nosuch a b
                NoSuch "a'b" "c\r\nd"
                "" x
                LPUSH-X <k> v
                """
            ),
            NO_UTF8,
            "NOSUCH " + "a" * 200,
            "NOSUCH " + " ".join(["abcdefghij"] * 30),
            "N" * 200,
            "N" * 200 + " x",
        ),
    ),
)

# Commands of Redis that there are not here.
ABSENT = _lines(
    """
    LPUSH <k> v
    HSET <k> f v
    """
)

KEYS_OF_S3 = (
    Case(
        "keys that no object has",
        (
            'GET ""',
            'SET "" v',
            r'GET "a\x00b"',
            r'SET "a\x00b" v',
            r'GET "\xff"',
            r'SET "\xff" v',
            r'EXISTS "\xff"',
            r'DEL "\xff"',
            GET_OF_TOO_LONG,
            SET_OF_TOO_LONG,
        ),
    ),
)

PROTOCOL = (
    Case(
        "lines of words",
        (
            Step(b"SET <k> v\r\n"),
            Step(b"GET <k>\r\n"),
            Step(b"get <k>\n"),
            Step(b'SET <k> "a b\\x41\\n\\r\\t\\b\\a\\\\\\"\\q"\r\n'),
            Step(b"GET <k>\r\n"),
            Step(b"SET <k> 'a \\'b\\' \\n \"'\r\n"),
            Step(b"GET <k>\r\n"),
            Step(b"  SET\t<k>   v  \r\n"),
            Step(b"GET <k>\r\n"),
            Step(b"\r\n\r\n   \r\nGET <k>\r\n"),
            Step(b'SET <k> ""\r\n'),
            Step(b"GET <k>\r\n"),
            Step(b"GET\r\n"),
            Step(b"NOSUCH a\r\n"),
            Step(b"GET <k>\r\nGET <l>\r\nEXISTS <k>\r\n", 3),
            Step(b"GET <k>\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\nGET <k>\n", 3),
        ),
    ),
    Case(
        "arrays of words",
        (
            Step(b"*0\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n"),
            Step(b"*-1\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n"),
            Step(b"*-10\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n"),
            Step(b"*2\r\n$3\r\nGET\r\n$1\r\nxAB*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", 2),
            Step(b"*1\r\n$0\r\n\r\n"),
        ),
    ),
    *(
        Case(f"no protocol: {name}", (Step(data, 99),))
        for name, data in {
            "open double quote": b'SET <k> "v\r\n',
            "open single quote": b"SET <k> 'v\r\n",
            "text behind a quote": b'SET <k> "v"w\r\n',
            "a count that is none": b"*a\r\n",
            "a count without digits": b"*\r\n",
            "a count with a space": b"* 1\r\n$4\r\nPING\r\n",
            "a count that is huge": b"*99999999999999999999\r\n",
            "no dollar": b"*1\r\n+OK\r\n",
            "a colon for a dollar": b"*2\r\n$3\r\nGET\r\n:1\r\n",
            "a length that is none": b"*1\r\n$a\r\n",
            "a negative length": b"*1\r\n$-1\r\n",
            "a length that is too large": b"*1\r\n$536870913\r\n",
            "a length that is huge": b"*1\r\n$99999999999999999999\r\n",
            "an array in an array": b"*1\r\n*1\r\n$1\r\nx\r\n",
            "answers before": b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n*a\r\n",
            "a line that is too long": b"GET " + b"x" * 70_000,
            "a count that does not end": b"*" + b"1" * 70_000,
            "a length that does not end": b"*1\r\n$" + b"1" * 70_000,
        }.items()
    ),
)

UPDATES = (
    Case(
        "counters",
        _lines(
            """
            INCR <k>
            INCRBY <k> 41
            DECR <k>
            DECRBY <k> 1
            INCRBY <k> 1.5
            INCRBY <k> 9223372036854775807
            DECRBY <k> -9223372036854775808
            INCRBYFLOAT <k> 0.1
            INCR <k>
            INCRBYFLOAT <k> -0.1
            INCRBYFLOAT <k> inf
            INCRBYFLOAT <k> x
            INCRBYFLOAT <l> 3.0e3
            INCRBYFLOAT <l> 200
            INCRBYFLOAT <m> 1e-20
            SET <n> "007"
            INCR <n>
            INCRBYFLOAT <n> 1
            SET <o> 1 EX 1000000
            INCR <o>
            PERSIST <o>
            INCR
            INCRBY <k>
            """
        ),
    ),
    Case(
        "parts that are written",
        _lines(
            r"""
            APPEND <k> hello
            APPEND <k> ""
            APPEND <l> ""
            EXISTS <l>
            SETRANGE <k> 3 p!
            GET <k>
            SETRANGE <k> 8 x
            GET <k>
            SETRANGE <m> 5 ""
            EXISTS <m>
            SETRANGE <k> -1 x
            SETRANGE <k> x x
            SETRANGE <k> 9223372036854775807 x
            SUBSTR <k> 1 -2
            """
        ),
    ),
    Case(
        "only if absent, and the value before",
        _lines(
            """
            SETNX <k> 1
            SETNX <k> 2
            GETSET <k> 3
            GETSET <l> 1
            MSETNX <m> 1 <n> 2
            MSETNX <n> 3 <o> 4
            MGET <m> <n> <o>
            MSETNX <o> 1 <o> 2
            GET <o>
            MSETNX <k>
            MSETNX <k> 1 <l>
            SETEX <p> 4000000 v
            SETEX <p> 0 v
            SETEX <p> x v
            PSETEX <p> -1 v
            PSETEX <p> 9223372036854775807 v
            GETSET <p> w
            TTL <p>
            """
        ),
    ),
    Case(
        "bits",
        _lines(
            r"""
            SETBIT <k> 7 1
            SETBIT <k> 7 1
            SETBIT <k> 20 0
            STRLEN <k>
            SETBIT <k> 7 0
            SETBIT <k> -1 1
            SETBIT <k> 1 2
            SETBIT <k> 4294967296 1
            GETBIT <k> 4294967296
            GETBIT <k> 4294967295
            GETBIT <l> 3
            SET <l> foobar
            GETBIT <l> 1
            BITCOUNT <l>
            BITCOUNT <l> 0 0
            BITCOUNT <l> 1 -2 BYTE
            BITCOUNT <l> 5 30 BIT
            BITCOUNT <l> -2 -5 X
            BITCOUNT <l> 0 1 X
            BITCOUNT <l> 0
            BITCOUNT <m> x y
            """
        ),
    ),
    Case(
        "common subsequences",
        _lines(
            """
            MSET <k> ohmytext <l> mynewtext
            LCS <k> <l>
            LCS <k> <l> LEN
            LCS <k> <l> IDX
            LCS <k> <l> IDX MINMATCHLEN 4
            LCS <k> <l> IDX MINMATCHLEN 4 WITHMATCHLEN
            LCS <k> <l> IDX LEN
            LCS <k> <m>
            LCS <k> <l> X
            """
        ),
    ),
    Case(
        "copies and renames",
        _lines(
            """
            COPY <k> <l>
            SET <k> v EX 1000000
            COPY <k> <l>
            COPY <k> <l>
            COPY <k> <l> REPLACE
            COPY <k> <k>
            COPY <k> <l> DB 0 REPLACE
            COPY <k> <l> X
            PERSIST <l>
            RENAME <k> <m>
            EXISTS <k>
            PERSIST <m>
            RENAME <k> <m>
            RENAME <m> <m>
            RENAMENX <m> <l>
            RENAMENX <m> <n>
            RENAMENX <n> <n>
            RENAMENX <k> <n>
            GET <n>
            """
        ),
    ),
)

CASES = (*GET_AND_SET, *UPDATES, *KEYS, *ENDS, *SCANS, *UNKNOWN, *KEYS_OF_S3, *PROTOCOL)
