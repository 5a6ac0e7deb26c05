"""Pure. Every command that the door knows, by name in upper case."""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.doors.redis import (
    call,
    client,
    cluster,
    command_docs,
    config_commands,
    expiry,
    greeting,
    identity,
    info,
    keyspace,
    latency,
    memory_commands,
    refreshing,
    scan,
    server,
    slowlog,
    strings,
    subscriptions,
    tracking_commands,
    transactions,
)
from milena_cache.doors.redis.command import Command
from milena_cache.doors.redis.container import assembled

MODULES = (
    strings,
    keyspace,
    expiry,
    scan,
    call,
    client,
    cluster,
    command_docs,
    config_commands,
    greeting,
    identity,
    info,
    latency,
    memory_commands,
    refreshing,
    server,
    slowlog,
    subscriptions,
    tracking_commands,
    transactions,
)


def command_table() -> Mapping[bytes, Command]:
    return assembled(command for module in MODULES for command in module.COMMANDS)
