"""Which of several training processes this is, as torchrun says."""

from __future__ import annotations

import os


def ranks() -> tuple[int, int]:
    """(rank, ranks): (0, 1) where nothing launched several."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
