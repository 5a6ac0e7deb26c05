"""Shell. The command `journal`: reads the journal of a node, with the node's own program.

The journal is a file on the node's machine, and the node's code reads it. The client has none of that code, so
that it stays small: it starts the node's program, which parses its own arguments.
"""

from __future__ import annotations

import click

from milena_client.cli.commands.node_program import run_node_program


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="inspect|verify|export DIR")
@click.pass_context
def journal(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Look into the journal of a node: inspect, verify or export DIR. On the node's machine."""
    ctx.exit(run_node_program("milena_cache.journal.tools.command", ("milena_cache", "lmdb"), arguments))
