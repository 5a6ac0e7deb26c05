"""Shell. Writes results: tables for people, JSON and tab-separated lines for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milena_client.cli.terminal.failures import printable


class Column(NamedTuple):
    """A field of each row: its name in JSON, its title in a table, and how a table shows it."""

    name: str
    title: str
    show: Callable[[Any], str] = str
    right: bool = False


Row = Mapping[str, Any]


def write_rows(form: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Write `rows` in `form`: table, json (one array) or raw (a line each, tab-separated, no header)."""
    if form == "json":
        write_json(rows)
    elif form == "raw":
        write_raw(columns, rows)
    else:
        console().print(table(columns, rows))


def write_json(value: Any) -> None:
    """Write `value` as one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False).encode())


def write_raw(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Write a line for each row, as it comes."""
    for row in rows:
        click.echo("\t".join(_plain(row[column.name]) for column in columns).encode())


def table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """Return `rows` as a table for a terminal."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(printable(column.show(row[column.name]))) for column in columns))
    return made


def console() -> Console:
    """Return the console for tables.

    Rows are never cut to the width of a terminal: it wraps them, or a program reads them.
    """
    return Console(highlight=False, width=1000)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.15g}"
    return "" if value is None else str(value)


def show_bytes(count: float) -> str:
    """Return a number of bytes for people: 512 B, 1.5 KiB, 20 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def show_count(count: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{count:,.0f}"


def show_percent(share: float | None) -> str:
    """Return a share of 1 in percent; "-" for None."""
    return "-" if share is None else f"{share:.1%}"


def show_time(timestamp: float) -> str:
    """Return a timestamp, given in seconds since 1970, as text in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_seconds(seconds: float) -> str:
    """Return a duration for people: 3.2 s, 5 min, 2.5 h, 4.0 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
