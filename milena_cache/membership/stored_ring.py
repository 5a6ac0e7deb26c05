"""Pure. The newest ring as a text that the journal keeps, for a router that starts after all nodes were restarted.

Which node owns which slot is state that only the nodes keep. Otherwise: (1) all nodes and the router stop together;
(2) the router makes a ring from nothing, which gives slots to other nodes than those whose journals have their
writes; (3) the new owners serve what S3 has, older than what was acknowledged. A node that starts only sends this
ring to a router that requests it: it serves nothing by it.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from zlib import compress, decompress, error

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap

# The key in the journal's metadata.
NAME = "ring"


def to_text(slot_map: SlotMap) -> str:
    """Return `slot_map` as ASCII text: a kilobyte for few nodes, some 50 for 300."""
    return b2a_base64(compress(slot_map.to_update().SerializeToString(), 1), newline=False).decode()


def from_text(text: str) -> SlotMap:
    """Return the map of `text`; an empty one if there is none, or it is damaged, which its checksum shows."""
    try:
        return SlotMap.from_update(pb.RingUpdate.FromString(decompress(a2b_base64(text))))
    except (Error, error, ValueError):
        return SlotMap.empty()
