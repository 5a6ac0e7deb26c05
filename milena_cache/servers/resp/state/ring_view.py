"""Pure. The ring as clients of Redis Cluster read it, encoded once for each ring.

Clients request it when they start and at each MOVED: all of them at once when the ring changes. With three nodes a
reply has at most 48 KiB, with more some 130 bytes for each range of slots.
"""

from __future__ import annotations

from milena_cache.membership.ownership import Ownership, RingNode
from milena_common.network.addresses import Address, parse_address
from milena_common.resp.encoding import RESP2, Raw, encode

# Nodes of Redis Cluster connect to each other on a second port; here it is only a number in CLUSTER NODES.
BUS_OFFSET = 10_000

Member = tuple[RingNode, Address]


class RingView:
    """The encoded replies for the newest ring, with the nodes that have a RESP server of one kind.

    encrypted: True for the view of clients with TLS
    """

    def __init__(self, encrypted: bool = False) -> None:
        self._encrypted = encrypted
        self._epoch = -1
        self._members: list[Member] = []
        self._slots: Raw | None = None
        self._nodes = ""
        self._ranges: list[Raw] = []

    def members(self, ownership: Ownership) -> list[Member]:
        """Return the nodes with a RESP server of this kind, and its address."""
        if ownership.epoch != self._epoch:
            self._epoch = ownership.epoch
            found = ((node, node.resp_tls_address if self._encrypted else _plain(node)) for node in ownership.nodes)
            self._members = [(node, parse_address(address)) for node, address in found if address]
            self._slots, self._nodes, self._ranges = None, "", []
        return self._members

    def slots(self, ownership: Ownership) -> Raw:
        """Return the reply to CLUSTER SLOTS: ascending ranges, each with its node."""
        members = self.members(ownership)
        if self._slots is None:
            parts = []
            for node, address in members:
                encoded = encode([address.host, address.port, node.id, []], RESP2)
                parts += [
                    (first, b"*3\r\n:%d\r\n:%d\r\n%b" % (first, last, encoded)) for first, last in node.ranges
                ]
            self._slots = Raw(b"*%d\r\n%b" % (len(parts), b"".join([part for _, part in sorted(parts)])))
        return self._slots

    def ranges(self, ownership: Ownership) -> list[Raw]:
        """Return for each of the members the first and last slots of its ranges, as CLUSTER SHARDS has them."""
        members = self.members(ownership)
        if not self._ranges:
            self._ranges = [
                Raw(
                    b"*%d\r\n%b"
                    % (2 * len(node.ranges), b"".join([b":%d\r\n:%d\r\n" % bounds for bounds in node.ranges]))
                )
                for node, _ in members
            ]
        return self._ranges

    def nodes(self, ownership: Ownership) -> str:
        """Return the reply to CLUSTER NODES: one line a node."""
        members = self.members(ownership)
        if not self._nodes:
            self._nodes = "".join(f"{_line(node, address, ownership)}\n" for node, address in members)
        return self._nodes


def _plain(node: RingNode) -> str:
    return "" if node.resp_address == node.resp_tls_address else node.resp_address


def _line(node: RingNode, address: Address, ownership: Ownership) -> str:
    flags = "myself,master" if node.address == ownership.me else "master"
    slots = " ".join(str(first) if first == last else f"{first}-{last}" for first, last in node.ranges)
    at = f"{address.host}:{address.port}@{address.port + BUS_OFFSET}"
    return f"{node.id} {at} {flags} - 0 0 {ownership.epoch} connected {slots}".rstrip()
