from __future__ import annotations

from typing import Any, cast

import pytest

from milena_cache.servers.resp.dispatch.command import ONE_KEY
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_common.resp.redis_replies import CommandError


def reply(context: None, session: Session, argv: list[bytes]) -> int:
    return len(argv)


def test_a_described_function_is_the_handler_itself() -> None:
    table = CommandTable[None]()
    assert table.command("ping", arity=1)(reply) is reply
    (command,) = table
    assert command.handler is reply
    assert (command.name, command.arity, command.access, command.group) == ("ping", 1, "none", "generic")


def test_fields_are_shared_by_the_commands_of_a_table_that_give_no_other_value() -> None:
    table = CommandTable[None](group="string", flags=("fast",), keys=ONE_KEY)
    table.command("get", arity=2)(reply)
    table.command("set", arity=-3, flags=("denyoom",), group="generic")(reply)
    get, set_ = table
    assert (get.group, get.flags, get.keys) == ("string", ("fast",), ONE_KEY)
    assert (set_.group, set_.flags, set_.keys) == ("generic", ("denyoom",), ONE_KEY)


def test_a_parent_has_no_behaviour_of_its_own() -> None:
    table = CommandTable[None](flags=("admin",))
    table.parent("config", group="server")
    (config,) = table
    assert (config.arity, config.flags, config.group) == (-2, (), "server")
    with pytest.raises(CommandError, match="wrong number of arguments for 'config' command"):
        config.handler(None, cast(Any, None), [b"CONFIG"])
