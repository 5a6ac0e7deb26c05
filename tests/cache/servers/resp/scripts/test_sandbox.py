"""The sandbox of scripts: what they can do, and that what they are not to do ends, and reaches nothing."""

from __future__ import annotations

from typing import Any

import pytest

from milena_cache.servers.resp.scripts.sandbox import MAX_ARGUMENTS, MAX_BYTES, Sandbox, ScriptStopped
from milena_common.forwarding.scripts import digest_of
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import CommandError

pytest.importorskip("lupa.lua54")


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox()


def call(argv: list[bytes]) -> Any:
    match argv:
        case [b"get", b"k"]:
            return b"value"
        case [b"set", *_]:
            return Raw(OK)
        case [b"incrby", _, number]:
            return int(number)
        case [b"mget", *_]:
            return [b"a", None, b"b"]
        case [b"big"]:
            return b"x" * MAX_BYTES
        case [b"huge"]:
            return b"x" * (MAX_BYTES + 1)
        case [b"defect"]:
            raise ZeroDivisionError
        case [b"none"]:
            return None
        case _:
            raise CommandError(f"ERR no {argv[0].decode(errors='replace')}")


def run(sandbox: Sandbox, source: str | bytes, *argv: bytes) -> bytes:
    """The reply, or what a script that was stopped or is none has as its error."""
    encoded = source.encode() if isinstance(source, str) else source
    try:
        return bytes(sandbox.run(digest_of(encoded), encoded, [b"k"], argv, call))
    except ScriptStopped as stopped:
        return b"stopped: " + str(stopped).encode()
    except CommandError as error:
        return b"rejected: " + str(error).encode()


NO_ARGUMENT = (
    b"-ERR Please specify at least one argument for this redis lib call script: SHA, on @user_script:3.\r\n"
)


@pytest.mark.parametrize(
    ("source", "reply"),
    [
        ("return 1", b":1\r\n"),
        (
            "return {1, 'two', false, true, 3.7, -3.7, {}, nil, 5}",
            b"*7\r\n:1\r\n$3\r\ntwo\r\n_\r\n:1\r\n:3\r\n:-3\r\n*0\r\n",
        ),
        ("return KEYS[1] .. ARGV[1] .. #ARGV", b"$3\r\nk51\r\n"),
        ("return ARGV[1] + 5", b":10\r\n"),
        ("return redis.call('get', KEYS[1])", b"$5\r\nvalue\r\n"),
        ("return redis.call('none')", b"_\r\n"),
        ("return redis.call('none') == false and 1 or 0", b":1\r\n"),
        ("return redis.call('set', KEYS[1], 1)", b"+OK\r\n"),
        ("return redis.call('set', KEYS[1], 1).ok", b"$2\r\nOK\r\n"),
        ("return redis.call('incrby', KEYS[1], 10/2)", b":5\r\n"),
        ("return redis.call('mget', KEYS[1])", b"*3\r\n$1\r\na\r\n_\r\n$1\r\nb\r\n"),
        ("return redis.call('nosuch')", b"-ERR no nosuch script: SHA, on @user_script:1.\r\n"),
        ("\n\nlocal x = redis.call('nosuch')\nreturn x", b"-ERR no nosuch script: SHA, on @user_script:3.\r\n"),
        ("\nif ARGV[1] then\nreturn redis.call()\nend", NO_ARGUMENT),
        ("return redis.pcall('nosuch')", b"-ERR no nosuch\r\n"),
        ("local done, error = pcall(redis.call, 'nosuch') return error", b"$13\r\nERR no nosuch\r\n"),
        ("return {pcall(function() return 1, false, 'x' end)}", b"*4\r\n:1\r\n:1\r\n_\r\n$1\r\nx\r\n"),
        ("return {pcall(error, {1})}", b"*2\r\n_\r\n*1\r\n:1\r\n"),
        ("return redis.error_reply('bad')", b"-ERR bad\r\n"),
        ("return redis.error_reply('-BAD it is')", b"-BAD it is\r\n"),
        ("return redis.error_reply('BAD it is')", b"-BAD it is\r\n"),
        ("return redis.error_reply('-BAD')", b"-ERR BAD\r\n"),
        ("return redis.error_reply('a\\nb')", b"-ERR a b\r\n"),
        ("return redis.status_reply('FINE')", b"+FINE\r\n"),
        ("error('boom')", b"-ERR user_script:1: boom script: SHA, on @user_script:1.\r\n"),
        ("error('boom', 2)", b"-ERR boom script: SHA, on @user_script:1.\r\n"),
        ("error({err = 'MY\\nown'})", b"-MY own script: SHA, on @user_script:1.\r\n"),
        ("\nlocal function f()\nerror('x') end f()", b"-ERR user_script:3: x script: SHA, on @user_script:3.\r\n"),
        ("return {err = 'a\\r\\nb'}", b"-a  b\r\n"),
        ("return string.format('%d-%s', 3, 'x') .. ('ab'):rep(2, ',')", b"$8\r\n3-xab,ab\r\n"),
        ("return ('12:34'):match('^(%d+):(%d+)$')", b"$2\r\n12\r\n"),
        ("return table.concat({1, 2, 3}, '-')", b"$5\r\n1-2-3\r\n"),
        ("local t = {3, 1, 2} table.sort(t) return t", b"*3\r\n:1\r\n:2\r\n:3\r\n"),
        ("return {unpack({1, 2})}", b"*2\r\n:1\r\n:2\r\n"),
        ("return select('#', xpcall(error, tostring, 'x'))", b":2\r\n"),
        ("return 0/0", b":-9223372036854775808\r\n"),
    ],
)
def test_a_script_does_what_it_does_in_redis(sandbox: Sandbox, source: str, reply: bytes) -> None:
    assert run(sandbox, source, b"5").replace(digest_of(source.encode()), b"SHA") == reply


