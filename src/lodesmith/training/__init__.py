"""The loop: stages of an objective over batches, told as events, and resumed to the same bits.

It knows no encoder and no dataset. Importing it loads no torch: the engine does, when training starts.
"""

from lodesmith.training.checkpoint import Checkpoints, Snapshot
from lodesmith.training.fit import Batches, Engine, Stage, fit
from lodesmith.training.metrics import read_metrics, record
from lodesmith.training.optim import Group, OptimSettings

__all__ = [
    "Batches",
    "Checkpoints",
    "Engine",
    "Group",
    "OptimSettings",
    "Snapshot",
    "Stage",
    "fit",
    "read_metrics",
    "record",
]
