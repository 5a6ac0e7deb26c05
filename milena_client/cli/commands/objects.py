"""Shell. Commands about objects: `get`, `put`, `cp`, `rm`, `ls`.

Commands of one key print their result for programs: `get` the value, `put` a row about the write, `rm` nothing.
Commands of many keys report as `milena_client.cli.commands.transfer.each` says.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from milena_client.cli.commands.local_files import files_below, write_named_file
from milena_client.cli.commands.recursive import FETCHED, REMOVED, fetch, get_recursive, rm_recursive
from milena_client.cli.commands.transfer import each
from milena_client.cli.terminal.failures import printable
from milena_client.cli.terminal.output import (
    Column,
    Row,
    show_bytes,
    show_seconds,
    show_time,
    write_json,
    write_rows,
)
from milena_client.cli.terminal.session import Session, cluster_options
from milena_client.core.operations import not_found
from milena_client.core.values import CommonPrefix, ObjectInfo, Written, encode_prefix, encode_ttl
from milena_client.sync.client import Milena
from milena_common.api.durability import ANY_OBJECT, DURABILITIES, Durability

_ENTRY = (
    Column("key", "KEY"),
    Column("size", "SIZE", show_bytes, True),
    Column("etag", "ETAG"),
    Column("age", "AGE", show_seconds, True),
    Column("outcome", "OUTCOME"),
    Column("node", "NODE"),
    Column("dirty", "IN S3", lambda dirty: "not yet" if dirty else "yes"),
    Column("ttl", "ENDS IN", lambda ttl: "never" if ttl is None else show_seconds(ttl)),
)
_WRITTEN = (
    Column("key", "KEY"),
    Column("size", "SIZE", show_bytes, True),
    Column("etag", "ETAG"),
    Column("node", "NODE"),
    Column("durability", "DURABILITY"),
)


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        raise click.BadParameter(f"got {value!r}; allowed: a number, such as 60 or 0.5", ctx, param) from None


_DURABILITY = click.option(
    "--durability",
    type=click.Choice(DURABILITIES),
    help="When to say that it is done: the node's journal has it (back), S3 has it (through), or the node's memory "
    "has it, which is lossy (memory). Default: the nodes' WRITE_MODE.",
)
_IF_MATCH = click.option("--if-match", metavar="ETAG", help="Only the object with this ETag, quotes included.")


def _range(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int | None] | None:
    """Return offset and length of a range as in HTTP: "0-99", "100-", or "-100"."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{0,18})-(\d{0,18})", value)
    first, last = (match[1], match[2]) if match else ("", "")
    if first and not last:
        return int(first), None
    if last and not first and int(last):
        return -int(last), None
    if first and last and int(first) <= int(last):
        return int(first), int(last) - int(first) + 1
    raise click.BadParameter(
        f"got {value!r}; allowed: FIRST-LAST such as 0-99, FIRST- for all from there, -N for the last N bytes",
        ctx,
        param,
    )


@click.command()
@click.argument("keys", nargs=-1, metavar="KEY|PREFIX")
@click.option("-f", "--file", type=click.Path(path_type=Path), help="Write the value to this file, not to stdout.")
@click.option(
    "--range",
    "byte_range",
    metavar="FIRST-LAST",
    callback=_range,
    help="Only these bytes, the first being 0: 0-99, or 100- for all from there, or -100 for the last 100.",
)
@click.option("--many", is_flag=True, help="Get several keys: those given, or one a line on stdin.")
@click.option("-r", "--recursive", is_flag=True, help="Get all objects whose keys begin with PREFIX.")
@click.option(
    "--to",
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="With --many and --recursive: where the files go. Files that are there are replaced.",
)
@cluster_options
@click.pass_obj
@click.pass_context
def get(
    ctx: click.Context,
    session: Session,
    keys: tuple[str, ...],
    file: Path | None,
    byte_range: tuple[int, int | None] | None,
    many: bool,
    recursive: bool,
    directory: Path | None,
) -> None:
    """Get the value of KEY: its bytes go to stdout.

    With -o table or -o json: what is known about it (size, ETag, age, outcome, node, whether S3 has it yet, after
    how many seconds it expires); json has the value too, as base64.

    With --many each key becomes a file below DIR, and with --recursive each object whose key begins with PREFIX,
    without the part of PREFIX up to its last slash: get docs/ --recursive --to out writes docs/a.md to out/a.md.
    PREFIX "" is the whole bucket. A key that cannot be a file below DIR fails, and the others continue. Then -o
    table
    gives the numbers of objects, bytes and seconds in a sentence, -o json in a document; raw is a line for each
    object: key, bytes, file.
    """
    if byte_range is not None and (many or recursive):
        raise click.UsageError("--range goes with one KEY")
    if many and recursive:
        raise click.UsageError("--many takes keys and --recursive a prefix: one of them")
    if recursive:
        if len(keys) != 1 or directory is None or file is not None:
            raise click.UsageError("--recursive wants one PREFIX and --to DIR, and goes without --file")
        encode_prefix(keys[0])
        ctx.exit(get_recursive(session, keys[0], directory))
    if many:
        if directory is None or file is not None:
            raise click.UsageError("--many wants --to DIR, and goes without --file")
        ctx.exit(_get_many(session, list(keys or _lines_of_stdin()), directory))
    if len(keys) != 1 or directory is not None:
        raise click.UsageError("get takes one KEY; for several: get --many KEY... --to DIR")
    _get_one(session, keys[0], file, byte_range)


