"""Shell. The command `journal`: looking into the journal of a node, in the node's own program.

The journal is a file on the node's machine, and the node's code reads it. The client has none of that code, so
that it stays small: it starts the node's program, which has its own arguments, and stands aside.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import click

from milena_client.cli.failures import FAILED

_NEEDED = ("milena_cache", "lmdb")
_PROGRAM = "milena_cache.journal_command"


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="inspect|verify|export DIR")
@click.pass_context
def journal(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Look into the journal of a node: inspect, verify or export DIR. On the node's machine."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        click.echo(f"milena: missing {', '.join(missing)}: pip install 'milena[server]'", err=True)
        ctx.exit(FAILED)
    # Nothing is imported from the directory that the operator happens to be in.
    code = subprocess.run([sys.executable, "-P", "-m", _PROGRAM, *arguments], check=False).returncode
    # Ended by a signal: as a shell says it.
    ctx.exit(code if code >= 0 else 128 - code)
