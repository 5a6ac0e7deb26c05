"""Pure. Failed logins by address: after RATE of them within a second, the logins from there have to wait.

The wait comes before a password is compared, so that guesses over many connections are no faster. Addresses of one
IPv6 network of 64 bits count as one. The table is bounded: it drops the address whose entry is the oldest.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

# Failed logins a second from one address.
RATE: Final = 5
MAX_ADDRESSES: Final = 10_000
# The longest wait, seconds: a login that would have to wait longer is rejected.
MAX_WAIT_SECONDS: Final = 5.0


class FailedLogins:
    """The failed logins of the last seconds. Times are monotonic seconds.

    An address has a time up to which its failures are paid for: each adds 1/RATE seconds, and it may be a second
    ahead.
    """

    def __init__(self) -> None:
        self._paid_until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paid_until)

    def wait(self, address: str, now: float) -> float:
        """Return for how many seconds a login from `address` has to wait; 0: for none.

        A login that waits is counted as failed already, so that concurrent ones have to wait longer.
        """
        source = source_of(address)
        paid_until = self._paid_until.get(source, now)
        if paid_until <= now:
            self._paid_until.pop(source, None)
            return 0.0
        if (ahead := paid_until - now - (RATE - 1) / RATE) <= 1e-9:
            return 0.0
        if ahead <= MAX_WAIT_SECONDS:
            self._paid_until[source] = paid_until + 1.0 / RATE
        return ahead

    def count_failure(self, address: str, now: float) -> None:
        """Count a failed login that has not waited."""
        source = source_of(address)
        self._paid_until[source] = max(now, self._paid_until.get(source, now)) + 1.0 / RATE
        if len(self._paid_until) > MAX_ADDRESSES:
            self._paid_until.popitem(last=False)


def source_of(address: str) -> str:
    """Return the network of an address, host or host:port or as gRPC spells it, that counts as one source."""
    host = address.removeprefix("ipv4:").removeprefix("ipv6:").replace("%5B", "[").replace("%5D", "]")
    host = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
