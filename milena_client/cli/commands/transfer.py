"""Shell. Many objects in one command: a few threads, a progress bar, the results, and the failures at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from milena_client.cli.terminal.failures import common_exit_code, printable, reason
from milena_client.cli.terminal.output import Column, Row, show_bytes, show_count, show_seconds, write_raw
from milena_client.cli.terminal.session import Session
from milena_common.api.errors import MilenaError

T = TypeVar("T")

# Calls in flight at once.
_THREADS = 16
_MAX_SHOWN_FAILURES = 20


@dataclass
class Totals:
    """The progress of a command of many objects. `size` is in bytes, of the objects that are done."""

    objects: int = 0
    size: int = 0
    absent: int = 0
    failures: list[tuple[str, MilenaError | OSError]] = field(default_factory=list)

    def count(self, row: Row | None) -> None:
        """Count an item that is done; None: its object did not exist any more."""
        if row is None:
            self.absent += 1
        else:
            self.objects += 1
            self.size += row.get("size", 0)


def each(
    session: Session,
    title: str,
    items: Iterable[T],
    work: Callable[[T], Row | None],
    label: Callable[[T], str],
    columns: Sequence[Column],
    *,
    total: int | None = None,
    failures: Iterable[tuple[str, OSError]] = (),
) -> int:
    """Do `work` for every item, at most 16 at once, report it in the session's format, and return the exit code.

    `work` returns the row to report, or None for an object that does not exist any more. raw is a line of `columns`
    for each row as it is done; json a document with the totals; table a sentence with the totals. All go to stdout.

    A failure (MilenaError, OSError) ends only its own item; it is a line on stderr, after the bar. `failures` are
    those that happened before. The bar is on stderr, and only if that is a terminal. On KeyboardInterrupt the
    totals until then are printed on stderr.
    """
    totals = Totals(failures=[*failures])
    began = session.clock.now()
    raw = session.format == "raw"
    try:
        with _bar() as bar:
            task = bar.add_task(title, total=total)
            for item, future in _in_threads(items, work):
                try:
                    row = future.result()
                except (MilenaError, OSError) as error:
                    totals.failures.append((label(item), error))
                else:
                    totals.count(row)
                    if raw and row is not None:
                        write_raw(columns, [row])
                bar.advance(task)
    except KeyboardInterrupt:
        if totals.objects:
            click.echo(f"milena: interrupted; {_sentence(title, totals, session, began, columns)}", err=True)
        raise
    except (MilenaError, OSError):
        # The items come from a listing, which can fail between two of them; a reader can go away.
        _write_failures(totals)
        if totals.objects:
            click.echo(f"milena: ended early; {_sentence(title, totals, session, began, columns)}", err=True)
        raise
    _write_failures(totals)
    if session.format == "table":
        click.echo(_sentence(title, totals, session, began, columns))
    elif session.format == "json":
        click.echo(json.dumps(_document(title, totals, session, began, columns)))
    return common_exit_code(failed for _, failed in totals.failures)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        redirect_stdout=False,
    )


def _has_size(columns: Sequence[Column]) -> bool:
    return any(column.name == "size" for column in columns)


def _sentence(title: str, totals: Totals, session: Session, began: float, columns: Sequence[Column]) -> str:
    parts = [f"{title}: {show_count(totals.objects)} object{'s' * (totals.objects != 1)}"]
    if _has_size(columns):
        parts.append(show_bytes(totals.size))
    parts.append(show_seconds(session.clock.now() - began))
    if totals.absent:
        parts.append(f"{show_count(totals.absent)} listed that do not exist any more")
    if totals.failures:
        parts.append(f"{show_count(len(totals.failures))} failed")
    return ", ".join(parts)


def _document(title: str, totals: Totals, session: Session, began: float, columns: Sequence[Column]) -> Row:
    return {
        "objects": totals.objects,
        **({"bytes": totals.size} if _has_size(columns) else {}),
        "seconds": round(session.clock.now() - began, 3),
        **({"absent": totals.absent} if title == "get" else {}),
        "failed": len(totals.failures),
    }


def _write_failures(totals: Totals) -> None:
    for name, failed in totals.failures[:_MAX_SHOWN_FAILURES]:
        # An error of the system names the file itself.
        said = reason(failed).removeprefix(f"{name}: ")
        click.echo(f"milena: {printable(name)}: {printable(said)}", err=True)
    if len(totals.failures) > _MAX_SHOWN_FAILURES:
        click.echo(f"milena: and {len(totals.failures) - _MAX_SHOWN_FAILURES} more failures", err=True)


def _in_threads(items: Iterable[T], work: Callable[[T], Row | None]) -> Iterator[tuple[T, Future[Row | None]]]:
    """Yield the items with their finished futures, as they finish; few are begun before they are needed."""
    pool = ThreadPoolExecutor(_THREADS)
    pending: dict[Future[Row | None], T] = {}
    try:
        try:
            for item in items:
                pending[pool.submit(work, item)] = item
                if len(pending) == 2 * _THREADS:
                    yield from _finished(pending)
        except MilenaError:
            # The listing failed. Objects that were begun before are finished, and counted.
            while pending:
                yield from _finished(pending)
            raise
        while pending:
            yield from _finished(pending)
    finally:
        # Nothing is left to wait for, unless this was interrupted: then the calls end when their client is closed.
        pool.shutdown(wait=False, cancel_futures=True)


def _finished(pending: dict[Future[Row | None], T]) -> Iterator[tuple[T, Future[Row | None]]]:
    for future in wait(pending, return_when=FIRST_COMPLETED).done:
        yield pending.pop(future), future