def _get_one(session: Session, key: str, file: Path | None, byte_range: tuple[int, int | None] | None) -> None:
    with session.client() as client:
        entry = client.get_entry(key) if byte_range is None else client.get_range(key, *byte_range)
    if entry is None:
        _hint_prefix(key, "get", "--recursive --to DIR")
        raise not_found(key)
    if file is not None:
        write_named_file(file, entry.value)
    row = {
        "key": key,
        "size": entry.size,
        "etag": entry.etag,
        "age": entry.age,
        "outcome": entry.outcome,
        "node": entry.node,
        "dirty": entry.dirty,
        "ttl": entry.ttl,
    }
    if session.output == "json":
        write_json(row if file else row | {"value_base64": base64.b64encode(entry.value).decode()})
    elif session.output == "table":
        write_rows("table", _ENTRY, [row])
    elif file is None:
        click.echo(entry.value, nl=False)


def _get_many(session: Session, keys: list[str], directory: Path) -> int:
    with session.client() as client:

        def work(key: str) -> Row:
            row = fetch(client, key, key, directory)
            if row is None:
                raise not_found(key)
            return row

        return each(session, "get", keys, work, str, FETCHED, total=len(keys))


def _hint_prefix(key: str, command: str, options: str) -> None:
    """Say that a key which looks like a directory is only one key."""
    if key.endswith("/"):
        shown = printable(key)
        click.echo(f"milena: {shown} is one key; for all that begin with it: {command} {shown} {options}", err=True)


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
@click.option(
    "--ttl",
    metavar="SECONDS",
    callback=_seconds,
    help="Seconds after which the object expires. Default: it does not expire.",
)
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
    ttl: float | None,
) -> None:
    """Write FILE (- for stdin) as KEY, or every file below DIR under its relative path.

    With --if-match or --if-none-match nothing is written, and the exit code is 1, if the object is another one.

    For each object: key, bytes, ETag, the node that wrote it, and the durability class that was reached. With DIR
    that is one line each in raw; -o table gives the numbers of objects, bytes and seconds in a sentence, -o json in
    a document. Links to directories are not followed.
    """
    encode_ttl(ttl)
    if file is None:
        if Path(target).is_file():
            raise click.UsageError(
                f"the KEY is missing; to write the file under its own name: put {target} {target}"
            )
        if not Path(target).is_dir():
            raise click.UsageError(f"{target!r} is no directory; to write one key: put KEY FILE, or put KEY -")
        if if_match is not None:
            raise click.UsageError("--if-match goes with one key")
        encode_prefix(prefix)
        ctx.exit(_put_directory(session, Path(target), prefix, durability, if_none_match, ttl))
    if prefix:
        raise click.UsageError("--prefix goes with a directory")
    if file != "-" and Path(file).is_dir():
        raise click.UsageError(f"{file!r} is a directory: put {file} --prefix {target}/")
    value = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    with session.client() as client:
        written = client.set(
            target, value, durability=durability, if_match=if_match, if_none_match=if_none_match, ttl=ttl
        )
    row = _written(target, value, written)
    if session.format == "json":
        write_json(row)
    else:
        write_rows(session.format, _WRITTEN, [row])


def _written(key: str, value: bytes, written: Written) -> Row:
    return {
        "key": key,
        "size": len(value),
        "etag": written.etag,
        "node": written.node,
        "durability": written.durability,
    }


def _put_directory(
    session: Session,
    directory: Path,
    prefix: str,
    durability: Durability | None,
    if_none_match: str | None,
    ttl: float | None,
) -> int:
    files, unreadable = files_below(directory)
    with session.client() as client:

        def send(path: Path) -> Row:
            key = prefix + path.relative_to(directory).as_posix()
            value = path.read_bytes()
            written = client.set(key, value, durability=durability, if_none_match=if_none_match, ttl=ttl)
            return _written(key, value, written)

        return each(session, "put", files, send, str, _WRITTEN, total=len(files), failures=unreadable)


