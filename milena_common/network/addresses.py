"""Pure. Network addresses in their customary forms: `host:port`, `http://host:port`, `[::1]:port`, `fd00::1:port`.

An address is the name of a node in the ring, so it is normalized to one spelling: IPv6 addresses to the form of
RFC 5952, and an IPv4 address written as an IPv6 one (`::ffff:10.0.0.1`) to IPv4. A port is always required. That
makes `fd00::1:6379` unambiguous: the digits after the last colon are the port, as in `$(POD_IP):6379`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")

# The part after % names an interface of this machine; the library accepts any text there.
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")

# A last part of a host name that the system parses as a number, and the name so as an IPv4 address.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

ALLOWED = "host:port or http://host:port, the port from 1 to 65535"


class Address(NamedTuple):
    """A host name or IP address, and a TCP port; port 0 requests a free one from the system."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """True if it means every interface of this machine, IPv4 and IPv6: to listen on, not to connect to."""
        return self.host in ("0.0.0.0", "::", "")

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


class Port(NamedTuple):
    """An address to listen on, the variable that sets it, and the variable's other allowed values as error text."""

    address: Address
    variable: str
    alternative: str = ""


def parse_address(text: str, *, lowest_port: int = 1) -> Address:
    """Return the address that `text` spells. Raises ValueError with the reason."""
    rest = text.removeprefix("http://").removesuffix("/")
    if "://" in rest:
        raise ValueError(f"the scheme {rest.split('://')[0]!r} is not supported")
    host, colon, port = rest.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError("the port is missing")
    if not lowest_port <= int(port) <= 65535:
        raise ValueError(f"port {port} is out of range")
    if host.startswith("[") and host.endswith("]"):
        ipv6 = _canonical_ipv6(host[1:-1])
        if ipv6 is None:
            raise ValueError(f"{host[1:-1]!r} is not an IPv6 address")
        return Address(ipv6, int(port))
    canonical = canonical_host(host)
    if canonical is None:
        raise ValueError(f"{host!r} is not a host name or IP address")
    return Address(canonical, int(port))


def canonical_host(text: str) -> str | None:
    """Return the canonical spelling of a host name or IP address, as in `Address.host`; None if it is neither."""
    if ":" in text:
        return _canonical_ipv6(text)
    if not _HOST.fullmatch(text):
        return None
    if _NUMBER.fullmatch(text.removesuffix(".").rpartition(".")[2]):
        # The system parses "0", "127.1" and "0x7f.1" as IPv4 addresses too, and "010.0.0.1" as octal.
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            return None
    return text


def _canonical_ipv6(text: str) -> str | None:
    if not _IPV6.fullmatch(text):
        return None
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)
