"""Shell. What the options that every command has say: which cluster, and in what form the output is wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from milena_client.admin import Admin
from milena_client.calls import DEFAULT_TIMEOUT
from milena_client.client import Milena
from milena_client.connection import GrpcTransport
from milena_client.retry import RetryPolicy
from milena_client.transport import Transport
from milena_client.url import Target, from_environment, parse_duration, parse_url

FORMATS = ("table", "json", "raw")

# A person sees the error and can press a key; half a second of retries is enough to hide a hiccup.
_RETRY = RetryPolicy(tokens=3)


@dataclass
class Session:
    """The options, as far as they were given. `transport` stands in for the network in tests."""

    url: str | None = None
    bucket: str | None = None
    timeout: float | None = None
    output: str | None = None
    transport: Transport | None = None

    @property
    def format(self) -> str:
        """table for a person, raw for a program, unless the option says otherwise."""
        return self.output or ("table" if sys.stdout.isatty() else "raw")

    def client(self) -> Milena:
        """A client of the cluster. Raises ConfigError."""
        target = self._target()
        return Milena(
            target.address,
            bucket=target.bucket,
            timeout=target.timeout or DEFAULT_TIMEOUT,
            retry=_RETRY,
            transport=self.transport or GrpcTransport(target.address, target.note),
        )

    def admin(self) -> Admin:
        """The operator's connection to the cluster. Raises ConfigError."""
        target = self._target()
        return Admin(
            target.address,
            bucket=target.bucket,
            timeout=target.timeout or DEFAULT_TIMEOUT,
            retry=_RETRY,
            transport=self.transport or GrpcTransport(target.address, target.note),
        )

    def _target(self) -> Target:
        target = from_environment(os.environ) if self.url is None else parse_url(self.url)
        return replace(
            target,
            bucket=target.bucket if self.bucket is None else self.bucket,
            timeout=self.timeout or target.timeout,
        )


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        setattr(ctx.find_root().ensure_object(Session), param.name, value)


def _note_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    try:
        _note(ctx, param, None if value is None else parse_duration(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


C = TypeVar("C", bound=Callable[..., Any])

_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    expose_value=False,
    callback=_note,
    help="Form of the output. Default: table on a terminal, raw (tab-separated lines) otherwise.",
)
_CLUSTER = (
    click.option(
        "--url",
        metavar="milena://HOST[:PORT][/BUCKET]",
        expose_value=False,
        callback=_note,
        help="The cluster. Default: the variable MILENA_URL, or the router on this machine.",
    ),
    click.option("--bucket", expose_value=False, callback=_note, help="The bucket, if not the nodes' default one."),
    click.option(
        "--timeout",
        metavar="DURATION",
        expose_value=False,
        callback=_note_duration,
        help="Time for each call, such as 500ms or 2s. Default: 5s.",
    ),
)


def cluster_options(command: C) -> C:
    """Options of every command that talks to a cluster; they may stand before or after its name."""
    for option in (_OUTPUT, *reversed(_CLUSTER)):
        command = option(command)
    return command
