"""Shell. Runs a program of the node's for a command: the client has none of the node's code, and stays small."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence

import click

from milena_client.cli.terminal.failures import FAILED
from milena_common.process.distribution import install_command


def run_node_program(module: str, needed: Sequence[str], arguments: Sequence[str]) -> int:
    """Run `module` with these arguments, and return its exit code; FAILED if a package in `needed` is missing.

    A program that is ended by a signal gives 128 and the signal's number, as in a shell.
    """
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        click.echo(f"milena: missing {', '.join(missing)}: {install_command('server')}", err=True)
        return FAILED
    # Nothing is imported from the directory that the operator happens to be in.
    code = subprocess.run([sys.executable, "-P", "-m", module, *arguments], check=False).returncode
    return code if code >= 0 else 128 - code
