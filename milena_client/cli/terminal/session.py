"""Shell. The options that every command has: which cluster, and the form of the output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import click

from milena_client.admin import Admin
from milena_client.cli.terminal.failures import printable
from milena_client.cli.terminal.reporting import ReportingTransport
from milena_client.core.calls import Retries
from milena_client.core.limits import DEFAULT_TIMEOUT
from milena_client.core.url import Target, from_environment, parse_duration, parse_url
from milena_client.sync.client import Milena
from milena_client.sync.direct import DirectTransport
from milena_common.rpc.failover import router_transport
from milena_common.rpc.transport import Transport
from milena_common.runtime.blocking_clock import BlockingClock, BlockingSystemClock
from milena_common.tls.certificates import Certificates

FORMATS = ("table", "json", "raw")


@dataclass
class Session:
    """The options, as far as they were given. `transport` and `clock` stand in for network and time in tests."""

    url: str | None = None
    bucket: str | None = None
    timeout: float | None = None
    output: str | None = None
    transport: Transport | None = None
    clock: BlockingClock = field(default_factory=BlockingSystemClock)

    @property
    def format(self) -> str:
        """Return the form of the output: that of the option, else table on a terminal, raw for a program."""
        return self.output or ("table" if sys.stdout.isatty() else "raw")

    def client(self) -> Milena:
        """Return a client of the cluster. Raises ConfigError."""
        target = self._target()
        timeout = target.timeout or DEFAULT_TIMEOUT
        transport = self.transport
        if transport is None:
            certificates = None if target.tls is None else Certificates(target.tls)
            router = router_transport(
                target.address, target.note, certificates, credentials=lambda: target.credentials
            )
            transport = router
            if target.direct:
                transport = DirectTransport(
                    router,
                    target.bucket,
                    timeout,
                    self.clock,
                    Retries.rng,
                    certificates=certificates,
                    credentials=target.credentials,
                    routers=target.address,
                )
        return Milena(
            target.address,
            bucket=target.bucket,
            timeout=timeout,
            transport=ReportingTransport(transport, _say),
            clock=self.clock,
        )

    def admin(self) -> Admin:
        """Return the operator's connection to the cluster. Raises ConfigError."""
        target = self._target()
        certificates = None if target.tls is None else Certificates(target.tls)
        router = self.transport or router_transport(
            target.address, target.note, certificates, credentials=lambda: target.credentials
        )
        return Admin(
            target.address,
            bucket=target.bucket,
            timeout=target.timeout or DEFAULT_TIMEOUT,
            transport=ReportingTransport(router, _say),
            clock=self.clock,
        )

    def _target(self) -> Target:
        target = from_environment(os.environ) if self.url is None else parse_url(self.url)
        return replace(
            target,
            bucket=target.bucket if self.bucket is None else self.bucket,
            timeout=self.timeout or target.timeout,
        )


def _say(line: str) -> None:
    click.echo(f"milena: {printable(line)}", err=True)


def _record(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        setattr(ctx.find_root().ensure_object(Session), param.name, value)


def _record_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    try:
        _record(ctx, param, None if value is None else parse_duration(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


C = TypeVar("C", bound=Callable[..., Any])

_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    expose_value=False,
    callback=_record,
    help="Form of the output. Default: table on a terminal, raw (tab-separated lines) otherwise.",
)
_CLUSTER = (
    click.option(
        "--url",
        metavar="milena://HOST[:PORT][,HOST...][/BUCKET]",
        expose_value=False,
        callback=_record,
        help="The cluster. Default: the variable MILENA_URL, or the router on this machine.",
    ),
    click.option(
        "--bucket", expose_value=False, callback=_record, help="The bucket; by default that of the nodes."
    ),
    click.option(
        "--timeout",
        metavar="DURATION",
        expose_value=False,
        callback=_record_duration,
        help="Time for each call, such as 500ms or 2s. Default: 10s.",
    ),
)


def cluster_options(command: C) -> C:
    """Options of every command that talks to a cluster; they may stand before or after its name."""
    for option in (_OUTPUT, *reversed(_CLUSTER)):
        command = option(command)
    return command