@click.command()
@click.argument("source", metavar="KEY")
@click.argument("target", metavar="NEW_KEY")
@_DURABILITY
@click.option("--if-none-match", type=click.Choice([ANY_OBJECT]), help="'*': only where there is no such object.")
@cluster_options
@click.pass_obj
def cp(
    session: Session, source: str, target: str, durability: Durability | None, if_none_match: str | None
) -> None:
    """Copy the object KEY to NEW_KEY, over any object that is there, without its bytes passing through here.

    S3 copies an object of more than 8 MiB, after it has got the newest write of KEY: give it a --timeout. The copy
    keeps what S3 has with the object, as its content type, and does not expire. With --if-none-match nothing is
    written, and the exit code is 1, if there is an object.

    The result is the key, the ETag, the node that wrote it, and the durability class that was reached.
    """
    with session.client() as client:
        written = client.copy(source, target, durability=durability, if_none_match=if_none_match)
    row = {"key": target, "etag": written.etag, "node": written.node, "durability": written.durability}
    if session.format == "json":
        write_json(row)
    else:
        write_rows(session.format, [column for column in _WRITTEN if column.name in row], [row])


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...|PREFIX")
@click.option("-r", "--recursive", is_flag=True, help="Delete all objects whose keys begin with PREFIX.")
@click.option("-y", "--yes", is_flag=True, help="With --recursive: do not ask.")
@_DURABILITY
@_IF_MATCH
@cluster_options
@click.pass_obj
@click.pass_context
def rm(
    ctx: click.Context,
    session: Session,
    keys: tuple[str, ...],
    recursive: bool,
    yes: bool,
    durability: Durability | None,
    if_match: str | None,
) -> None:
    """Delete the KEYs, in S3 too. A key that does not exist is no error, unless --if-match is given.

    With --recursive: all objects that are listed when it begins and whose keys begin with PREFIX; "docs" means
    docs.txt too, "docs/" does not. It asks first; without a terminal it needs --yes.

    One KEY prints nothing. Several, and --recursive: raw is a line for each key that was deleted, or was not there;
    -o table gives their number and the seconds in a sentence, -o json in a document.
    """
    if len(keys) > 1 and if_match is not None:
        raise click.UsageError("--if-match goes with one key")

    def delete(client: Milena, key: str) -> Row:
        client.delete(key, durability=durability, if_match=if_match)
        return {"key": key}

    if recursive:
        if len(keys) > 1 or if_match is not None:
            raise click.UsageError("--recursive takes one PREFIX, and goes without --if-match")
        encode_prefix(keys[0])
        ctx.exit(rm_recursive(session, keys[0], yes, delete))
    if yes:
        raise click.UsageError("--yes goes with --recursive")
    with session.client() as client:
        if len(keys) == 1:
            delete(client, keys[0])
            _hint_prefix(keys[0], "rm", "--recursive")
        else:
            ctx.exit(each(session, "rm", keys, lambda key: delete(client, key), str, REMOVED, total=len(keys)))


@click.command()
@click.argument("prefix", default="")
@click.option("-r", "--recursive", is_flag=True, help="List all objects whose keys begin with PREFIX.")
@cluster_options
@click.pass_obj
def ls(session: Session, prefix: str, recursive: bool) -> None:
    """List the objects whose keys begin with PREFIX, as S3 has them, one level at a time.

    Keys with a slash behind PREFIX are listed as the beginning that they have in common, up to and with that slash:
    ls docs/ lists docs/a.md, and docs/images/ for everything below that.

    raw is one key a line; json an array, with "prefix" in place of "key" for such a beginning; table shows time
    (UTC), size and key, or PRE.
    """
    with session.client() as client:
        items: Iterator[ObjectInfo | CommonPrefix] = client.scan(prefix) if recursive else client.scan_level(prefix)
        if session.format == "json":
            _list_json(items)
            return
        for item in items:
            name = item.prefix if isinstance(item, CommonPrefix) else item.key
            if session.format == "raw":
                click.echo(name.encode())
            elif isinstance(item, CommonPrefix):
                click.echo(f"{'PRE':>{_WIDTH_BEFORE_KEY}}  {printable(name)}")
            else:
                click.echo(f"{show_time(item.last_modified)}  {show_bytes(item.size):>9}  {printable(name)}")


# The characters of time and size in the table of `ls`.
_WIDTH_BEFORE_KEY = len(show_time(0.0)) + 2 + 9


def _list_json(items: Iterator[ObjectInfo | CommonPrefix]) -> None:
    separator = "[\n"
    for item in items:
        row: Row
        if isinstance(item, CommonPrefix):
            row = {"prefix": item.prefix}
        else:
            row = {"key": item.key, "size": item.size, "etag": item.etag, "last_modified": item.last_modified}
        click.echo((separator + json.dumps(row, ensure_ascii=False)).encode(), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")
