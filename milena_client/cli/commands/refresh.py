"""Shell. The command `refresh`: has keys read from S3 again, after another program has written the bucket."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click

from milena_client.cli.terminal.output import Column, show_count, write_json, write_rows
from milena_client.cli.terminal.session import Session, cluster_options

# Keys of one call: a message of less than 1 MiB.
KEYS_AT_ONCE = 1000

_REFRESHED = (
    Column("refreshed", "REFRESHED", show_count, True),
    Column("dirty", "KEPT: NOT IN S3 YET", show_count, True),
)


def parts(targets: Sequence[str], *, prefixes: bool) -> tuple[list[list[str]], list[str]]:
    """Return the keys among `targets`, in groups for one call each, and the prefixes.

    With `prefixes` all of them are; otherwise what ends in `/`, which includes a key of exactly that name.
    """
    below = [target for target in targets if prefixes or target.endswith("/")]
    keys = [] if prefixes else [target for target in targets if not target.endswith("/")]
    return [keys[start : start + KEYS_AT_ONCE] for start in range(0, len(keys), KEYS_AT_ONCE)], below


def _lines_of_stdin() -> Iterator[str]:
    return (line.rstrip("\n") for line in sys.stdin if line.rstrip("\n"))


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="KEY|PREFIX/...")
@click.option("--prefix", is_flag=True, help="All arguments are prefixes, also those that do not end in '/'.")
@cluster_options
@click.pass_obj
def refresh(session: Session, targets: tuple[str, ...], prefix: bool) -> None:
    """Have KEYs, or all keys that begin with PREFIX/, read from S3 again: after an `aws s3 sync`, for example.

    The nodes drop their entries, and so do near caches. No request goes to S3, and writes that it does not have yet
    are kept.
    An argument that ends in '/' is a prefix; '-' reads arguments from stdin, one a line. It prints how many entries
    were dropped, and how many objects were kept because S3 does not have them yet.
    """
    names = [each for target in targets for each in (_lines_of_stdin() if target == "-" else (target,))]
    groups, prefixes = parts(names, prefixes=prefix)
    with session.admin() as admin:
        done = [admin.refresh(keys) for keys in groups]
        done += [admin.refresh(prefix=each) for each in prefixes]
    row = {"refreshed": sum(each.refreshed for each in done), "dirty": sum(each.dirty for each in done)}
    if session.format == "json":
        write_json(row)
    else:
        write_rows(session.format, _REFRESHED, [row])
