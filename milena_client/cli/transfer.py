"""Shell. Many keys at once: a few threads, a progress bar, and the failures at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from milena_client.cli.failures import common_exit_code, printable, reason
from milena_common.errors import InvalidRequest, MilenaError

T = TypeVar("T")

_THREADS = 16
_SHOWN = 20


def each(
    items: Iterable[T], work: Callable[[T], None], label: Callable[[T], str], *, total: int | None, title: str
) -> int:
    """Do `work` for every item, several at once, and return the exit code.

    A failure (MilenaError, OSError) ends only its own item; it is a line on stderr, after the bar. The bar is on
    stderr, and only if that is a terminal.
    """
    failures: list[tuple[str, MilenaError | OSError]] = []
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total)
        for item, future in _in_threads(items, work):
            try:
                future.result()
            except (MilenaError, OSError) as error:
                failures.append((label(item), error))
            bar.advance(task)
    for name, failed in failures[:_SHOWN]:
        click.echo(f"milena: {printable(name)}: {printable(reason(failed))}", err=True)
    if len(failures) > _SHOWN:
        click.echo(f"milena: and {len(failures) - _SHOWN} more failures", err=True)
    return common_exit_code(failed for _, failed in failures)


def _in_threads(items: Iterable[T], work: Callable[[T], None]) -> Iterator[tuple[T, Future[None]]]:
    """The items with their finished futures, as they finish; few are begun before they are needed."""
    pool = ThreadPoolExecutor(_THREADS)
    pending: dict[Future[None], T] = {}
    try:
        for item in items:
            pending[pool.submit(work, item)] = item
            if len(pending) == 2 * _THREADS:
                yield from _finished(pending)
        while pending:
            yield from _finished(pending)
    finally:
        # Nothing is left to wait for, unless this was interrupted: then the calls end when their client is closed.
        pool.shutdown(wait=False, cancel_futures=True)


def _finished(pending: dict[Future[None], T]) -> Iterator[tuple[T, Future[None]]]:
    for future in wait(pending, return_when=FIRST_COMPLETED).done:
        yield pending.pop(future), future


def file_for(key: str, directory: Path) -> Path:
    """The file below `directory` that stands for `key`. Raises InvalidRequest for a key that names none.

    A key such as ``../../etc/passwd`` must not lead out of the directory, and ``a//b`` and ``a/b`` would share a
    file.
    """
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise InvalidRequest("this key cannot be a file name; get it by itself with -f FILE")
    return directory / key


def files_below(directory: Path) -> list[Path]:
    """All regular files below `directory`, sorted; links to directories are not followed."""
    return sorted(
        path
        for folder, _, names in os.walk(directory)
        for path in (Path(folder, name) for name in names)
        if path.is_file()
    )
