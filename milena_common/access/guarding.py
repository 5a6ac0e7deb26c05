"""Shell. Makes what guards a process from its settings: users and tokens from files, and the audit log."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from typing import NamedTuple

from milena_common.access.access import Access
from milena_common.access.audit_log import AuditLog
from milena_common.access.files import AccessFiles
from milena_common.access.settings import AccessSettings, insecure_ports
from milena_common.network.addresses import Port
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)


class Guarding(NamedTuple):
    """What guards a process.

    insecure: True if other machines can reach a port of it, and need no login there
    """

    access: Access
    files: AccessFiles
    audit: AuditLog
    insecure: bool


def guard_process(
    settings: AccessSettings, clock: Clock, ports: Sequence[Port], default_bucket: str = ""
) -> Guarding:
    """Return what guards a process with these ports. Raises ConfigError. Needs a running loop.

    With a file as audit log SIGHUP has it opened again, and does not stop the process.
    """
    files = AccessFiles(settings, default_bucket)
    audit = AuditLog(settings, clock.wall)
    access = files.open_access(clock, audit.record)
    if audit.to_file:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, audit.reopen)
    found = [] if access.requires_login else insecure_ports(ports)
    if found:
        log.warning(
            "no login is required, and other machines can reach %s: whoever can connect there may do everything; "
            "set ACL_FILE and CLUSTER_TOKEN_FILE, or listen on 127.0.0.1 only",
            ", ".join(f"{port.variable} {port.address}" for port in found),
        )
    return Guarding(access, files, audit, bool(found))
