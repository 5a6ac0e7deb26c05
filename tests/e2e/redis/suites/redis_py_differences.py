"""Pure. Tests of redis-py that pass at a Redis server and not at a node, and why. docs/protocol.md has the reasons.

Every such test is here, and none that passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# By reason: the tests, each as the end of its name, without its parameters.
DIFFERENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "values are of bytes, and of no other type": (
        *(
            "test_command_on_invalid_key_type",
            "TestRedisCommands::test_type",
            "test_scan_type",
            "test_floating_point_encoding",
        ),
        *("test_pipeline", "test_exec_error_in_response", "test_send_set_commands_over_pipeline"),
        *("test_list_encoding", "test_command_getkeysandflags", "test_send_set_commands_over_async_pipeline"),
        *("test_async_xread_exports_streaming_lag_metric", "test_async_xread_handles_empty_response"),
        "test_async_xreadgroup_exports_streaming_lag_metric_with_consumer_group",
        "test_asyncio/test_commands.py::TestRedisCommands::test_interrupted_command",
    ),
    "commands that are not listed do not exist": ("test_command_list", "test_module_list"),
    "keys are those of S3": ("test_asyncio/test_encoding.py::TestCommandsAreNotEncoded::test_basic_command",),
    "users are in a file": ("test_client_kill_filter_by_user",),
    "there is no `CLIENT PAUSE`": ("test_client_pause", "test_client_pause_all", "test_client_unpause"),
    "`CONFIG SET` changes little": ("test_config_set", "test_config_set_multi_params"),
    "`CONFIG GET` has what monitoring tools read": ("test_config_get_multi_params",),
    "`DBSIZE` and `RANDOMKEY` concern this node's memory": ("test_dbsize",),
    "there is no `OBJECT REFCOUNT`": ("test_object",),
    "there is no database but 0": (
        *("test_select", "test_copy_to_another_database"),
        "test_asyncio/test_commands.py::TestRedisCommands::test_bitfield_operations",
    ),
    "there is no `DUMP` and no `RESTORE`": (
        *("test_dump_and_restore", "test_dump_and_restore_and_replace", "test_dump_and_restore_absttl"),
        *("test_restore", "test_restore_idletime", "test_restore_frequency"),
    ),
    "there is no `MONITOR`": ("test_watch_exec_no_unwatch", "test_watch_reset_unwatch"),
    "scripts have no library but Lua's own": ("test_eval_msgpack", "test_eval_msgpack_pipeline_error_in_lua"),
}
MAX_DIFFERENCES: Final = 20


def reason_of(test: str) -> str | None:
    """Return why a test may fail at a node; None if it must not. `test`: with its file, class and parameters."""
    name = f"/{test.partition('[')[0]}"
    return next(
        (
            reason
            for reason, tests in DIFFERENCES.items()
            if any(name.endswith((f"::{each}", f"/{each}")) for each in tests)
        ),
        None,
    )


def unlisted(redis: Mapping[str, str | None], milena: Mapping[str, str | None]) -> list[str]:
    """Return what contradicts the table: tests that fail at a node only, and those of it that pass there.

    Both arguments: the error of each test, None if it passed.
    """
    lines = [f"{len(DIFFERENCES)} differences are more than {MAX_DIFFERENCES}"] * (
        len(DIFFERENCES) > MAX_DIFFERENCES
    )
    for test in [test for test, error in redis.items() if error is None]:
        error = milena.get(test, "it did not run")
        reason = reason_of(test)
        if error is not None and reason is None:
            lines.append(f"{test} fails: {error.strip().splitlines()[0][:300]}")
        elif error is None and reason is not None:
            lines.append(f"{test} passes, and is listed as a difference: {reason}")
    return lines