@pytest.mark.parametrize(
    "name",
    [
        *(
            "io",
            "os",
            "debug",
            "load",
            "loadstring",
            "loadfile",
            "dofile",
            "require",
            "package",
            "coroutine",
            "python",
        ),
        *("collectgarbage", "print", "rawset", "newproxy", "getfenv", "setfenv", "utf8", "module"),
    ],
)
def test_what_reaches_out_of_it_does_not_exist(sandbox: Sandbox, name: str) -> None:
    assert run(sandbox, f"return {name}") == (
        f"-ERR user_script:1: Script attempted to access nonexistent global variable '{name}' script: "
        f"{digest_of(f'return {name}'.encode()).decode()}, on @user_script:1.\r\n".encode()
    )


@pytest.mark.parametrize(
    "source",
    [
        *("x = 1", "_G.x = 1", "redis.call = nil", "string.rep = nil", "math.floor = nil", "table.x = 1"),
        *("setmetatable(_G, {})", "setmetatable(string, {})", "setmetatable(redis, nil)"),
        *("getmetatable('').__index.rep = nil", "getmetatable(redis).__index = nil", "_ENV.x = 1"),
        *("string.dump(function() end)", "string.pack('i', 1)", "table.move({}, 1, 2, 3)"),
        *("return redis.call.__globals__", "return redis.call['__class__']", "return #redis.pcall"),
        "redis.call('get', {})",
        "redis.call('get', redis.call)",
        "redis.call()",
        "redis.call('defect')",
        "redis.call('huge')",
        "redis.call(unpack({}, 1, 5000))",
    ],
)
def test_a_script_changes_nothing_for_others_and_gets_no_object_of_python(sandbox: Sandbox, source: str) -> None:
    assert run(sandbox, source).startswith(b"-ERR ")
    assert run(sandbox, "return redis.call('get', 'k') .. ('x'):rep(2) .. math.floor(1.5)") == b"$8\r\nvaluexx1\r\n"


LOOP = "while true do end"


