"""Pure. ACL: the users of the node, and what they may do, with Redis's subcommands and replies.

Users are in the file ACL_FILE, so SETUSER, DELUSER and SAVE are rejected: nodes whose users differ would allow on
one node what they deny on another. LOAD reads the file again at once; without it a change is noticed in seconds.
"""

from __future__ import annotations

import secrets
from typing import Any

from milena_cache.servers.resp.dispatch.command_table import CommandTable, Metadata
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.dispatch.subcommands import find
from milena_cache.servers.resp.state.context import Context
from milena_common.access.acl_log import Rejection
from milena_common.access.commands import (
    CATEGORIES,
    CATEGORIES_OF,
    is_of_cluster,
)
from milena_common.access.rules import Selector
from milena_common.api.errors import ConfigError
from milena_common.resp.encoding import OK, Raw, Simple
from milena_common.resp.redis_replies import CommandError, integer, unknown_subcommand

_ADMIN = ("admin", "noscript", "loading", "stale")
_READING = ("noscript", "loading", "stale")
MAX_GENPASS_BITS = 4096
DEFAULT_GENPASS_BITS = 256
DEFAULT_LOG_ENTRIES = 10

COMMANDS = CommandTable[Context](group="server", since="6.0.0")

COMMANDS.parent(
    "acl",
    group="server",
    since="6.0.0",
    summary="A container for Access List Control commands.",
)


@COMMANDS.command(
    "acl|whoami",
    arity=2,
    flags=_READING,
    summary="Returns the authenticated username of the current connection.",
)
def whoami(context: Context, session: Session, argv: list[bytes]) -> str:
    return session.principal.name


