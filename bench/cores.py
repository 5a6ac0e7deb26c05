"""Shell. Processor cores: what is measured has one to itself, what it is measured with has the others.

Two servers that are compared would else be given different shares of the machine by chance, and a server that is
one thread would be compared with one that has helpers on other cores.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.case import Samples


@contextmanager
def apart(measured: Iterable[int], around: Iterable[int]) -> Iterator[None]:
    """While it lasts, the processes `measured` share one core; `around`, this one and what it starts the others.

    Both are numbers of processes. Without a second core, or a system that can be told such things, nothing is
    done.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) < 2:
        yield
        return
    one, others = [*measured], [*around, os.getpid()]
    try:
        for pid in one:
            _keep(pid, cores[:1])
        for pid in others:
            _keep(pid, cores[1:])
        yield
    finally:
        for pid in (*one, *others):
            _keep(pid, cores)


def processor_seconds(pid: int) -> float:
    """What all threads of the process `pid` have used so far, in the system and out of it. Raises OSError.

    On Linux alone. The tables in /proc are 10 ms out, which is much of a short round.
    """
    return time.clock_gettime(_clock_of(pid))


def with_processor_times(servers: Mapping[str, int], run: Callable[[], Samples]) -> Samples:
    """Run, and add the processor time per call in microseconds: `NAME_us` of the servers, given as name and pid.

    `load_us` is that of this process and of the processes that ended meanwhile, their starts included. `run` gives
    the number of `calls`, which is left out of the result; without it nothing is added.
    """
    before = {name: processor_seconds(pid) for name, pid in servers.items()}
    own = _own_seconds()
    samples = run()
    spent = {name: processor_seconds(pid) - before[name] for name, pid in servers.items()}
    spent["load"] = _own_seconds() - own
    calls = samples.get("calls")
    if calls is None:
        return samples
    per_call = {f"{name}_us": seconds / calls * 1e6 for name, seconds in spent.items()}
    return {name: value for name, value in samples.items() if name != "calls"} | per_call


def _own_seconds() -> float:
    finished = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + finished.ru_utime + finished.ru_stime


def _clock_of(pid: int) -> int:
    """clock_getcpuclockid(3), which Python does not have."""
    return ~pid << 3 | 2


def _keep(pid: int, cores: list[int]) -> None:
    """All threads of the process `pid`; the threads and processes that they start stay with them."""
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # it ended
                os.sched_setaffinity(int(thread.name), cores)
