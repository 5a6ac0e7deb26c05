"""Shell. Runs a module as a child that ends with its parent, however that ends.

    python -m milena_client.cli.local.child PARENT_PID MODULE [ARGUMENT ...]

A parent that is killed with SIGKILL stops nothing itself. On Linux the system then sends its children SIGTERM;
elsewhere they stay, as they would without this.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

# From <linux/prctl.h>: the signal that this process gets when the thread that started it ends.
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have this process get SIGTERM when `parent` (a process id) ends; end now if it has ended already."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    # A parent that ended before the call above sends nothing any more.
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Run the module that the arguments name."""
    _, parent, module, *arguments = sys.argv
    end_with_parent(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
