"""A system measured in several variants on datasets: a file each, in a folder a dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lodesmith.core.errors import InputError
from lodesmith.core.records import Dataset
from lodesmith.core.results import Evaluation
from lodesmith.core.run import Run
from lodesmith.recipes.benchmarking import targets

__all__ = ["Kept", "measure_variants"]

Kept = Callable[[str], Evaluation | None]
"""The name of a system → what is in its evaluation file, None where there is none, or its run file is missing."""
Measured = Callable[[Dataset, str, Kept], Iterable[tuple[Evaluation, Run | None]]]
"""A dataset, a split, and what was measured before → the evaluation and the run of each variant; None for a run where
the evaluation is one of those."""


def measure_variants(
    datasets: Sequence[str | Path],
    measured: Measured,
    *,
    split: str = "test",
    out: Path | None = None,
    run: Path | None = None,
    by: str = "variants",
    unjudged: bool = False,
) -> list[Evaluation]:
    """Measure every variant on every dataset; files are written as soon as a variant is measured.

    Args:
        datasets: folders, BEIR sets or groups.
        measured: measures the variants on one.
        split: whose queries.
        out: folder of the evaluation files; with several datasets a folder each in it.
        run: the same of the TREC run files.
        by: what the variants are, for the message.
        unjudged: whether a dataset without any judgement can be measured.

    Raises:
        InputError: a dataset is not there, lacks the split, or two have the same name; `out` or `run` is a file.
    """
    chosen = [(target, Dataset.load(target.folder)) for target in targets(datasets)]
    folders = _folders([dataset for _, dataset in chosen], {"out": out, "run": run}, by)
    for target, dataset in chosen:
        if dataset.judgements or not unjudged:
            dataset.split(target.split(split))
    found: list[Evaluation] = []
    for target, dataset in chosen:
        places = folders[dataset.name]
        for evaluation, ranking in measured(dataset, target.split(split), partial(_kept, places)):
            if ranking is not None and (place := places["run"]) is not None:
                ranking.save(place / f"{_safe(evaluation.system)}.trec", tag=evaluation.system)
            if ranking is not None and (place := places["out"]) is not None:
                evaluation.save(place / f"{_safe(evaluation.system)}.json")  # last: it says that it is finished
            found.append(evaluation)
    return found


def _kept(places: Mapping[str, Path | None], system: str) -> Evaluation | None:
    """What was measured before; none where a file is missing or damaged."""
    out, run = places["out"], places["run"]
    if out is None or (run is not None and not (run / f"{_safe(system)}.trec").is_file()):
        return None
    try:
        return Evaluation.load(out / f"{_safe(system)}.json")
    except (InputError, OSError):
        return None


def _safe(name: str) -> str:
    return re.sub(r"^\.+|[^\w.@=,-]+", "_", name)


def _folders(datasets: Sequence[Dataset], given: dict[str, Path | None], by: str) -> dict[str, dict[str, Path | None]]:
    """Dataset → where its evaluations (`out`) and runs go."""
    names = [_safe(dataset.name) for dataset in datasets]
    if len(set(names)) < len(names):
        raise InputError(f"two datasets are called {max(names, key=names.count)!r}", "evaluate them one at a time")
    for path in given.values():
        if path is not None and path.exists() and not path.is_dir():
            raise InputError(f"with {by} there is a file for each, and this is no folder", "name a folder", path=path)
    several = len(datasets) > 1
    return {
        dataset.name: {key: None if path is None else path / name if several else path for key, path in given.items()}
        for dataset, name in zip(datasets, names, strict=True)
    }
