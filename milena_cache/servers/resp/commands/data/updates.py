"""Coordination. Commands that make a value of what it was: counters, parts, bits, and writes of absent keys only.

Each is an atomic read-modify-write, see `deciding`.
"""

from __future__ import annotations

from milena_cache.servers.resp.commands.data.deciding import handler_of, reader_of
from milena_cache.servers.resp.decisions import bits, numbers, strings
from milena_cache.servers.resp.decisions.bitfield import bitfield, bitfield_ro
from milena_cache.servers.resp.decisions.keys import delex
from milena_cache.servers.resp.decisions.lcs import lcs
from milena_cache.servers.resp.dispatch.command import BEHIND_OPERATION, KEYS_WITH_VALUES, ONE_KEY
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.state.context import Context

COMMANDS = CommandTable[Context](group="string")

for _name, _arity, _decide, _since, _fast, _summary in (
    ("incr", 2, numbers.incr, "1.0.0", True, "Increments the integer value of a key by one."),
    ("decr", 2, numbers.decr, "1.0.0", True, "Decrements the integer value of a key by one."),
    ("incrby", 3, numbers.incrby, "1.0.0", True, "Increments the integer value of a key by a number."),
    ("decrby", 3, numbers.decrby, "1.0.0", True, "Decrements a number from the integer value of a key."),
    (
        "incrbyfloat",
        3,
        numbers.incrbyfloat,
        "2.6.0",
        True,
        "Increments the floating point value of a key by a number.",
    ),
    ("append", 3, strings.append, "2.0.0", True, "Appends a string to the value of a key."),
    ("setrange", 4, strings.setrange, "2.2.0", False, "Overwrites a part of a string value by an offset."),
    ("setnx", 3, strings.setnx, "1.0.0", True, "Set the string value of a key only when the key doesn't exist."),
    ("getset", 3, strings.getset, "1.0.0", True, "Returns the previous string value of a key after setting it."),
):
    COMMANDS.command(
        _name,
        arity=_arity,
        access="modify",
        keys=ONE_KEY,
        operation="put",
        flags=("denyoom", "fast") if _fast else ("denyoom",),
        categories=("string",),
        since=_since,
        summary=_summary,
        decide=_decide,
    )(handler_of(_decide, counted=_name == "getset"))

COMMANDS.command(
    "msetnx",
    arity=-3,
    access="modify",
    keys=KEYS_WITH_VALUES,
    operation="put",
    flags=("denyoom",),
    categories=("string",),
    since="1.0.1",
    complexity="O(N) where N is the number of keys to set.",
    summary="Modifies the string values of several keys, only if none of them exists.",
    decide=strings.msetnx,
)(handler_of(strings.msetnx, KEYS_WITH_VALUES))

COMMANDS.command(
    "delex",
    arity=-2,
    access="modify",
    keys=ONE_KEY,
    operation="delete",
    flags=("fast",),
    categories=("string",),
    since="8.4.0",
    summary="Deletes a key if its value is, or is not, a given one.",
    decide=delex,
)(handler_of(delex))

COMMANDS.command(
    "lcs",
    arity=-3,
    access="read",
    keys=(1, 2, 1),
    operation="get",
    categories=("string",),
    since="7.0.0",
    complexity="O(N*M) where N and M are the lengths of the values.",
    summary="Finds the longest common subsequence of two values.",
    decide=lcs,
)(reader_of(lcs, (1, 2, 1)))

COMMANDS.command(
    "setbit",
    arity=4,
    access="modify",
    keys=ONE_KEY,
    operation="put",
    group="bitmap",
    flags=("denyoom",),
    categories=("bitmap",),
    since="2.2.0",
    summary="Sets or clears the bit at an offset of a value.",
    decide=bits.setbit,
)(handler_of(bits.setbit))

COMMANDS.command(
    "bitfield",
    arity=-2,
    access="modify",
    keys=ONE_KEY,
    operation="put",
    group="bitmap",
    flags=("denyoom",),
    categories=("bitmap",),
    since="3.2.0",
    complexity="O(1) for each subcommand specified",
    summary="Reads, replaces and increments integers of any number of bits in a value.",
    decide=bitfield,
)(handler_of(bitfield))

COMMANDS.command(
    "getbit",
    arity=3,
    access="read",
    keys=ONE_KEY,
    operation="get",
    group="bitmap",
    flags=("fast",),
    categories=("bitmap",),
    since="2.2.0",
    summary="Returns the bit at an offset of a value.",
    decide=bits.getbit,
)(reader_of(bits.getbit))

COMMANDS.command(
    "bitcount",
    arity=-2,
    access="read",
    keys=ONE_KEY,
    operation="get",
    group="bitmap",
    categories=("bitmap",),
    since="2.6.0",
    complexity="O(N)",
    summary="Counts the bits of a value that are set.",
    decide=bits.bitcount,
)(reader_of(bits.bitcount))

COMMANDS.command(
    "bitpos",
    arity=-3,
    access="read",
    keys=ONE_KEY,
    operation="get",
    group="bitmap",
    categories=("bitmap",),
    since="2.8.7",
    complexity="O(N)",
    summary="Finds the first bit of a value that is set, or that is clear.",
    decide=bits.bitpos,
)(reader_of(bits.bitpos))

COMMANDS.command(
    "bitfield_ro",
    arity=-2,
    access="read",
    keys=ONE_KEY,
    operation="get",
    group="bitmap",
    flags=("fast",),
    categories=("bitmap",),
    since="6.0.0",
    complexity="O(1) for each subcommand specified",
    summary="Reads integers of any number of bits in a value.",
    decide=bitfield_ro,
)(reader_of(bitfield_ro))

COMMANDS.command(
    "bitop",
    arity=-4,
    access="modify",
    keys=BEHIND_OPERATION,
    operation="put",
    group="bitmap",
    flags=("denyoom",),
    categories=("bitmap",),
    since="2.6.0",
    complexity="O(N)",
    summary="Combines the bits of values, and stores the result.",
    decide=bits.bitop,
)(handler_of(bits.bitop, BEHIND_OPERATION))
