"""Shell. `get --recursive` and `rm --recursive`: all objects whose keys begin with a prefix, as they are listed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from milena_client.cli.commands.local_files import file_for, make_directory, relative_to_prefix, write_file
from milena_client.cli.commands.transfer import each
from milena_client.cli.terminal.failures import FAILED, NOT_FOUND, printable
from milena_client.cli.terminal.output import Column, Row, show_bytes, show_count
from milena_client.cli.terminal.session import Session
from milena_client.core.limits import FLUSH_TIMEOUT
from milena_client.core.values import ObjectInfo
from milena_client.sync.client import Milena
from milena_common.api.errors import MilenaError

FETCHED = (
    Column("key", "KEY"),
    Column("size", "SIZE", show_bytes, True),
    Column("file", "FILE"),
)
REMOVED = (Column("key", "KEY"),)

# Objects that are counted for the confirmation prompt; a listing of more would delay it.
_MAX_COUNTED = 1000


def fetch(client: Milena, key: str, name: str, directory: Path) -> Row | None:
    """Get `key` into the file `name` below `directory`, and return its row; None if there is no such key.

    Raises MilenaError, OSError.
    """
    path = file_for(name, directory)
    value = client.get(key)
    if value is None:
        return None
    write_file(path, value, directory)
    return {"key": key, "size": len(value), "file": str(path)}


def get_recursive(session: Session, prefix: str, directory: Path) -> int:
    """Get all objects whose keys begin with `prefix` into files below `directory`; return the exit code."""
    with session.client() as client:

        def work(item: ObjectInfo) -> Row | None:
            name = relative_to_prefix(item.key, prefix)
            if item.size == 0 and (not name or name.endswith("/")):
                # Consoles make such an object to show a folder.
                folder = file_for(name.removesuffix("/"), directory) if name else directory
                make_directory(folder, directory)
                return {"key": item.key, "size": 0, "file": f"{folder}/"}
            return fetch(client, item.key, name, directory)

        incomplete = _list_all_written(session, client)
        first, rest = _first(client.scan(prefix), 1)
        if not first:
            click.echo(f"milena: no key begins with {printable(repr(prefix))}", err=True)
            return NOT_FOUND
        return each(session, "get", chain(first, rest), work, _key, FETCHED) or incomplete


def rm_recursive(session: Session, prefix: str, yes: bool, delete: Callable[[Milena, str], Any]) -> int:
    """Delete all objects whose keys begin with `prefix`, after a question unless `yes`; return the exit code."""
    if not prefix:
        raise click.UsageError("rm --recursive wants a PREFIX that is not empty: every key begins with that one")
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("rm --recursive deletes in S3 too, and wants --yes where it cannot ask")
    with session.client() as client:

        def work(item: ObjectInfo) -> Row:
            delete(client, item.key)
            return {"key": item.key}

        incomplete = _list_all_written(session, client)
        items: Iterator[ObjectInfo] = client.scan(prefix)
        if not yes:
            first, items = _first(items, _MAX_COUNTED + 1)
            if first:
                _confirm(first, prefix)
            items = chain(first, items)
        return each(session, "rm", items, work, _key, REMOVED) or incomplete


def _key(item: ObjectInfo) -> str:
    return item.key


def _first(items: Iterator[ObjectInfo], limit: int) -> tuple[list[ObjectInfo], Iterator[ObjectInfo]]:
    return [*islice(items, limit)], items


def _confirm(first: list[ObjectInfo], prefix: str) -> None:
    if len(first) > _MAX_COUNTED:
        which = f"more than {show_count(_MAX_COUNTED)} objects"
    else:
        which = f"{len(first)} object{'s' * (len(first) != 1)}, {show_bytes(sum(item.size for item in first))},"
    shown = printable(repr(first[0].key))
    click.confirm(
        f"Delete {which} whose keys begin with {printable(repr(prefix))} (the first is {shown}), in S3 too?",
        abort=True,
        err=True,
    )


def _list_all_written(session: Session, client: Milena) -> int:
    """Wait until S3 has all earlier writes; return FAILED, with a message, if its listing may be incomplete.

    It waits for --timeout, by default as long as `writeback flush`.
    """
    try:
        flushed = client.flush(timeout=session.timeout or FLUSH_TIMEOUT)
    except MilenaError as error:
        problem = str(error)
    else:
        left = flushed.remaining + flushed.failed
        problem = f"{show_count(left)} writes are not in S3" if left else ""
    if not problem:
        return 0
    click.echo(f"milena: what S3 does not have yet may be missing from the listing: {printable(problem)}", err=True)
    return FAILED
