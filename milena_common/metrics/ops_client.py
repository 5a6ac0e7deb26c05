"""Shell. Reads the operators' port of another process of this machine."""

from __future__ import annotations

import aiohttp

from milena_common.api.credentials import AUTHORIZATION, Credentials
from milena_common.network.addresses import Address

MAX_BYTES = 16 * 2**20


async def fetch(
    address: Address, path: str, timeout: float, credentials: Credentials | None = None
) -> tuple[int, str] | None:
    """Return status and body of a GET; None without a response of at most MAX_BYTES within `timeout` seconds.

    `credentials`: what to log in with; None: nothing.
    """
    headers = {} if credentials is None else {AUTHORIZATION: credentials.header()}
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(f"http://{address}{path}", headers=headers) as response,
        ):
            body = await response.content.read(MAX_BYTES + 1)
            while len(body) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES + 1 - len(body))):
                body += more
            return None if len(body) > MAX_BYTES else (response.status, body.decode(errors="replace"))
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None
