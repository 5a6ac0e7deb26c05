"""Shell. Runs a module as a child process that ends with its parent, also after a SIGKILL.

    python -m milena_client.cli.local.child PARENT_PID MODULE [ARGUMENT ...]

A parent that is killed with SIGKILL cannot stop its children. On Linux the kernel then sends them SIGTERM
(PR_SET_PDEATHSIG); on other systems they keep running.
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
    """Request SIGTERM for this process when `parent` (a process id) ends; exit if it has ended already."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    # If the parent ended before the call above, no signal is sent.
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Run the module named by the arguments."""
    _, parent, module, *arguments = sys.argv
    end_with_parent(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
