"""Pure. Network addresses as people write them: `host:port`, `http://host:port`, `[::1]:port`."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")

# The part after % names an interface of this machine; anything at all may stand there for the library.
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")

ALLOWED = "host:port or http://host:port, the port from 1 to 65535"


class Address(NamedTuple):
    """A host name or IP address, and a TCP port; port 0 asks the system for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it means "every interface", where one can listen but which nobody can call."""
        return self.host in ("0.0.0.0", "::", "")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_address(text: str, *, lowest_port: int = 1) -> Address:
    """The address that `text` spells. Raises ValueError, saying what is wrong."""
    rest = text.removeprefix("http://").removesuffix("/")
    if "://" in rest:
        raise ValueError(f"the scheme {rest.split('://')[0]!r} is not supported")
    host, colon, port = rest.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError("the port is missing")
    if not lowest_port <= int(port) <= 65535:
        raise ValueError(f"port {port} is out of range")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ipv6(host):
            raise ValueError(f"{host!r} is not an IPv6 address")
    elif not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name or IP address")
    return Address(host, int(port))


def is_host(text: str) -> bool:
    """Whether `text` is a host name or IP address as it stands in `Address.host`."""
    return _HOST.fullmatch(text) is not None or _is_ipv6(text)


def _is_ipv6(text: str) -> bool:
    if not _IPV6.fullmatch(text):
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
