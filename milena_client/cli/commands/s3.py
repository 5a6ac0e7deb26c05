"""Shell. The commands `milena s3 …`: what the S3 store behind a node can do, by the node's own program."""

from __future__ import annotations

import click

from milena_client.cli.commands.node_program import run_node_program


@click.group()
def s3() -> None:
    """Look at the S3 store itself, with the environment of a node."""


@s3.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--json]")
@click.pass_context
def check(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Find out whether the store honours conditions, metadata and the order of listings."""
    ctx.exit(run_node_program("milena_cache.s3_check", ("milena_cache", "boto3", "obstore"), arguments))
