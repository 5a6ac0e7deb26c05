"""Pure. Which IP addresses of nodes may be called: what another process reports is not trusted.

Never allowed are addresses by which a program reaches something else than a node: those of the metadata of clouds,
link-local, multicast and unspecified ones, in any spelling, also as IPv4 inside of an IPv6 address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# Beyond what the library knows: metadata of AWS (IPv6), Alibaba and Oracle; "this network", and broadcasts.
_NEVER: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "240.0.0.0/4",
        "fd00:ec2::/32",
    )
)
# Why a name may not be called: it has to be resolved first.
NO_ADDRESS: Final = "is no IP address"
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


def embedded(address: IpAddress) -> IpAddress:
    """Return the IPv4 address inside of an IPv6 one (mapped, compatible, 6to4, NAT64), or `address` itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def why_not(text: str, networks: Sequence[IpNetwork] = ()) -> str:
    """Return why the IP address `text` may not be called; "" if it may.

    `networks`: it has to be in one of them; empty: any address that is not forbidden.
    """
    try:
        address = embedded(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return NO_ADDRESS
    if address.is_link_local or any(address.version == net.version and address in net for net in _NEVER):
        return "is link-local, of a metadata service, or reserved"
    if address.is_multicast:
        return "is a multicast address"
    if address.is_unspecified:
        return "is unspecified"
    if networks and not any(address.version == net.version and address in net for net in networks):
        return f"is not in NODE_NETWORKS, which is {', '.join(map(str, networks))}"
    return ""
