"""Pure. The commands that a script calls, on the objects that it has declared: each sees what those before it did.

They decide upon `Values`, as the commands of a transaction do; what they have changed is written together when the
script has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from milena_cache.servers.resp.decisions.values import Values
from milena_cache.servers.resp.dispatch.admission import check_transaction
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.subcommands import find
from milena_common.resp.encoding import Simple
from milena_common.resp.redis_replies import CommandError

# Bytes of the values that one script leaves changed.
MAX_WRITTEN_BYTES: Final = 32 * 2**20


class ScriptCalls:
    """The calls of one run. `cache_key` returns the cache key of the object that a script calls by a name.

    `read_only`: calls that write are rejected (EVAL_RO).

    exceeded: True if it has left more than MAX_WRITTEN_BYTES changed: nothing of it may be written
    """

    def __init__(
        self,
        commands: Mapping[bytes, Command[Any]],
        values: Values,
        cache_key: Callable[[bytes], bytes],
        *,
        read_only: bool = False,
    ) -> None:
        self._commands = commands
        self._values = values
        self._cache_key = cache_key
        self._read_only = read_only
        self._sizes: dict[bytes, int] = {}
        self._written = 0
        self.exceeded = False

    def call(self, argv: list[bytes]) -> Any:
        """Return the reply to a command. Raises CommandError and MilenaError, which are replies too."""
        command = find(self._commands, argv)
        if command is None:
            raise CommandError("ERR Unknown Redis command called from script")
        if not command.accepts(len(argv)):
            raise CommandError("ERR Wrong number of args calling Redis command from script")
        if not command.has_keys or command.decide_in is not None:
            return self._without_keys(command.name, argv)
        check_transaction(command, argv)
        if self._read_only and command.access != "read":
            raise CommandError("ERR Write commands are not allowed from read-only scripts.")
        assert command.decide is not None
        named = command.positions(argv)
        argv = list(argv)
        for at in named:
            argv[at] = self._cache_key(argv[at])
            if not self._values.has(argv[at]):
                raise CommandError("ERR Script attempted to access a key that it does not declare")
        if self.exceeded:
            raise CommandError(f"ERR the script writes more than {MAX_WRITTEN_BYTES} bytes")
        reply = command.decide(self._values, argv)
        if command.access != "read":
            self._count(argv[at] for at in named)
        return reply

    def _without_keys(self, name: str, argv: list[bytes]) -> Any:
        if name == "ping" and len(argv) == 1:
            return Simple("PONG")
        if name == "echo":
            return argv[1]
        if name == "time":
            seconds, milliseconds = divmod(self._values.now_ms, 1000)
            return [b"%d" % seconds, b"%d" % (milliseconds * 1000)]
        raise CommandError("ERR This Redis command is not allowed from script")

    def _count(self, keys: Any) -> None:
        for key in keys:
            size = len(self._values.value_of(key) or b"")
            self._written += size - self._sizes.get(key, 0)
            self._sizes[key] = size
        self.exceeded = self._written > MAX_WRITTEN_BYTES
