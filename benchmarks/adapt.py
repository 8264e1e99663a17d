"""The recipe `adapt` against BM25, MiniLM, their reciprocal-rank fusion and plain inverse cloze: nDCG@10, paired p.

python -m benchmarks.adapt [--quick] [--datasets cranfield:test,policyqa:train] [--seeds 0,1,2]

No training reads a query or a judgement of the collections; the judgements only measure. Plain inverse cloze is a
linear head that begins as the identity, trained without decay on a sentence of each passage against the batch, and
fused with BM25 by reciprocal ranks; of its epochs (and of none at all) it keeps the best on held-out sentences, as
every recipe does. `fusion alone` is `adapt` without what it trained: the weight of the fusion is chosen, the residual
is not kept. p is the randomisation test's on the means over the seeds of each query, not corrected; `p_by_seed` has
those of each seed by itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import lodesmith as lode
from benchmarks import common
from lodesmith.core.files import read_json
from lodesmith.recipes.train import plan

MEASURE = "nDCG@10"
DATASETS = "cranfield:test,cisi:test,medquad:test,policyqa:train,squad:dev,pubmedqa:train,scitldr:test,scifact:test"
BASELINES = ("bm25", "minilm", "bm25+minilm")
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "adapt": {},
    "fusion alone": {"adaptation.shares": [0.0], "stages.0.epochs": 1},
    "inverse cloze": {
        "adaptation.queries": ["sentence"],
        "adaptation.shares": [1.0],
        "stages.0.objective.negatives": "batch",
        "stages.0.optim.weight_decay": 0.0,
    },
}
"""What a run is of → the settings in which it differs from the shipped recipe."""


def system(variant: str, run: Path) -> str:
    """How the trained run is spelled: inverse cloze is its encoder and BM25, by reciprocal ranks."""
    return f"bm25+{run / 'model'}" if variant == "inverse cloze" else str(run)


def trained(variant: str, folder: Path, seed: int, out: Path, more: Mapping[str, Any]) -> dict[str, Any]:
    """Train; the seconds (the corpus is in the store) and what was chosen."""
    start = time.perf_counter()
    settings = {"data": str(folder), "seed": seed, **VARIANTS[variant], **more}
    for _ in plan("adapt", settings, out=out, reported=False).events():
        pass
    fusion = read_json(out / "manifest.json")["fusion"]
    return {"seconds": time.perf_counter() - start} | {
        name: fusion[name] for name in ("weight", "reference", "strength", "held_out")
    }


def averaged(evaluations: Sequence[lode.Evaluation]) -> lode.Evaluation:
    """Evaluations of several seeds as one: each query has its mean over them."""
    first = evaluations[0]
    queries = {
        query: {MEASURE: float(np.mean([own.per_query[query][MEASURE] for own in evaluations]))}
        for query in first.per_query
    }
    mean = float(np.mean([own[MEASURE] for own in queries.values()]))
    return replace(first, per_query=queries, measures={MEASURE: replace(first.measures[MEASURE], mean=mean)})


def tested(evaluations: Sequence[lode.Evaluation]) -> dict[str, dict[str, float]]:
    """Difference of `adapt` to each other system, its interval, and p."""
    pairs = lode.compare(evaluations, measure=MEASURE, baseline="adapt").pairs
    found = {}
    for pair in pairs:
        if "adapt" in (pair.a, pair.b):
            sign, other = (1, pair.b) if pair.a == "adapt" else (-1, pair.a)
            low, high = sorted((sign * pair.low, sign * pair.high))
            found[other] = {"difference": sign * pair.difference, "low": low, "high": high, "p": pair.p}
    return found


def measured(name: str, split: str, seeds: Sequence[int], more: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table: means of every system, by seed where it has one, and `adapt` against each."""
    folder = root() / name
    dataset = lode.Dataset.load(folder)
    fixed = [lode.evaluate(spelling, dataset, split) for spelling in BASELINES]
    found: dict[str, list[lode.Evaluation]] = {variant: [] for variant in VARIANTS}
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for seed in seeds:
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as place:
                out = Path(place) / "run"
                told = trained(variant, folder, seed, out, more)
                evaluation = lode.evaluate(system(variant, out), dataset, split)
            found[variant].append(replace(evaluation, system=variant))
            runs[variant].append({"seed": seed, "mean": evaluation.measures[MEASURE].mean} | told)
    by_seed = [tested([*fixed, *(own[place] for own in found.values())]) for place in range(len(seeds))]
    whole = [*fixed, *(averaged(own) for own in found.values())]
    return {
        "queries": whole[0].queries,
        "means": {own.system: own.measures[MEASURE].mean for own in whole},
        "against": tested(whole),
        "p_by_seed": {other: [own[other]["p"] for own in by_seed] for other in by_seed[0]},
        "runs": runs,
    }


def root() -> Path:
    """Where the collections lie."""
    return Path(os.environ.get("LODESMITH_DATA", str(Path(__file__).parent.parent.parent / "shared" / "data")))


def row(name: str, found: Mapping[str, Any]) -> str:
    """A line of the table in Markdown: means, and p of `adapt` against each in brackets."""
    cells = [
        f"{mean:.3f}" + (f" ({found['against'][own]['p']:.4f})" if own in found["against"] else "")
        for own, mean in found["means"].items()
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, and write results/adapt.json after every collection."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small collection, one seed, one epoch")
    parser.add_argument("--datasets", default=DATASETS)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args(argv)
    if options.quick:
        options.datasets, options.seeds = "adi:test", "0"
    more = {"stages.0.epochs": 1} if options.quick else {}
    seeds = [int(seed) for seed in options.seeds.split(",")]
    table: dict[str, Any] = {}
    for spelling in options.datasets.split(","):
        name, _, split = spelling.partition(":")
        table[spelling] = measured(name, split or "test", seeds, more)
        means = {own: float(np.mean([r["means"][own] for r in table.values()])) for own in table[spelling]["means"]}
        peers = {own: mean for own, mean in means.items() if own != "adapt"}
        packages = ("torch", "bm25s", "transformers")
        extra: dict[str, Any] = {"seeds": seeds, "collections": table, "quick": options.quick}
        common.write("adapt", MEASURE, means["adapt"], peers, packages=packages, **extra)
        print(row(spelling, table[spelling]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
