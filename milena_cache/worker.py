"""Shell. Where the process of a worker begins: a node that ends when its parent does.

    python -m milena_cache.worker PARENT_PID

A parent that is killed cannot stop its workers, and a new one could not start others: ports and journals are taken.
So the system sends SIGTERM to a worker whose parent is gone, and it stops as a node does. (Linux only.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run a node."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)  # the parent was gone before the system knew about the signal
    from milena_cache.__main__ import main as run_node

    run_node()


if __name__ == "__main__":
    main()
