"""Shell. `warm`, `purge`, `invalidate`, `pin`, `unpin`: jobs of the nodes on all keys below a prefix."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from milena_client.admin import Admin, Swept, Warmed
from milena_client.cli.terminal.failures import FAILED, printable
from milena_client.cli.terminal.output import (
    Column,
    Row,
    show_bytes,
    show_count,
    show_seconds,
    write_json,
    write_rows,
)
from milena_client.cli.terminal.session import Session, cluster_options
from milena_common.api.errors import MilenaError

C = TypeVar("C", bound=Callable[..., None])
P = TypeVar("P", Swept, Warmed)

_SWEPT = (
    Column("changed", "ENTRIES", show_count, True),
    Column("bytes", "BYTES", show_bytes, True),
    Column("dirty", "KEPT: NOT IN S3 YET", show_count, True),
)
_WARMED = (
    Column("warmed", "WARMED", show_count, True),
    Column("bytes", "BYTES", show_bytes, True),
    Column("present", "PRESENT", show_count, True),
    Column("too_large", "TOO LARGE", show_count, True),
    Column("no_room", "NO ROOM", show_count, True),
    Column("absent", "ABSENT", show_count, True),
    Column("failed", "FAILED", show_count, True),
)


def _job_options(things: str) -> Callable[[C], C]:
    """Return what adds the options of a job on `things`, whose rate is limited."""

    def add(command: C) -> C:
        rate = click.option(
            "--rate",
            type=click.FloatRange(0, min_open=True),
            metavar="NUMBER",
            help=f"At most so many {things} a second. Default: no limit.",
        )
        dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
        return rate(dry_run(command))

    return add


@click.command()
@click.argument("prefix")
@_job_options("objects")
@cluster_options
@click.pass_obj
@click.pass_context
def warm(ctx: click.Context, session: Session, prefix: str, rate: float | None, dry_run: bool) -> None:
    """Have the nodes read all objects whose keys begin with PREFIX from S3 into their memory.

    Nothing is evicted for them: it ends where the memory is nine tenths full. An object that is not kept whole
    (over BLOCK_THRESHOLD) is left out. Exit code 1 if objects could not be read.
    """
    title = "warm (dry run)" if dry_run else "warm"
    with session.admin() as admin:
        done = _run(
            session, title, admin.warm(prefix, rate=rate, dry_run=dry_run), _warmed_sentence, lambda _: None
        )
    row = {column.name: getattr(done, column.name) for column in _WARMED}
    _write(session, title, done, row, _WARMED, _warmed_sentence)
    if done.stopped:
        click.echo(f"milena: ended after {show_count(done.listed)} objects: {done.stopped}", err=True)
    if done.failed:
        click.echo(f"milena: {show_count(done.failed)} objects failed: {printable(done.error)}", err=True)
        ctx.exit(FAILED)


@click.command()
@click.argument("prefix")
@_job_options("entries")
@cluster_options
@click.pass_obj
def purge(session: Session, prefix: str, rate: float | None, dry_run: bool) -> None:
    """Have the nodes drop what they have in memory of all keys that begin with PREFIX ('' is every key).

    The next reads go to S3, which is not touched; writes that it does not have yet are kept.
    """
    _sweep(session, "purge", Admin.purge, prefix, rate, dry_run)


@click.command()
@click.argument("prefix")
@_job_options("entries")
@cluster_options
@click.pass_obj
def invalidate(session: Session, prefix: str, rate: float | None, dry_run: bool) -> None:
    """Have S3 confirm what the nodes have in memory of keys that begin with PREFIX, before it is served again.

    As purge, but what S3 has unchanged is not transferred again, and what is in memory may be served if S3 fails.
    """
    _sweep(session, "invalidate", Admin.invalidate, prefix, rate, dry_run)


@click.command()
@click.argument("prefix")
@_job_options("entries")
@cluster_options
@click.pass_obj
def pin(session: Session, prefix: str, rate: float | None, dry_run: bool) -> None:
    """Keep what the nodes have in memory of keys that begin with PREFIX from being evicted, until unpin.

    What is read later is not pinned, nor what is written, dropped or lost with its node. At most a quarter of each
    node's memory can be pinned, and 32,768 entries: beyond that it fails, and what was pinned before stays so.
    """
    _sweep(session, "pin", Admin.pin, prefix, rate, dry_run)


@click.command()
@click.argument("prefix")
@_job_options("entries")
@cluster_options
@click.pass_obj
def unpin(session: Session, prefix: str, rate: float | None, dry_run: bool) -> None:
    """Let what was pinned of keys that begin with PREFIX be evicted again ('' is every key)."""
    _sweep(session, "unpin", Admin.unpin, prefix, rate, dry_run)


def _sweep(
    session: Session,
    name: str,
    begin: Callable[..., Iterator[Swept]],
    prefix: str,
    rate: float | None,
    dry_run: bool,
) -> None:
    title = f"{name} (dry run)" if dry_run else name
    with session.admin() as admin:
        done = _run(
            session,
            title,
            begin(admin, prefix, rate=rate, dry_run=dry_run),
            _swept_sentence,
            lambda progress: (progress.examined, progress.entries),
        )
    row = {column.name: getattr(done, column.name) for column in _SWEPT}
    _write(session, title, done, row, _SWEPT, _swept_sentence)


def _run(
    session: Session,
    title: str,
    job: Iterator[P],
    sentence: Callable[[P], str],
    share: Callable[[P], tuple[int, int] | None],
) -> P:
    """Run a job to its end, with its progress on stderr if that is a terminal, and return how it ended.

    `share` returns how much of how much is done; None if that is unknown. If it fails, or is interrupted, how far
    it came is said on stderr.
    """
    began = session.clock.now()
    progress: P | None = None
    try:
        with _bar() as bar:
            task = bar.add_task(title, total=None, detail="")
            for progress in job:
                done, total = share(progress) or (None, None)
                bar.update(task, completed=done, total=total, detail=sentence(progress))
    except (KeyboardInterrupt, MilenaError) as error:
        how = "interrupted" if isinstance(error, KeyboardInterrupt) else "ended early"
        seconds = show_seconds(session.clock.now() - began)
        came = sentence(progress) if progress is not None else "nothing is known to be done"
        click.echo(f"milena: {how}; {title}: {came}, {seconds}", err=True)
        raise
    finally:
        close = getattr(job, "close", None)
        if close is not None:
            close()
    assert progress is not None
    return progress


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        redirect_stdout=False,
    )


def _write(
    session: Session, title: str, done: P, row: Row, columns: tuple[Column, ...], sentence: Callable[[P], str]
) -> None:
    if session.format == "json":
        write_json({**row, **_more(done)})
    elif session.format == "raw":
        write_rows("raw", columns, [row])
    else:
        click.echo(f"{title}: {sentence(done)}")


def _more(done: Swept | Warmed) -> Row:
    """Return what JSON has besides the columns."""
    if isinstance(done, Warmed):
        return {"listed": done.listed, "stopped": done.stopped, "error": done.error, "nodes": dict(done.nodes)}
    return {"nodes": {address: part.changed for address, part in done.nodes.items()}}


def _swept_sentence(done: Swept) -> str:
    nodes = f" at {len(done.nodes)} nodes" if len(done.nodes) > 1 else ""
    unfinished = sum(not part.done for part in done.nodes.values())
    parts = [f"{show_count(done.changed)} entries of {show_bytes(done.bytes)}{nodes}"]
    if unfinished:
        parts.append(f"{unfinished} not finished")
    if done.dirty:
        parts.append(f"{show_count(done.dirty)} objects kept that are not in S3 yet")
    return ", ".join(parts)


def _warmed_sentence(done: Warmed) -> str:
    parts = [f"{show_count(done.warmed)} objects of {show_bytes(done.bytes)}"]
    for number, what in (
        (done.present, "in memory already"),
        (done.too_large, "too large"),
        (done.no_room, "without room in memory"),
        (done.absent, "not there any more"),
        (done.failed, "failed"),
    ):
        if number:
            parts.append(f"{show_count(number)} {what}")
    return ", ".join(parts)
