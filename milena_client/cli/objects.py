"""Shell. Commands about objects: `get`, `put`, `rm`, `ls`."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from milena_client.cli.failures import printable
from milena_client.cli.output import Column, show_bytes, show_seconds, show_time, write_json, write_rows
from milena_client.cli.session import Session, cluster_options
from milena_client.cli.transfer import each, file_for, files_below
from milena_client.client import Milena
from milena_client.operations import not_found
from milena_common.durability import ANY_OBJECT, DURABILITIES, Durability

_ENTRY = (
    Column("key", "KEY"),
    Column("size", "SIZE", show_bytes, True),
    Column("etag", "ETAG"),
    Column("age", "AGE", show_seconds, True),
    Column("outcome", "OUTCOME"),
    Column("node", "NODE"),
    Column("dirty", "IN S3", lambda dirty: "not yet" if dirty else "yes"),
)
_WRITTEN = (
    Column("key", "KEY"),
    Column("size", "SIZE", show_bytes, True),
    Column("etag", "ETAG"),
    Column("node", "NODE"),
    Column("durability", "DURABILITY"),
)

_DURABILITY = click.option(
    "--durability",
    type=click.Choice(DURABILITIES),
    help="When to say that it is done: the node's journal has it (back), S3 has it (through), or the node's memory "
    "has it, which is lossy (memory). Default: the nodes' WRITE_MODE.",
)
_IF_MATCH = click.option("--if-match", metavar="ETAG", help="Only the object with this ETag, quotes included.")


@click.command()
@click.argument("keys", nargs=-1, metavar="KEY")
@click.option("-f", "--file", type=click.Path(path_type=Path), help="Write the value to this file, not to stdout.")
@click.option("--many", is_flag=True, help="Get several keys: those given, or one a line on stdin.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="With --many: where the files go.")
@cluster_options
@click.pass_obj
@click.pass_context
def get(
    ctx: click.Context,
    session: Session,
    keys: tuple[str, ...],
    file: Path | None,
    many: bool,
    directory: Path | None,
) -> None:
    """Get the value of KEY: its bytes go to stdout.

    With -o table or -o json: what is known about it (size, ETag, age, outcome, node, whether S3 has it yet); json
    has the value too, as base64. With --many each key becomes a file below --dir.
    """
    if many:
        if directory is None or file is not None:
            raise click.UsageError("--many wants --dir DIR, and goes without --file")
        ctx.exit(_get_many(session, list(keys or _lines_of_stdin()), directory))
    if len(keys) != 1 or directory is not None:
        raise click.UsageError("get takes one KEY; for several: get --many KEY... --dir DIR")
    _get_one(session, keys[0], file)


def _get_one(session: Session, key: str, file: Path | None) -> None:
    with session.client() as client:
        entry = client.get_entry(key)
    if entry is None:
        raise not_found(key)
    if file is not None:
        file.write_bytes(entry.value)
    row = {
        "key": key,
        "size": entry.size,
        "etag": entry.etag,
        "age": entry.age,
        "outcome": entry.outcome,
        "node": entry.node,
        "dirty": entry.dirty,
    }
    if session.output == "json":
        write_json(row if file else row | {"value_base64": base64.b64encode(entry.value).decode()})
    elif session.output == "table":
        write_rows("table", _ENTRY, [row])
    elif file is None:
        click.echo(entry.value, nl=False)


def _get_many(session: Session, keys: list[str], directory: Path) -> int:
    with session.client() as client:

        def fetch(key: str) -> None:
            path = file_for(key, directory)
            value = client[key]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)

        return each(keys, fetch, str, total=len(keys), title="get")


def _lines_of_stdin() -> Iterator[str]:
    if sys.stdin.isatty():
        raise click.UsageError("no KEY given, and stdin is a terminal")
    return (line.rstrip("\n") for line in sys.stdin if line.rstrip("\n"))


@click.command()
@click.argument("target", metavar="KEY|DIR")
@click.argument("file", required=False, metavar="FILE|-")
@click.option("--prefix", default="", help="With DIR: what the keys begin with.")
@_DURABILITY
@_IF_MATCH
@click.option("--if-none-match", type=click.Choice([ANY_OBJECT]), help="'*': only where there is no such object.")
@cluster_options
@click.pass_obj
@click.pass_context
def put(
    ctx: click.Context,
    session: Session,
    target: str,
    file: str | None,
    prefix: str,
    durability: Durability | None,
    if_match: str | None,
    if_none_match: str | None,
) -> None:
    """Write FILE (- for stdin) as KEY, or every file below DIR under its relative path.

    With --if-match or --if-none-match nothing is written, and the exit code is 1, if the object is another one.
    """
    if file is None:
        if not Path(target).is_dir():
            raise click.UsageError(f"{target!r} is no directory; to write one key: put KEY FILE, or put KEY -")
        if if_match is not None:
            raise click.UsageError("--if-match goes with one key")
        ctx.exit(_put_directory(session, Path(target), prefix, durability, if_none_match))
    if prefix:
        raise click.UsageError("--prefix goes with a directory")
    if file != "-" and Path(file).is_dir():
        raise click.UsageError(f"{file!r} is a directory: put {file} --prefix {target}/")
    value = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    with session.client() as client:
        written = client.set(target, value, durability=durability, if_match=if_match, if_none_match=if_none_match)
    row = {
        "key": target,
        "size": len(value),
        "etag": written.etag,
        "node": written.node,
        "durability": written.durability,
    }
    if session.format == "json":
        write_json(row)
    else:
        write_rows(session.format, _WRITTEN, [row])


def _put_directory(
    session: Session, directory: Path, prefix: str, durability: Durability | None, if_none_match: str | None
) -> int:
    files = files_below(directory)
    with session.client() as client:

        def send(path: Path) -> None:
            key = prefix + path.relative_to(directory).as_posix()
            client.set(key, path.read_bytes(), durability=durability, if_none_match=if_none_match)

        return each(files, send, str, total=len(files), title="put")


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@_DURABILITY
@_IF_MATCH
@cluster_options
@click.pass_obj
@click.pass_context
def rm(
    ctx: click.Context,
    session: Session,
    keys: tuple[str, ...],
    durability: Durability | None,
    if_match: str | None,
) -> None:
    """Delete the KEYs, in S3 too. A key that does not exist is no error, unless --if-match is given."""
    if len(keys) > 1 and if_match is not None:
        raise click.UsageError("--if-match goes with one key")
    with session.client() as client:

        def remove(key: str) -> None:
            client.delete(key, durability=durability, if_match=if_match)

        if len(keys) == 1:
            remove(keys[0])
        else:
            ctx.exit(each(keys, remove, str, total=len(keys), title="rm"))


@click.command()
@click.argument("prefix", default="")
@cluster_options
@click.pass_obj
def ls(session: Session, prefix: str) -> None:
    """List the objects whose keys begin with PREFIX, as S3 has them.

    raw is one key a line; json an array; table shows time (UTC), size and key.
    """
    with session.client() as client:
        if session.format == "json":
            _list_json(client, prefix)
            return
        for item in client.scan(prefix):
            if session.format == "raw":
                click.echo(item.key.encode())
            else:
                click.echo(f"{show_time(item.last_modified)}  {show_bytes(item.size):>9}  {printable(item.key)}")


def _list_json(client: Milena, prefix: str) -> None:
    separator = "[\n"
    for item in client.scan(prefix):
        row = {"key": item.key, "size": item.size, "etag": item.etag, "last_modified": item.last_modified}
        click.echo((separator + json.dumps(row, ensure_ascii=False)).encode(), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")
