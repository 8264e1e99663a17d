"""Short trainings of every objective, by one process or by each of two ranks with its share of the same batches.

As a program, under torchrun: `ranked_objectives.py FOLDER` writes each rank's losses.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from taught_batches import Taught
from torch import nn
from toy_towers import Bag

from lodesmith.core import events
from lodesmith.data.batching import PairBatches
from lodesmith.data.text_batches import TextBatches
from lodesmith.data.tokens import PlainTokenizer, TokenStore
from lodesmith.objectives.contrast import Contrast
from lodesmith.objectives.mimic import Mimic
from lodesmith.objectives.triplet import Triplet
from lodesmith.training import OptimSettings, Stage, fit
from lodesmith.training.engine import TorchEngine

STEPS = 10
PAIRS = 61
"""In batches of 15: eight and seven for two ranks, and a last batch of one, so that a rank has none."""

RAMP = {"weight": 0.3, "begin": 0.1, "steps": 4, "directions": 32}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "contrast": (Contrast, {}),
    "symmetric": (Contrast, {"symmetric": True, "similarity": "euclidean", "temperature": 1.0}),
    "own": (Contrast, {"negatives": "own"}),
    "local": (Contrast, {"gather": False}),
    "corpus": (Contrast, {"negatives": "corpus"}),
    **{name: (Triplet, {"negatives": name}) for name in ("random", "mined", "batch_all", "batch_hard", "semi_hard")},
    "spread": (Contrast, {"covariance": {"weight": 0.5}, "gor": {"weight": 1.0}, "uniformity": {"weight": 0.2}}),
    "sigreg": (Contrast, {"negatives": "own", "sigreg": RAMP, "predictor": True}),
    "regular": (Triplet, {"similarity": "euclidean", "sigreg": RAMP, "gor": {"weight": 1.0}, "predictor": True}),
    "mimic": (Mimic, dict.fromkeys(("infonce", "mse", "cosine", "kl", "margin_mse", "relational", "relative"), 1.0)),
    "mimic own": (
        Mimic,
        {"negatives": "own", "kl": 1.0, "mse": {"weight": 0.3, "begin": 0.1, "steps": 4}, "dimensions": (3,)},
    ),
    "active": (Triplet, {"negatives": "batch_all", "active_only": True, "margin": 0.02}),
}
FEEDS = ("rows", "pool", "texts", "corpus")


def batches(feed: str, shard: tuple[int, int], folder: Path) -> Any:
    """Pairs with mined negatives and documents of several queries, as rows (alone, with a pool, or with all documents)
    or as texts."""
    rng = np.random.default_rng(1)
    pairs = np.stack([rng.permutation(PAIRS), rng.integers(0, 40, PAIRS)], 1)
    negatives = rng.integers(-1, 60, (PAIRS, 2))
    if feed == "texts":
        store = TokenStore(
            folder / "tokens", PlainTokenizer(lambda texts: [list(map(int, t.split())) for t in texts], "numbers", 50)
        )
        texts = [" ".join(map(str, rng.integers(0, 50, rng.integers(2, 9)))) for _ in range(PAIRS)]
        tokens = store.tokens(texts)
        return TextBatches(tokens, tokens, pairs, batch_size=15, negatives=negatives, shard=shard, seed=2)
    rows = rng.standard_normal((2, PAIRS, 6)).astype(np.float32)
    pool = 7 if feed == "pool" else 0
    options = {"negatives": negatives, "pool": pool, "corpus": feed == "corpus", "shard": shard, "seed": 2}
    return PairBatches(pairs, *rows, batch_size=15, **options)


def losses(case: str, feed: str, shared: bool, shard: tuple[int, int], folder: Path) -> list[dict[str, float]]:
    """The terms of the first steps."""
    kind, settings = CASES[case]
    torch.manual_seed(5)
    towers = [Bag() if feed == "texts" else nn.Linear(6, 6) for _ in range(1 if shared else 2)]
    settings = settings | ({"predictor": nn.Linear(6, 6)} if "predictor" in settings else {})
    objective = kind(*towers, known=np.array([[0, 1], [3, 4]]), **settings)
    optim = OptimSettings(lr=0.05, clip=1.0, schedule="constant", warmup=0)
    given = batches(feed, shard, folder)
    if kind is Mimic:
        given = Taught(given, *torch.randn(2, PAIRS, 6, generator=torch.Generator().manual_seed(4)))
    plan = Stage(name="s", objective=objective, batches=given, optim=optim, steps=STEPS)
    happened = fit([plan], engine=TorchEngine(seed=3, device="cpu"), log_every=1)
    return [dict(event.terms) for event in happened if isinstance(event, events.Step)]


def every(shard: tuple[int, int], folder: Path) -> dict[str, list[dict[str, float]]]:
    """All cases."""
    torch.set_num_threads(1)
    return {
        f"{case} {feed} {'shared' if shared else 'separate'}": losses(case, feed, shared, shard, folder)
        for case in CASES
        for feed in FEEDS
        for shared in (True, False)
        if (case == "corpus") == (feed == "corpus")
    }


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    found = every((rank, int(os.environ["WORLD_SIZE"])), folder / str(rank))
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
