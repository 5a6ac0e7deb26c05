"""Pure. The registry: every command of the RESP server, by name in upper case.

A command exists if its module is listed here; `docs/protocol.md` lists the same commands, held by a test.
"""

from __future__ import annotations

from collections.abc import Mapping

from milena_cache.servers.resp.commands.connection import (
    acl,
    client,
    handshake,
    publishing,
    replication,
    subscriptions,
    transactions,
)
from milena_cache.servers.resp.commands.connection import client_tracking as tracking_commands
from milena_cache.servers.resp.commands.connection import milena_exec as executing
from milena_cache.servers.resp.commands.connection import milena_hello as identity
from milena_cache.servers.resp.commands.data import (
    all_keys,
    expiry,
    hot_keys,
    keyspace,
    renaming,
    scan,
    scripting,
    strings,
    updates,
)
from milena_cache.servers.resp.commands.data import milena_all as all_nodes
from milena_cache.servers.resp.commands.data import refresh as refreshing
from milena_cache.servers.resp.commands.server import (
    cluster,
    command_docs,
    info,
    latency,
    server,
    slowlog,
)
from milena_cache.servers.resp.commands.server import config as config_commands
from milena_cache.servers.resp.commands.server import memory as memory_commands
from milena_cache.servers.resp.commands.server import milena_block as blocks
from milena_cache.servers.resp.commands.server import milena_call as call
from milena_cache.servers.resp.commands.server import milena_copies as copying
from milena_cache.servers.resp.commands.server import milena_handover as handing_over
from milena_cache.servers.resp.commands.server import milena_listing as listing
from milena_cache.servers.resp.commands.server import milena_promise as promising
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.subcommands import assembled
from milena_cache.servers.resp.state.context import Context

MODULES = (
    all_keys,
    all_nodes,
    strings,
    updates,
    keyspace,
    renaming,
    expiry,
    scan,
    scripting,
    acl,
    blocks,
    call,
    client,
    cluster,
    command_docs,
    config_commands,
    copying,
    executing,
    handing_over,
    handshake,
    hot_keys,
    identity,
    info,
    latency,
    listing,
    memory_commands,
    promising,
    publishing,
    refreshing,
    replication,
    server,
    slowlog,
    subscriptions,
    tracking_commands,
    transactions,
)


def command_registry() -> Mapping[bytes, Command[Context]]:
    """Return all commands by name in upper case, with their subcommands."""
    return assembled(command for module in MODULES for command in module.COMMANDS)
