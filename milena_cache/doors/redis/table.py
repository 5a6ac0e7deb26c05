"""Pure. Every command that the door knows, by name in upper case."""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.doors.redis import strings
from milena_cache.doors.redis.command import Command

MODULES = (strings,)


def command_table() -> Mapping[bytes, Command]:
    return {command.name.upper().encode(): command for module in MODULES for command in module.COMMANDS}