@pytest.mark.parametrize(
    "source",
    [
        LOOP,
        f"while true do pcall(function() {LOOP} end) end",
        f"local function f() pcall(f) {LOOP} end f()",
        f"xpcall(function() {LOOP} end, function() {LOOP} end)",
        f"string.gsub(('x'):rep(99), 'x', function() {LOOP} end)",
        f"table.sort({{1, 2, 3}}, function() {LOOP} end)",
        f"tostring(setmetatable({{}}, {{__tostring = function() {LOOP} end}}))",
        f"return setmetatable({{}}, {{__index = function() {LOOP} end}}).x",
        f"for _ in pairs(setmetatable({{}}, {{__pairs = function() {LOOP} end}})) do end",
        "goto a ::a:: goto a",
        "local function f() return f() end return f()",
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) end",
        "local s = 'x' while true do s = s .. s end",
        "local s = 'x' while true do if not pcall(function() s = s .. s end) then s = 'x' end end",
        "local s = ('x'):rep(4000000) while true do s:upper() end",
        "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.insert(t, 1, 1) table.remove(t, 1) end",
        "local t = {} for i = 1, 1e5 do t[i] = {} end while true do next(t) end",
        "local t = {} while true do t[#t + 1] = redis.call('big') end",
        "local s = '' while true do s = s .. redis.call('big') end",
        "while true do redis.call('get', 'k') end",
    ],
)
def test_a_script_without_end_is_stopped(sandbox: Sandbox, source: str) -> None:
    stopped = run(sandbox, source)
    assert stopped.startswith((b"stopped: it ", b"-ERR not enough memory")), stopped
    assert run(sandbox, "return redis.call('get', 'k')") == b"$5\r\nvalue\r\n"


@pytest.mark.parametrize(
    "source",
    [
        *("return ('x'):rep(1e9)", "return ('x'):rep(4e6):rep(3)", "return ('x'):rep(9, ('y'):rep(4e6))"),
        "return ('a'):rep(30):find(('a-'):rep(20) .. 'b')",
        "return ('a'):rep(1000):gsub('.-.-.-b', '')",
        "return ('a'):rep(4e6):find(('a'):rep(2e6) .. 'b', 1, true)",
        *(f"local x = setmetatable({{}}, {{{name} = function() {LOOP} end}})" for name in ("__gc", "__close")),
        "return table.concat(setmetatable({}, {__index = type}), '', 1, 2^60)",
        *("return table.concat({}, '', 1, 2^60)", "return table.concat({}, ('x'):rep(4e6), 1, 9)"),
        "table.insert(setmetatable({}, {__len = function() return 2^60 end}), 1, 1)",
        *("return unpack({}, 1, 1e7)", "return ('x'):rep(1e5):byte(1, -1)"),
        "local t = {} for i = 1, 1025 do t[i] = i end table.sort(t)",
        "return ('x'):rep(20000):gsub('x', ('y'):rep(100000))",
        *("local t = {} t[1] = t return t", "local t = {1} for i = 1, 60 do t = {t, t} end return t"),
    ],
)
def test_what_would_take_long_within_one_function_is_an_error(sandbox: Sandbox, source: str) -> None:
    assert run(sandbox, source).startswith(b"-ERR ")
    assert run(sandbox, "return 1") == b":1\r\n"


@pytest.mark.parametrize(
    "source", [b"\x1bLua", b"syntax error(", b"return " + b"(" * 300, b"local a = " + b"-" * 60_000 + b"1", b"\0"]
)
def test_what_is_no_source_is_rejected(sandbox: Sandbox, source: bytes) -> None:
    assert run(sandbox, source).startswith(b"rejected: ERR Error compiling script")


def test_arguments_are_bounded(sandbox: Sandbox) -> None:
    assert run(sandbox, "return #ARGV", *[b"x"] * (MAX_ARGUMENTS - 1)) == b":%d\r\n" % (MAX_ARGUMENTS - 1)
    assert run(sandbox, "return #ARGV", *[b"x"] * MAX_ARGUMENTS).startswith(b"rejected: ERR the keys")
    assert run(sandbox, "return #ARGV[1]", b"x" * MAX_BYTES).startswith(b"rejected: ERR the keys")
    assert run(sandbox, "return #ARGV[1]", b"x" * (MAX_BYTES - 1)) == b":%d\r\n" % (MAX_BYTES - 1)
