"""Shell. Reads the operators' port of another process of this machine."""

from __future__ import annotations

from typing import NamedTuple

import aiohttp

from milena_common.api.credentials import AUTHORIZATION, Credentials
from milena_common.network.addresses import Address
from milena_common.network.security import Security

MAX_BYTES = 16 * 2**20


class Encryption(NamedTuple):
    """How connections are encrypted, and the host for whose name the other side's certificate is verified."""

    security: Security
    host: str


async def fetch(
    address: Address,
    path: str,
    timeout: float,
    credentials: Credentials | None = None,
    encryption: Encryption | None = None,
) -> tuple[int, str] | None:
    """Return status and body of a GET; None without a response of at most MAX_BYTES within `timeout` seconds.

    `credentials`: what to log in with; None: nothing. `encryption`: None: the connection is plain.
    """
    headers = {} if credentials is None else {AUTHORIZATION: credentials.header()}
    limit = aiohttp.ClientTimeout(total=timeout)
    scheme, context, name = "http", None, None
    if encryption is not None:
        security, host = encryption
        scheme, context, name = "https", security.client_context(), security.server_name(host)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(
                f"{scheme}://{address}{path}",
                headers=headers,
                ssl=context if context is not None else True,
                server_hostname=name,
            ) as response,
        ):
            body = await response.content.read(MAX_BYTES + 1)
            while len(body) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES + 1 - len(body))):
                body += more
            return None if len(body) > MAX_BYTES else (response.status, body.decode(errors="replace"))
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None
