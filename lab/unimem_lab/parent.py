"""A child process that ends with its parent, however that went.

The child asks the system for it itself, once it runs: code between fork and exec (`preexec_fn`) would run the
fork handlers of gRPC, which abort the child when the parent's channels are in use.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

#: Environment variable with the process ID of the parent to end with.
PARENT: Final = "UNIMEM_PARENT"

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> None:
    """Get SIGTERM when the parent named in the environment is gone; end at once if it is already."""
    parent = os.environ.pop(PARENT, "")
    if parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            sys.exit(128 + signal.SIGTERM)