@COMMANDS.command(
    "acl|users",
    arity=2,
    flags=_ADMIN,
    complexity="O(N) where N is the number of users.",
    summary="Returns the names of all users.",
)
def users(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    return sorted(context.permissions.access.users)


@COMMANDS.command(
    "acl|list",
    arity=2,
    flags=_ADMIN,
    complexity="O(N) where N is the number of users.",
    summary="Returns the rules of all users, passwords as hashes.",
)
def list_(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    table = context.permissions.access.users
    return [table[name].described() for name in sorted(table)]


@COMMANDS.command(
    "acl|getuser",
    arity=3,
    flags=_ADMIN,
    complexity="O(N) where N is the number of rules.",
    usage="<username>",
    summary="Returns the rules of a user.",
)
def getuser(context: Context, session: Session, argv: list[bytes]) -> dict[str, Any] | None:
    user = context.permissions.access.users.get(_name(argv[2]))
    if user is None:
        return None
    root, *others = user.selectors
    described: dict[str, Any] = {
        "flags": {Simple(flag) for flag in user.flags()},
        "passwords": list(user.passwords),
        **_selector(root),
        "selectors": [_selector(each) for each in others],
    }
    if user.rate:
        described["rate"] = int(user.rate)
    if user.bytes_rate:
        described["bytes"] = int(user.bytes_rate)
    return described


def _selector(selector: Selector) -> dict[str, Any]:
    return {
        "commands": " ".join(selector.command_rules),
        "keys": " ".join(selector.key_rules()),
        "channels": " ".join(selector.channel_rules()),
    }


@COMMANDS.command(
    "acl|cat",
    arity=-2,
    flags=_READING,
    usage="[<category>]",
    summary="Returns the categories of commands, or the commands of one.",
)
def cat(context: Context, session: Session, argv: list[bytes]) -> list[str]:
    if len(argv) > 3:
        raise unknown_subcommand("acl", argv[1])
    if len(argv) == 2:
        return list(CATEGORIES)
    category = argv[2].decode(errors="replace").lower()
    if category not in CATEGORIES:
        raise CommandError(f"ERR Unknown category '{category[:128]}'")
    return sorted(name for name, categories in CATEGORIES_OF.items() if category in categories)


@COMMANDS.command(
    "acl|log",
    arity=-2,
    flags=_ADMIN,
    usage="[<count> | RESET]",
    summary="Returns the latest rejections, or removes them.",
)
def log(context: Context, session: Session, argv: list[bytes]) -> Any:
    found = context.permissions.access.log
    if len(argv) > 3:
        raise unknown_subcommand("acl", argv[1])
    if len(argv) == 3 and argv[2].upper() == b"RESET":
        found.remove_all()
        return Raw(OK)
    number = integer(argv[2]) if len(argv) == 3 else DEFAULT_LOG_ENTRIES
    now = context.clock.wall()
    return [_logged(entry, now) for entry in list(found.entries)[: max(0, number)]]


def _logged(entry: Rejection, now: float) -> dict[str, Any]:
    return {
        "count": entry.count,
        "reason": entry.reason,
        "context": "toplevel",
        "object": entry.what,
        "username": entry.user,
        "age-seconds": f"{now - entry.updated_at:.3f}",
        "client-info": entry.client,
        "entry-id": entry.number,
        "timestamp-created": int(entry.created_at * 1000),
        "timestamp-last-updated": int(entry.updated_at * 1000),
    }


@COMMANDS.command(
    "acl|dryrun",
    arity=-4,
    flags=_ADMIN,
    usage="<username> <command> [<arg> ...]",
    summary="Returns OK if a user may run a command, or why not; the command is not carried out.",
)
def dryrun(context: Context, session: Session, argv: list[bytes]) -> Any:
    user = context.permissions.access.users.get(_name(argv[2]))
    if user is None:
        raise CommandError(f"ERR User '{_name(argv[2])[:128]}' not found")
    requested = argv[3:]
    command = find(context.commands, requested)
    if command is None:
        raise CommandError(f"ERR Command '{requested[0][:128].decode(errors='replace')}' not found")
    if not command.accepts(len(requested)):
        raise CommandError(f"ERR wrong number of arguments for '{command.name}' command")
    permissions = context.permissions
    if is_of_cluster(command.name) or not user.may_run(command.name):
        return f"User {user.name} has no permissions to run the '{command.name}' command"
    if (channel := user.denied_channel(command.name, requested)) is not None:
        return f"User {user.name} has no permissions to access the '{channel.decode(errors='replace')}' channel"
    keys = command.keys_in(requested)
    if not user.allows(
        command.name, permissions.need(command, requested), [permissions.named(key) for key in keys]
    ):
        shown = next((key for key in keys if not permissions.allows_one(user, command, requested, key)), keys[0])
        return f"User {user.name} has no permissions to access the '{shown.decode(errors='replace')}' key"
    return Raw(OK)


@COMMANDS.command(
    "acl|genpass",
    arity=-2,
    flags=_READING,
    usage="[<bits>]",
    summary="Returns a random password.",
)
def genpass(context: Context, session: Session, argv: list[bytes]) -> str:
    if len(argv) > 3:
        raise unknown_subcommand("acl", argv[1])
    bits = integer(argv[2]) if len(argv) == 3 else DEFAULT_GENPASS_BITS
    if not 0 < bits <= MAX_GENPASS_BITS:
        raise CommandError(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to "
            f"{MAX_GENPASS_BITS}"
        )
    digits = (bits + 3) // 4
    return secrets.token_hex((digits + 1) // 2)[:digits]


@COMMANDS.command(
    "acl|load",
    arity=2,
    flags=_ADMIN,
    complexity="O(N) where N is the number of users.",
    summary="Reads the file of users again.",
)
def load(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Read the file of users again. Raises CommandError with every wrong line, and the users stay as they are."""
    access = context.permissions.access
    if access.load is None:
        raise CommandError("ERR This Milena node is not configured to use an ACL file: set ACL_FILE")
    try:
        access.load()
    except ConfigError as error:
        raise CommandError(f"ERR {'; '.join(error.problems)}. The users stay as they were") from None
    return Raw(OK)


_REJECTED: Metadata[Context] = {
    "flags": _ADMIN,
    "usage": "...",
    "summary": "Is rejected: users are in the file ACL_FILE.",
}


@COMMANDS.command("acl|save", arity=2, **_REJECTED)
@COMMANDS.command("acl|deluser", arity=-3, **_REJECTED)
@COMMANDS.command("acl|setuser", arity=-3, **_REJECTED)
def change_users(context: Context, session: Session, argv: list[bytes]) -> Any:
    """Raise the error for a subcommand that would change users on this node alone."""
    raise CommandError(
        f"ERR ACL {argv[1].decode().upper()} is not possible: users are in the file ACL_FILE, the same for all "
        "nodes and routers. Change it there: they notice it in seconds, or at once with ACL LOAD"
    )


def _name(word: bytes) -> str:
    return word.decode(errors="surrogateescape")
