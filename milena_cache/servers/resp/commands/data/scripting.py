"""Coordination. EVAL, EVALSHA, their read-only forms, SCRIPT: scripts in Lua, functions of the keys they declare.

All declared keys are read, the script runs in a sandbox (`scripts`), where its commands decide upon what those
before them have made of the keys, and the result is written by one commit, as that of a transaction. The script has
no effect but that, so it runs again where a write's condition failed.

An error that a script raises leaves the writes before it done, as in Redis; a script that is stopped, because it
exceeds a bound, leaves nothing done, nor does the transaction that it is in.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from milena_cache.reads.read_modify_write import Decided
from milena_cache.servers.resp.commands.data.deciding import decide_on, values_of
from milena_cache.servers.resp.decisions.values import Decision, NothingDone, Values
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.scripts.calls import MAX_WRITTEN_BYTES, ScriptCalls
from milena_cache.servers.resp.scripts.sandbox import ScriptStopped
from milena_cache.servers.resp.state.context import Context
from milena_common.forwarding.numbered_keys import KEYS_OF_SCRIPT, check_number_of_keys
from milena_common.forwarding.routing import in_protocol
from milena_common.forwarding.scripts import digest_of, flushed
from milena_common.resp.command_ordering import Access
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import CommandError

COMMANDS = CommandTable[Context](group="scripting", categories=("scripting",))


def decision_in(context: Context) -> Decision:
    """Return the decision of all of them. Its reply is that of the sandbox, and it raises CommandError.

    Its arguments have the keys as the client calls them.
    """

    def decide(values: Values, argv: list[bytes]) -> Raw:
        check_number_of_keys(argv)
        sandbox = context.sandbox()
        name, source, _, *others = context.scripts.as_eval(argv)
        keys = KEYS_OF_SCRIPT.keys_in(argv)
        read_only = name.upper().endswith(b"_RO")
        calls = ScriptCalls(context.commands, values, context.cache_key, read_only=read_only)
        try:
            reply = sandbox.run(digest_of(source), source, keys, others[len(keys) :], calls.call)
        except ScriptStopped as stopped:
            raise NothingDone(f"ERR the script was stopped: {stopped}; nothing was done") from None
        if calls.exceeded:
            raise NothingDone(f"ERR the script writes more than {MAX_WRITTEN_BYTES} bytes; nothing was done")
        return reply

    return decide


def _described(access: Access, since: str) -> dict[str, Any]:
    """Return what the commands that run a script have in common."""
    return {
        "arity": -3,
        "access": access,
        "operation": "get" if access == "read" else "put",
        "flags": ("noscript", "movablekeys"),
        "since": since,
        "complexity": "Depends on the script that is executed.",
        "decide_in": decision_in,
        "numbered_keys": KEYS_OF_SCRIPT,
    }


@COMMANDS.command("eval_ro", summary="Executes a read-only server-side Lua script.", **_described("read", "7.0.0"))
@COMMANDS.command("eval", summary="Executes a server-side Lua script.", **_described("modify", "2.6.0"))
@COMMANDS.command(
    "evalsha_ro",
    summary="Executes a read-only server-side Lua script by SHA1 digest.",
    **_described("read", "7.0.0"),
)
@COMMANDS.command(
    "evalsha", summary="Executes a server-side Lua script by SHA1 digest.", **_described("modify", "2.6.0")
)
def evaluate(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Run a script, and return its reply, or an awaitable of it. Raises CommandError and MilenaError."""
    check_number_of_keys(argv)
    context.sandbox()
    argv = context.scripts.as_eval(argv)
    decide = decision_in(context)
    keys = KEYS_OF_SCRIPT.keys_in(argv)
    if not keys:
        return _replied(session, decide(values_of(context, {}), argv))
    begun = decide_on(context, argv, (3, 2 + len(keys), 1), lambda values, _: decide(values, argv))
    return _replied(session, begun.reply) if isinstance(begun, Decided) else _later(session, begun)


async def _later(session: Session, begun: Awaitable[Decided]) -> Raw:
    return _replied(session, (await begun).reply)


def _replied(session: Session, reply: Raw) -> Raw:
    """Return the reply in the client's protocol. Raises an error that the script has returned or raised."""
    if reply.startswith(b"-"):
        raise CommandError(reply[1:-2].decode(errors="replace"))
    return Raw(in_protocol(reply, session.protocol))


COMMANDS.parent(
    "script", group="scripting", since="2.6.0", summary="A container for Lua scripts management commands."
)


@COMMANDS.command(
    "script|load",
    arity=3,
    flags=("noscript",),
    since="2.6.0",
    complexity="O(N) with N being the length in bytes of the script body.",
    summary="Loads a server-side Lua script to the script cache.",
    usage="<script>",
)
def load(context: Context, session: Session, argv: list[bytes]) -> bytes:
    context.sandbox().check_source(digest_of(argv[2]), argv[2])
    return context.scripts.add(argv[2])


@COMMANDS.command(
    "script|exists",
    arity=-3,
    flags=("noscript",),
    since="2.6.0",
    complexity="O(N) with N being the number of scripts to check.",
    summary="Determines whether server-side Lua scripts exist in the script cache.",
    usage="<sha1> [<sha1> ...]",
)
def exists(context: Context, session: Session, argv: list[bytes]) -> list[int]:
    return [int(context.scripts.has(digest)) for digest in argv[2:]]


@COMMANDS.command(
    "script|flush",
    arity=-2,
    flags=("noscript",),
    since="2.6.0",
    complexity="O(N) with N being the number of scripts in cache",
    summary="Removes all server-side Lua scripts from the script cache.",
    usage="[ASYNC|SYNC]",
)
def flush(context: Context, session: Session, argv: list[bytes]) -> Raw:
    flushed(context.scripts, argv)
    return Raw(OK)
