"""The Python API: what `import lodesmith as lode` offers beside the nouns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lodesmith.core.events import Event
from lodesmith.core.protocols import Encoder
from lodesmith.core.records import Dataset
from lodesmith.core.results import Comparison, Evaluation
from lodesmith.core.run import Run

__all__ = ["compare", "evaluate", "load", "search", "train"]


def load(model: str | Path) -> Encoder:
    """An encoder from a model folder, a run directory, a hub name or `minilm`.

    Its `encode(texts, side="query" | "document")` gives `Vectors`.

    Raises:
        InputError: there is no such model here.
        IntegrityError: a run's weights are not those that training wrote.
    """
    from lodesmith.recipes.systems import load_encoder

    return load_encoder(str(model))


def train(
    recipe: str | Path, *, out: str | Path | None = None, resume: bool = False, **overrides: Any
) -> Iterator[Event]:
    """Train a recipe and yield what happens; a name with dots is spelled `**{"stages.0.optim.lr": 1e-4}`.

    Args:
        recipe: a shipped name or a YAML path.
        out: run directory; `runs/NAME-HASH` where not given.
        resume: go on with an interrupted run.
        overrides: settings, such as `data="my-dataset"`, `seed=1`.

    Raises:
        ConfigError: the recipe or an override is wrong. Raised at once, before the first event is asked for.
    """
    from lodesmith.recipes.train import plan

    training = plan(str(recipe), overrides, out=Path(out) if out else None, resume=resume)
    return training.events()


def evaluate(
    system: str, dataset: Dataset | str | Path, split: str = "test", measures: Sequence[str] = ()
) -> Evaluation:
    """Measure a system (`bm25`, a model, a run file, `A+B` …) on the judged queries of a split."""
    from lodesmith.recipes.evaluating import evaluate_system
    from lodesmith.recipes.systems import resolve

    data = dataset if isinstance(dataset, Dataset) else Dataset.load(dataset)
    data.split(split)
    return evaluate_system(resolve(str(system), data), data, split, measures)[0]


def compare(
    evaluations: Sequence[Evaluation],
    *,
    measure: str = "nDCG@10",
    baseline: str | None = None,
    planned: Sequence[tuple[str, str]] | None = None,
) -> Comparison:
    """Compare evaluations query by query, every pair or the `planned` ones; Holm's correction runs over these."""
    from lodesmith.evaluation.compare import compare as run

    return run(evaluations, measure=measure, baseline=baseline, planned=planned)


def search(index: str | Path, queries: str | Sequence[str] | Mapping[str, str], k: int = 10) -> Run:
    """Search an index folder with texts; their ids are "0", "1", … where they are not a mapping of id to text."""
    from lodesmith.recipes.storing import open_searcher

    if isinstance(queries, str):
        queries = [queries]
    named = queries if isinstance(queries, Mapping) else {str(i): text for i, text in enumerate(queries)}
    return open_searcher(Path(index)).retriever.search(named, k)
