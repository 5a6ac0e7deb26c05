"""Shell. A cache node whose RESP server has a proxy at PROXIED_RESP, which it advertises in place of its own.

A node advertises the address at which it listens, since no deployment has needed another one.
"""

from __future__ import annotations

import os

from milena_cache import __main__ as node


def main() -> None:
    """Run the node."""
    vars(node)["advertised_resp"] = lambda *_: os.environ["PROXIED_RESP"]
    node.main()


if __name__ == "__main__":
    main()
