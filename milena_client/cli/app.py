"""Shell. The command `milena` and how its failures end: one line on stderr and an exit code, no traceback."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from milena_client.cli.commands import (
    health,
    hot_keys,
    journal,
    objects,
    prefix_jobs,
    refresh,
    ring,
    s3,
    size,
    writeback,
)
from milena_client.cli.local import demo, up
from milena_client.cli.terminal.failures import BROKEN_PIPE, FAILED, INTERRUPTED, exit_code, printable, reason
from milena_client.cli.terminal.session import Session, cluster_options
from milena_common.api.errors import ConfigError, MilenaError
from milena_common.process.distribution import described_version


class _App(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(f"milena: {printable(problem)}", err=True)
            ctx.exit(exit_code(error))
        except MilenaError as error:
            click.echo(f"milena: {printable(reason(error))}", err=True)
            ctx.exit(exit_code(error))
        except BrokenPipeError:
            # Python flushes stdout once more at its end, which would fail again, aloud.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)
        except OSError as error:
            click.echo(f"milena: {printable(reason(error))}", err=True)
            ctx.exit(FAILED)


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(described_version(), prog_name="milena")
@cluster_options
@click.pass_context
def milena(ctx: click.Context) -> None:
    """Milena, a cache in front of S3.

    Exit codes: 0 done, 1 failed, 2 usage, 3 cluster unreachable or unable to serve just now, 4 not found.
    """
    ctx.ensure_object(Session)


for _command in (
    objects.get,
    objects.put,
    objects.cp,
    objects.rm,
    objects.ls,
    refresh.refresh,
    prefix_jobs.warm,
    prefix_jobs.purge,
    prefix_jobs.invalidate,
    prefix_jobs.pin,
    prefix_jobs.unpin,
    ring.nodes,
    ring.leave,
    ring.ring,
    health.stats,
    size.size,
    hot_keys.hotkeys,
    health.health,
    writeback.writeback,
    journal.journal,
    s3.s3,
    up.up,
    demo.demo,
):
    milena.add_command(_command)
