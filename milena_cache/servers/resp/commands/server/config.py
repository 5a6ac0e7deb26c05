"""Pure. CONFIG: the node's settings under Redis's names.

The configuration comes from the environment. CONFIG SET changes only the settings of monitoring (slow log,
latency) and the keyspace notifications, until the node stops; for all others it replies as Redis does for a setting
that cannot be changed at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from milena_cache.servers.resp.commands.server.info_sections import POLICY, totals
from milena_cache.servers.resp.dispatch.command_table import CommandTable
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.keyspace_events import flags_of
from milena_cache.servers.resp.statistics.slow_log import MAX_ENTRIES
from milena_common.access.glob import Glob
from milena_common.resp.encoding import OK, Raw
from milena_common.resp.redis_replies import SYNTAX, CommandError, integer

GREATEST = 2**63 - 1


COMMANDS = CommandTable[Context](flags=("admin", "noscript", "loading", "stale"), group="server")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting.

    value: returns its present value
    change: sets it to an integer, or to a text if it has `check`; None: it cannot be changed
    lowest, greatest: the range of that integer
    check: returns the text to set. Raises CommandError, whose text is the reason without a code word
    """

    value: Callable[[Context], object]
    change: Callable[[Context, Any], None] | None = None
    lowest: int = 0
    greatest: int = GREATEST
    check: Callable[[str], str] | None = None

    def parsed(self, text: bytes) -> int | str:
        """Parse a new value. Raises CommandError, whose text is the reason without a code word."""
        if self.check is not None:
            return self.check(text.decode(errors="replace"))
        try:
            number = integer(text)
        except CommandError:
            raise CommandError("argument couldn't be parsed into an integer") from None
        if not self.lowest <= number <= self.greatest:
            raise CommandError(f"argument must be between {self.lowest} and {self.greatest} inclusive")
        return number


def _constant(value: object) -> Setting:
    return Setting(lambda context: value)


def _set_slower_than(context: Context, number: int) -> None:
    context.slow.log.slower_than = number


def _set_max_len(context: Context, number: int) -> None:
    context.slow.log.resize(number)


def _set_threshold(context: Context, number: int) -> None:
    context.slow.latency.threshold = number


def _output_limit(context: Context) -> str:
    limit = context.config.resp_output_bytes
    return f"normal {limit} 0 0 slave {limit} 0 0 pubsub {limit} 0 0"


SETTINGS: Mapping[str, Setting] = {
    "appendfsync": _constant("always"),
    "appendonly": _constant("yes"),
    "bind": Setting(lambda context: context.config.resp.host if context.config.resp else ""),
    "client-output-buffer-limit": Setting(_output_limit),
    "cluster-enabled": _constant("yes"),
    "cluster-require-full-coverage": _constant("no"),
    "databases": _constant(1),
    "latency-monitor-threshold": Setting(lambda context: context.slow.latency.threshold, _set_threshold),
    "loglevel": Setting(lambda context: context.config.log_level),
    "maxclients": Setting(lambda context: context.config.resp_max_connections),
    "maxmemory": Setting(lambda context: context.node.memory.max_bytes),
    "maxmemory-policy": _constant(POLICY),
    "notify-keyspace-events": Setting(
        lambda context: context.keyspace_events.flags,
        lambda context, letters: context.keyspace_events.configure(letters),
        check=flags_of,
    ),
    "port": Setting(lambda context: context.config.resp.port if context.config.resp else 0),
    "proto-max-bulk-len": Setting(lambda context: context.config.max_value_bytes),
    "requirepass": _constant(""),
    "save": _constant(""),
    "slowlog-log-slower-than": Setting(lambda context: context.slow.log.slower_than, _set_slower_than, -1),
    "slowlog-max-len": Setting(lambda context: context.slow.log.max_len, _set_max_len, 0, MAX_ENTRIES),
    "timeout": Setting(lambda context: round(context.config.resp_idle)),
    "tracking-table-max-keys": Setting(lambda context: context.config.tracking_max_keys),
}


COMMANDS.parent(
    "config",
    group="server",
    since="2.0.0",
    summary="A container for configuration commands.",
)


@COMMANDS.command(
    "config|get",
    arity=-3,
    since="2.0.0",
    complexity="O(N) when N is the number of configuration parameters provided",
    usage="<pattern> [<pattern> ...]",
    summary="Returns the effective values of configuration parameters.",
)
def get(context: Context, session: Session, argv: list[bytes]) -> dict[str, str]:
    patterns = [Glob(word.lower()) for word in argv[2:]]
    return {
        name: str(setting.value(context))
        for name, setting in SETTINGS.items()
        if any(pattern.matches(name.encode()) for pattern in patterns)
    }


@COMMANDS.command(
    "config|set",
    arity=-4,
    since="2.0.0",
    complexity="O(N) when N is the number of configuration parameters provided",
    usage="<directive> <value> [<directive> <value> ...]",
    summary="Sets configuration parameters until the node stops.",
)
def set_(context: Context, session: Session, argv: list[bytes]) -> Raw:
    """Make all of the changes, or none. Raises CommandError."""
    if len(argv) % 2:
        raise CommandError(SYNTAX)
    settings: dict[str, tuple[Callable[[Context, Any], None], int | str]] = {}
    names = [word.decode(errors="replace").lower() for word in argv[2::2]]
    for name in names:
        if name not in SETTINGS:
            raise CommandError(f"ERR Unknown option or number of arguments for CONFIG SET - '{name[:128]}'")
    for name, text in zip(names, argv[3::2], strict=True):
        setting = SETTINGS[name]
        if setting.change is None:
            raise _failed(name, "can't set immutable config")
        if name in settings:
            raise _failed(name, "duplicate parameter")
        try:
            settings[name] = setting.change, setting.parsed(text)
        except CommandError as error:
            raise _failed(name, str(error)) from None
    for change, value in settings.values():
        change(context, value)
    context.slow.thresholds_changed()
    return Raw(OK)


def _failed(name: str, reason: str) -> CommandError:
    return CommandError(f"ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")


@COMMANDS.command(
    "config|resetstat",
    arity=2,
    since="2.0.0",
    summary="Resets the statistics that INFO shows.",
)
def resetstat(context: Context, session: Session, argv: list[bytes]) -> Raw:
    context.rates.restart(totals(context))
    context.stats.reset()
    return Raw(OK)


@COMMANDS.command(
    "config|rewrite",
    arity=2,
    since="2.8.0",
    summary="Returns an error: the configuration is the environment.",
)
def rewrite(context: Context, session: Session, argv: list[bytes]) -> Any:
    raise CommandError("ERR The server is running without a config file")
