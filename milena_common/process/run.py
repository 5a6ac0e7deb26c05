"""Shell. The frame of both processes: read the environment, set up logs, handle signals, choose an exit code.

Exit codes: 0 after a clean stop, 1 if the process cannot run (a port in use), 2 if the environment is invalid; or
the code that the process's own work returns.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import uvloop
from dotenv import dotenv_values

from milena_common.api.errors import ConfigError
from milena_common.limits.open_files import allow_files
from milena_common.network.addresses import Port
from milena_common.network.listening import CannotListen, check_none_in_use
from milena_common.process import logs
from milena_common.process.env import Environment
from milena_common.process.native_log import NativeLog

log = logging.getLogger(__name__)

# By default Python looks for reference cycles after every 700 new objects. Requests allocate objects and leave no
# cycles, and the search would be a tenth of a write's cost.
GC_THRESHOLD = (50_000, 20, 100)


class ProcessSettings(Protocol):
    """The part of a configuration that every process has."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...
    @property
    def ports(self) -> Sequence[Port]: ...
    @property
    def library_variables(self) -> Mapping[str, str]:
        """Variables that libraries have to find in the environment when they are imported."""


Config = TypeVar("Config", bound=ProcessSettings)


def environment() -> Environment:
    """Return the process's environment, with `.env` of the working directory as default: a real variable wins.

    Raises ConfigError if `.env` cannot be read.
    """
    try:
        from_file = {name: value or "" for name, value in dotenv_values(Path(".env"), interpolate=False).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f".env: cannot be read: {error}"]) from None
    # An empty variable does not hide one of the file.
    return Environment(
        {name: value for name, value in os.environ.items() if value.strip() or not from_file.get(name)}
        | {name: value for name, value in from_file.items() if not os.environ.get(name, "").strip()}
    )


@contextmanager
def no_cycle_search() -> Iterator[None]:
    """Search for no reference cycles while the body runs, and never among the objects that exist at its end.

    For a start that creates a million objects without cycles: the search takes a sixth of its time, and a later one
    would stop the event loop for a second. The objects are still freed when the last reference to them is gone.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run(
    name: str,
    load: Callable[[Environment], Config],
    serve: Callable[[Config, asyncio.Event], Awaitable[int | None]],
) -> int:
    """Run `serve` until SIGTERM or SIGINT sets its event, and return the process's exit code (None means 0).

    `load` and `serve` may raise ConfigError, `serve` CannotListen.
    """
    try:
        config = load(environment())
        _start_with(config.library_variables)
        logs.set_up(config.log_level, config.log_format)
        check_none_in_use(config.ports)
        allow_files()
        gc.set_threshold(*GC_THRESHOLD)
        native_log = NativeLog()
        native_log.start()
        try:
            return uvloop.run(_until_signal(serve, config)) or 0
        finally:
            native_log.close()
    except ConfigError as error:
        for problem in error.problems:
            print(f"{name}: {problem}", file=sys.stderr)
        return 2
    except CannotListen as error:
        for problem in str(error).splitlines():
            print(f"{name}: {problem}", file=sys.stderr)
        return 1


def _start_with(variables: Mapping[str, str]) -> None:
    """Start this program again, in this process, if its environment does not have these variables."""
    if any(os.environ.get(name) != value for name, value in variables.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **variables})


def leave(code: int) -> NoReturn:
    """End the process now, after flushing its output.

    A normal exit would wait for threads with requests to S3 in progress, longer than a stop may take.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _until_signal(
    serve: Callable[[Config, asyncio.Event], Awaitable[int | None]], config: Config
) -> int | None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(received: signal.Signals) -> None:
        if stop.is_set() and received is signal.SIGINT:
            log.warning("second interrupt: stopping at once")
            os._exit(130)
        log.info("%s received: stopping", received.name)
        stop.set()

    def ignored(received: signal.Signals) -> None:
        log.warning("%s received: ignored; the configuration is read at the start, SIGTERM stops", received.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    # By default each of these ends the process at once, with acknowledged writes still to upload. SIGHUP comes when
    # a terminal closes, unless nohup has set it to be ignored, which is kept.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, on_signal, signal.SIGHUP)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, ignored, number)
    return await serve(config, stop)
