"""Documents by the teacher, queries by student or teacher: a router is trained, and its curve measured."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import atomic_folder, write_json, write_text
from lodesmith.core.progress import tell
from lodesmith.core.records import Dataset
from lodesmith.core.run import Run
from lodesmith.evaluation.agreement import overlap
from lodesmith.evaluation.calibration import reliability
from lodesmith.evaluation.hits import Floats
from lodesmith.evaluation.measures import parse, score
from lodesmith.evaluation.significance import SAME
from lodesmith.recipes._hybrid_curve import MEASURE, Curve, curve
from lodesmith.recipes._hybrid_folder import ROUTER, Pair, pair_of, rarity_of, written
from lodesmith.recipes.benchmarking import targets
from lodesmith.recipes.systems import Resolver
from lodesmith.retrieval.routed import DEPTH, FEATURES, Routed, Router, features

__all__ = ["Target", "hybrid", "outcomes"]

Target = Literal["overlap", "judged"]
SHARES = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6)
"""Shares of queries that five thresholds are to send to the teacher."""
_STRANGE = 0.1
_RARE = 0.05
"""Share of training queries below which an outcome says little about the others."""

_log = logging.getLogger(__name__)


def hybrid(  # noqa: PLR0913 - the options of the verb
    student: str,
    teacher: str,
    dataset: str | Path,
    out: Path,
    *,
    split: str = "train",
    test: str = "test",
    target: Target = "overlap",
    level: float = 0.5,
    passages: int | None = None,
    seed: int = 0,
) -> Curve:
    """Train a router on the queries of one split, measure it on another, and write the hybrid's folder.

    A student that was distilled on the queries of `split` is nearer to its teacher there than elsewhere; a router that
    learns from them ranks queries well and says too low probabilities. The reliability on both splits is told.

    The folder has `manifest.json`, `router.json`, `report.json` and `curve.svg`, and is a system that can be evaluated.

    Args:
        student: a model in the teacher's space.
        teacher: a model; its vectors of the documents are the index.
        dataset: folder, or a pulled BEIR set.
        out: folder, new or a hybrid's.
        split: whose queries the router learns from.
        test: whose queries the curve is measured on.
        target: what the router predicts. `overlap`: that the student finds less than `level` of the teacher's first
            ten, which needs no judgements; `judged`: that the teacher's nDCG@10 is higher.
        level: of the overlap, 0 to 1.
        passages: split documents into windows of so many tokens.
        seed: of the folds and of what is drawn.

    Raises:
        InputError: a split is missing or has fewer than 50 queries, the spaces differ, or `out` holds something else.
        ConfigError: a setting is wrong.
    """
    if target not in get_args(Target):
        raise ConfigError(f"no target is called {target!r}", f"choose one of: {', '.join(get_args(Target))}")
    if not 0 < level <= 1:
        raise ConfigError(f"level is {level}", "choose a share of the first ten, above 0 and at most 1")
    data = _opened(dataset, split, test, out)
    pair = pair_of(Resolver(data, passages), student, teacher)
    tell("hybrid", 0, 3, "steps")
    rarity = rarity_of(data)
    router, held, told = _trained(pair, data, rarity, split, target, level, seed)
    tell("hybrid", 1, 3, "steps")
    thresholds = {share: float(np.quantile(held, 1 - share)) for share in SHARES}
    routed = Routed(pair.student, pair.teacher.retriever, router, rarity, thresholds[SHARES[2]])
    judge = partial(outcomes, data=data, split=test, target=target, level=level)
    found = curve(routed, data, test, thresholds, judge, seed=seed)
    found = replace(found, training=told)
    tell("hybrid", 2, 3, "steps")
    settings = {"student": student, "teacher": teacher, "passages": passages, "threshold": routed.threshold}
    _write(out, replace(router, info=told), found, settings, pair, data)
    tell("hybrid", 3, 3, "steps")
    return found


def _opened(dataset: str | Path, split: str, test: str, out: Path) -> Dataset:
    """The dataset, with both splits; and `out` can be written."""
    chosen = targets([dataset])
    if len(chosen) != 1:
        raise InputError(f"{dataset} is {len(chosen)} datasets", "a router is made for one")
    data = Dataset.load(chosen[0].folder)
    data.split(split, "a router learns from queries that it is not measured on: choose them with --split")
    data.split(test, "choose one with --test")
    if split == test:
        raise InputError(f"the router would be measured on what it learned from, {split!r}", "choose two splits")
    foreign = out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / ROUTER).is_file())
    if foreign:
        raise InputError("exists and is not a hybrid", "choose another folder, or delete it", path=out)
    return data


def _trained(
    pair: Pair, data: Dataset, rarity: Any, split: str, target: Target, level: float, seed: int
) -> tuple[Router, Floats, dict[str, Any]]:
    """The router, its held-out probabilities, and what is told of both."""
    queries = {key: query.content for key, query in data.queries_of(split).items()}
    runs = tuple(each.search(queries, DEPTH + data.drop_same_id) for each in (pair.student, pair.teacher.retriever))
    wanted = outcomes(runs[0], runs[1], data, split, target, level)
    shared = overlap(runs[0], runs[1], DEPTH)
    mean = sum(shared.values()) / max(1, len(shared))
    if mean < _STRANGE:
        _log.warning("the student finds %.0f %% of the teacher's first ten: it may be of another space", 100 * mean)
    if wanted.mean() < _RARE:
        _log.warning(
            "the outcome that the router learns is that of %d of %d queries: it will order the others by little more "
            "than chance%s",
            int(wanted.sum()),
            len(wanted),
            "; a higher --level makes it more frequent" if target == "overlap" else "",
        )
    router, held = Router.fit(features(queries, runs[0].top(DEPTH), rarity), wanted, seed)
    told: dict[str, Any] = {"dataset": data.name, "split": split, "target": target, "overlap@10": mean}
    told |= {"level": level} if target == "overlap" else {}
    told |= {"reliability": reliability(held, wanted)}
    told |= {"weights": dict(zip(FEATURES, router.weights, strict=False))}
    return router, held, told


def outcomes(student: Run, teacher: Run, data: Dataset, split: str, target: Target, level: float) -> Floats:
    """1 for each query of a split on which the teacher does better, else 0: float64 [n], in the queries' order."""
    queries = data.queries_of(split)
    if target == "overlap":
        shared = overlap(student, teacher, DEPTH)
        return np.array([shared[query] < level - SAME for query in queries], np.float64)
    own, whole = (_measured(run, data, split) for run in (student, teacher))
    return np.array([whole[query] > own[query] + SAME for query in queries], np.float64)


def _measured(run: Run, data: Dataset, split: str) -> Mapping[str, float]:
    scores = score(run, data.split(split), [parse(MEASURE)], drop_same_id=data.drop_same_id)
    return {query: values[MEASURE] for query, values in scores.per_query().items()}


def _write(out: Path, router: Router, found: Curve, settings: Mapping[str, Any], pair: Pair, data: Dataset) -> None:
    from lodesmith.reports.curves import portable

    with atomic_folder(out) as new:
        router.save(new / ROUTER)
        write_json(new / "report.json", found.to_json())
        write_text(new / "curve.svg", portable(found.plot()))
        places = {name: _from(out, str(settings[name])) for name in ("student", "teacher")}
        prints = dict(pair.fingerprints) | {"dataset": data.fingerprint}
        write_json(new / "manifest.json", written(new, {**settings, **places, "fingerprints": prints}))


def _from(out: Path, model: str) -> str:
    """A folder as it is found from `out`, so that both can be moved together; other names as they are."""
    return os.path.relpath(Path(model).resolve(), out.resolve()) if Path(model).exists() else model
