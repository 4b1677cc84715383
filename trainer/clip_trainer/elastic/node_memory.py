"""Where a worker may put what its successors on this node shall find: a directory in memory, named by the launcher."""

from __future__ import annotations

import os
from pathlib import Path

ENV_MEMORY = "CLIPCTL_MEMORY"


def node_memory() -> Path | None:
    """The directory of this worker and its successors in the same slot, gone with the launcher; None without one."""
    name = os.environ.get(ENV_MEMORY)
    return Path(name) if name else None
