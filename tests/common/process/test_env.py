"""Reading variables: every problem at once, each naming its variable, what it got and what is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.errors import ConfigError
from milena_common.network.addresses import Address
from milena_common.process.env import Environment

Read = Callable[[Environment], object]


def integer(env: Environment) -> object:
    return env.integer("X", 7, -5, 100)


def number(env: Environment) -> object:
    return env.number("X", 0.5, 0, 10, "things")


def seconds(env: Environment) -> object:
    return env.seconds("X", 5, 0.1, 3600)


def size(env: Environment) -> object:
    return env.size("X", 64, 1, 2**40)


def choice(env: Environment) -> object:
    return env.choice("X", "json", ("json", "text"))


def host(env: Environment) -> object:
    return env.host("X", "localhost")


def address(env: Environment) -> object:
    return env.address("X", "localhost:1")


def text(env: Environment) -> object:
    return env.text("X", "default")


@pytest.mark.parametrize(
    ("read", "value", "meant"),
    [
        (integer, "42", 42),
        (integer, "-5", -5),
        (integer, "+100", 100),
        (integer, " 42\n", 42),
        (number, "1.5", 1.5),
        (number, "1e1", 10.0),
        (number, "0", 0.0),
        (seconds, "0.25", 0.25),
        (size, "1048576", 2**20),
        (size, "64MiB", 64 * 2**20),
        (size, "64 mib", 64 * 2**20),
        (size, "1k", 1024),
        (size, "2KB", 2000),
        (size, "3G", 3 * 2**30),
        (size, "3gb", 3 * 10**9),
        (size, "1TB", 10**12),
        (size, "1TiB", 2**40),
        (size, "7b", 7),
        (choice, "TEXT", "text"),
        (host, "0.0.0.0", "0.0.0.0"),
        (host, "::", "::"),
        (address, "http://cache1:50051", Address("cache1", 50051)),
        (text, " a b ", "a b"),
    ],
)
def test_what_is_understood(read: Read, value: str, meant: object) -> None:
    env = Environment({"X": value})
    assert read(env) == meant
    assert env.problems == []
    assert env.read_names == ["X"]


@pytest.mark.parametrize("variables", [{}, {"X": ""}, {"X": "  \t "}])
@pytest.mark.parametrize(
    ("read", "default"),
    [
        (integer, 7),
        (number, 0.5),
        (seconds, 5),
        (size, 64),
        (choice, "json"),
        (host, "localhost"),
        (address, Address("localhost", 1)),
        (text, "default"),
    ],
)
def test_empty_and_missing_are_the_same(read: Read, default: object, variables: dict[str, str]) -> None:
    env = Environment(variables)
    assert read(env) == default
    env.check()


@pytest.mark.parametrize(
    ("read", "value", "allowed"),
    [
        (integer, "many", "a whole number from -5 to 100"),
        (integer, "1.0", "a whole number"),
        (integer, "1_0", "a whole number"),
        (integer, "٣", "a whole number"),
        (integer, "101", "a whole number from -5 to 100"),
        (integer, "9" * 5000, "a whole number"),
        (integer, "0x10", "a whole number"),
        (number, "nan", "a number of things from 0 to 10"),
        (number, "inf", "a number of things from 0 to 10"),
        (number, "-inf", "a number of things"),
        (number, "-0.1", "a number of things"),
        (number, "1,5", "a number of things"),
        (number, "1e999", "a number of things"),
        (seconds, "5s", "a number of seconds from 0.1 to 3600"),
        (seconds, "0", "a number of seconds from 0.1 to 3600"),
        (size, "0", "bytes from 1 to"),
        (size, "-1", "bytes from 1 to"),
        (size, "1.5GiB", "units KB MB GB KiB MiB GiB"),
        (size, "1 parsec", "units"),
        (size, "9999TiB", "bytes from 1 to 1099511627776"),
        (size, "9" * 5000, "bytes from 1 to"),
        (choice, "xml", "json or text"),
        (host, "a b", "a host name or IP address"),
        (address, "localhost", "host:port or http://host:port, the port from 1 to 65535 (the port is missing)"),
        (address, "localhost:0", "(port 0 is out of range)"),
        (text, "a\x00b", "printable UTF-8 text"),
        (text, "a\nb", "printable UTF-8 text"),
        (text, "caf\udce9", "printable UTF-8 text"),
    ],
)
def test_a_rejection_names_the_variable_what_it_got_and_what_is_allowed(
    read: Read, value: str, allowed: str
) -> None:
    env = Environment({"X": value})
    default = read(Environment({}))
    assert read(env) == default, "goes on with the default, to find the other problems"
    with pytest.raises(ConfigError) as rejected:
        env.check()
    (line,) = rejected.value.problems
    before, separator, after = line.partition("; allowed: ")
    assert before.startswith("X: got '")
    assert separator
    assert allowed in after
    assert line.isprintable()
    assert len(line) < 300
    line.encode()


def test_bytes_that_are_not_utf8_are_shown() -> None:
    env = Environment({"X": "caf\udce9"})
    env.text("X")
    assert "udce9" in env.problems[0]


def test_all_problems_are_reported_at_once() -> None:
    env = Environment({"A": "x", "B": "2", "C": "nan", "D": "ftp://h:1"})
    env.integer("A", 1, 0, 9)
    env.integer("B", 1, 0, 9)
    env.number("C", 1, 0, 9)
    env.address("D", "h:1")
    env.text("E", required="the name of a thing")
    with pytest.raises(ConfigError) as rejected:
        env.check()
    assert [line.partition(":")[0] for line in rejected.value.problems] == ["A", "C", "D", "E"]
    assert rejected.value.problems[-1] == "E: got nothing; allowed: the name of a thing"
    assert str(rejected.value).splitlines() == rejected.value.problems


@given(st.text())
def test_no_value_makes_a_reader_raise(value: str) -> None:
    env = Environment({"X": value})
    for read in (integer, number, seconds, size, choice, host, address, text):
        read(env)
    for problem in env.problems:
        assert "\n" not in problem
        problem.encode()
