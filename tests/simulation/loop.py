"""Coordination. An event loop whose time is virtual and whose processes can be paused and killed.

Time moves to the next timer when nothing is ready, and by STEP with every round, so that code that waits for time
to pass in a busy loop comes to its end. Nothing is random here: the same callbacks run in the same order.

Each callback belongs to the process in whose context it was scheduled. While that is paused its callbacks are kept,
timers that become due among them; they run when it goes on, as after SIGCONT. Those of a process that was killed
never run. Its unfinished coroutines are kept until the end of the run (the garbage collector is off, see `run`):
their `finally` blocks, which no killed process runs, would otherwise be executed whenever they are collected.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

# Virtual seconds that a round of the loop takes.
STEP = 1e-6
# Rounds after which a run is taken for an endless loop.
MAX_ROUNDS = 20_000_000


class Process:
    """A simulated process on the machine `host`. `context`: callbacks in it, and what they start, belong to it."""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = host
        self.paused = False
        self.killed = False
        self.kept: deque[asyncio.Handle] = deque()
        self.on_kill: list[Callable[[], None]] = []
        self.context: Context = copy_context()
        self.context.run(PROCESS.set, self)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def here() -> Process:
    """Return the process of the running callback."""
    process = PROCESS.get()
    assert process is not None, "this callback belongs to no process"
    return process


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. `errors`: the exceptions that no one handled, as text."""

    # Of the base class; not in its type stubs.
    _ready: deque[asyncio.Handle]

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        # Time, number, and what is due then: timers of one time in the order in which they were set.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._set = 0
        self.rounds = 0
        self.errors: list[str] = []
        self.closing = False
        self.connect: Callable[..., Coroutine[Any, Any, Any]]
        self.serve: Callable[..., Any]
        self.set_exception_handler(self._unhandled)

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        now = self._now + STEP
        if not ready:
            while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
                heapq.heappop(timers)
            if not timers:
                raise RuntimeError("nothing is ready and no timer is set: the simulation waits for ever")
            now = max(now, timers[0][0])
        self._now = now
        while timers and timers[0][0] <= now:
            ready.append(heapq.heappop(timers)[2])
        self.rounds += 1
        if self.rounds > MAX_ROUNDS:
            raise RuntimeError(f"the simulation has not finished after {MAX_ROUNDS} rounds")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:  # type: ignore[attr-defined]
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is not None and (process.paused or process.killed):
                process.kept.append(handle)
                continue
            handle._run()

    def pause(self, process: Process) -> None:
        """Stop the process; what is sent to it waits."""
        process.paused = True

    def resume(self, process: Process) -> None:
        """Let a paused process go on."""
        if process.paused and not process.killed:
            process.paused = False
            self._ready.extend(process.kept)
            process.kept.clear()

    def kill(self, process: Process) -> None:
        """End the process at once: none of its callbacks runs any more."""
        process.killed = True
        for each in process.on_kill:
            each()

    def finish(self) -> None:
        """Discard everything that is left, so that no coroutine goes on after the run."""
        self.closing = True
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for task in asyncio.all_tasks(self):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                try:
                    task.get_coro().close()  # type: ignore[union-attr]
                except (RuntimeError, ValueError, StopIteration):
                    continue
        finally:
            sys.unraisablehook = hook
        self._ready.clear()
        self._timers.clear()
        self.close()

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        if self.closing:
            handle = asyncio.Handle(callback, args, self, context)
            handle.cancel()
            return handle
        # Without the checks of the base class, which take a third of the time of a simulation's loop.
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, timer))
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call `func` at once, in no thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return await self.connect(protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return self.serve(protocol_factory, host, port)

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not self.closing:
            error = context.get("exception")
            self.errors.append(f"{context.get('message')}: {type(error).__name__} {error}")
