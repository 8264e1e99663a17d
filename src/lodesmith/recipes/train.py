"""From a recipe to a run directory: data, stored vectors, stages, model, manifest."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from lodesmith import __version__
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.events import Done, Event
from lodesmith.core.files import locked, read_json, sha256_folder, write_json, write_text
from lodesmith.core.hashing import fingerprint, text_key
from lodesmith.core.records import Dataset
from lodesmith.core.registry import check_arguments, check_types, find
from lodesmith.core.tables import Judgements
from lodesmith.evaluation.measures import parse, score
from lodesmith.recipes.recipe import Component, Recipe, StagePlan, load
from lodesmith.recipes.run_report import report

if TYPE_CHECKING:
    from lodesmith.core.vectors import Vectors
    from lodesmith.encoders.projected import IsotropicGaussianEncoder
    from lodesmith.training import Stage

__all__ = ["Training", "finished", "forecast", "plan"]

VALIDATION = ("nDCG@10", "RR@10", "R@1", "R@5", "R@10", "R@100")


def plan(
    source: str,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: Path | None = None,
    resume: bool | str = False,
    reported: bool = True,
) -> Training:
    """Resolve a recipe and its run directory; nothing heavy is loaded yet.

    Args:
        source: a shipped recipe's name or a YAML path.
        overrides: `["seed=1"]` or `{"seed": 1}`.
        out: run directory; `runs/NAME-HASH` where None.
        resume: True goes on with the run in `out`; `"auto"` does so where there is one.
        reported: make the page of the run at the end.

    Raises:
        ConfigError: the recipe is wrong.
        InputError: the data is missing, or the run directory holds a run and `resume` is off.
        ResumeError: the run in `out` is of another recipe.
    """
    recipe = load(source, overrides)
    if recipe.data.path is None:
        raise ConfigError("the recipe has no data", "add data=DIR, a dataset folder")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(Path(recipe.data.path))})})
    _check_components(recipe)
    if not Path(str(recipe.data.path)).is_dir():
        raise InputError("no such dataset folder", "data=DIR takes a folder in BEIR layout", path=recipe.data.path)
    out = out or Path("runs") / f"{recipe.name}-{recipe.fingerprint[:8]}"
    begun = (out / "manifest.json").exists()
    if begun and not resume:
        raise InputError("a run is here already", "go on with --resume, or choose another --out", path=out)
    if begun:
        _check_same(out, recipe)
    elif resume is True:
        raise ResumeError(
            f"{out}: there is no run to resume", "leave --resume out, or give the run's folder with --out"
        )
    return Training(recipe, out, begun, reported)


def _check_components(recipe: Recipe) -> None:
    """Every name and setting of the recipe, before anything is loaded or built."""
    _check_component("encoders", recipe.encoder, "encoder", ("base_model",))
    for number, stage in enumerate(recipe.stages):
        supplied = ("encoder", "document_encoder", "known")
        _check_component("objectives", stage.objective, f"stages.{number}.objective", supplied)
        parse(stage.monitor)
    if recipe.encoder.settings.get("freeze_base", True) is not True:
        raise ConfigError("encoder.freeze_base: only a frozen base can be trained over so far", "set it to true")


def _check_component(family: str, component: Component, label: str, supplied: tuple[str, ...]) -> None:
    found = find(family, component.use)
    check_arguments(found, component.settings, label, supplied)
    check_types(found, component.settings, label, _misfit)


def _misfit(annotation: Any, value: Any) -> str:
    """What pydantic says of a value under an annotation; nothing where it cannot judge."""
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["msg"]
    except PydanticUserError:
        return ""
    return ""


def _check_same(out: Path, recipe: Recipe) -> None:
    begun = read_json(out / "manifest.json").get("recipe")
    if begun != recipe.fingerprint:
        saved = load(out / "recipe.yaml").model_dump(mode="json")
        differing = _differences(saved, recipe.model_dump(mode="json"))
        raise ResumeError(
            f"{out} was begun with another recipe: {differing}", "give the same settings, or another --out"
        )


def _differences(a: Any, b: Any, place: str = "") -> str:
    """The places where two JSON values differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = dict.fromkeys([*a, *b])
        parts = [_differences(a.get(k), b.get(k), f"{place}.{k}" if place else k) for k in keys if a.get(k) != b.get(k)]
        return ", ".join(parts)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        both = enumerate(zip(a, b, strict=True))
        return ", ".join(_differences(x, y, f"{place}.{i}") for i, (x, y) in both if x != y)
    return f"{place} was {a!r}, is {b!r}"


def finished(out: Path) -> bool:
    """Whether a run directory holds a finished training."""
    return (out / "manifest.json").exists() and "model_files" in read_json(out / "manifest.json")


@dataclass(frozen=True)
class Pairs:
    """Training pairs as rows of the stored vectors, and the queries kept for validation.

    Args:
        pairs: int64 [p, 2] of (query row, document row).
        known: int64 [·, 2]: all positives of the training queries.
        queries: text of each query row.
        validation: judgements that validation is measured on; empty for none.
    """

    pairs: NDArray[np.int64]
    known: NDArray[np.int64]
    queries: dict[str, str]
    validation: Judgements


@dataclass
class Training:
    """A planned training. `events` runs it."""

    recipe: Recipe
    out: Path
    resume: bool = False
    reported: bool = True
    """Whether the page of the run is made at the end."""

    def events(self) -> Iterator[Event]:
        """Run all stages, save the model and finish the manifest. What is finished is not done again.

        Raises:
            BusyError: another process trains in this folder.
        """
        with locked(self.out):
            if finished(self.out):
                self._check_data()
                last: Event = Done(0, 0, self.recipe.stages[-1].name, "this run was finished before")
            else:
                self._begin()
                for event in self._run():
                    if isinstance(event, Done):
                        last = event
                    else:
                        yield event
                self._finish()
            if self.reported and not (self.out / "report.html").exists():
                report(self)
            yield last  # when everything is saved: who stops listening here loses nothing

    def _begin(self) -> None:
        if self.resume:
            self._check_data()
            if read_json(self.out / "manifest.json").get("base") != self.encoder.base.fingerprint:
                raise ResumeError(
                    f"{self.out}: the base {self.recipe.base!r} is not what the run was begun with "
                    "(other weights, or another precision on this machine)",
                    "start a new run in another folder",
                )
        write_text(self.out / "recipe.yaml", self.recipe.to_yaml())
        write_json(self.out / "manifest.json", self._manifest())

    def _check_data(self) -> None:
        if read_json(self.out / "manifest.json").get("dataset") != self.dataset.fingerprint:
            raise ResumeError(f"{self.out}: the dataset has changed since", "start a new run in another folder")

    def _manifest(self) -> dict[str, Any]:
        names = ("torch", "transformers", "sentence-transformers", "numpy", "accelerate")
        return {
            "recipe": self.recipe.fingerprint,
            "dataset": self.dataset.fingerprint,
            "base": self.encoder.base.fingerprint,
            "seed": self.recipe.seed,
            "versions": {"lodesmith": __version__, "python": platform.python_version()}
            | {name: metadata.version(name) for name in names},
            "machine": platform.machine(),
        }

    def _run(self) -> Iterator[Event]:
        from lodesmith.training import fit, record
        from lodesmith.training.engine import TorchEngine

        happenings = fit(
            [self._stage(stage) for stage in self.recipe.stages],
            engine=TorchEngine(seed=self.recipe.seed),
            checkpoints=self.out / "checkpoints",
            resume=True,
            recipe={
                "recipe": self.recipe.fingerprint,
                "dataset": self.dataset.fingerprint,
                "base": self.encoder.base.fingerprint,
            },
        )
        yield from record(happenings, self.out / "metrics.jsonl")

    def _finish(self) -> None:
        self.encoder.save(self.out / "model")
        write_json(self.out / "manifest.json", self._manifest() | {"model_files": sha256_folder(self.out / "model")})

    # what the stages are made of

    @cached_property
    def dataset(self) -> Dataset:
        """The training data."""
        return Dataset.load(str(self.recipe.data.path))

    @cached_property
    def encoder(self) -> IsotropicGaussianEncoder:
        """Base and projection, seeded before the projection is drawn."""
        from lodesmith.encoders.transformer import TransformerEncoder
        from lodesmith.training.engine import seed_everything

        base = TransformerEncoder(self.recipe.base)
        seed_everything(self.recipe.seed)
        settings = self.recipe.encoder.settings
        if "metric" not in settings and (metric := self.recipe.stages[-1].objective.settings.get("similarity")):
            settings["metric"] = metric
        encoder: IsotropicGaussianEncoder = find("encoders", self.recipe.encoder.use)(base_model=base, **settings)
        return encoder

    @cached_property
    def pairs(self) -> Pairs:
        """Training pairs and validation queries."""
        return make_pairs(self.dataset, self.recipe)

    @cached_property
    def documents(self) -> Vectors:
        """The base's vectors of all documents, each text encoded once."""
        from lodesmith.encoders.corpus import VectorCache

        items = ((key, document.content) for key, document in self.dataset.documents.items())
        return VectorCache().vectors(self.encoder.base, items, "document")

    @cached_property
    def queries(self) -> Vectors:
        """The base's vectors of the training queries."""
        from lodesmith.encoders.corpus import VectorCache

        return VectorCache().vectors(self.encoder.base, self.pairs.queries.items(), "query")

    def _stage(self, stage: StagePlan) -> Stage:
        from lodesmith.data.batching import PairBatches
        from lodesmith.training import Stage

        objective = find("objectives", stage.objective.use)(
            self.encoder.projection, known=self.pairs.known, **stage.objective.settings
        )
        batches = PairBatches(
            self.pairs.pairs,
            self.queries,
            self.documents,
            batch_size=stage.batch_size,
            seed=self.recipe.seed,
            known=self.pairs.known,
            pool=len(self.documents) if stage.pool == "corpus" else stage.pool,
        )
        validate = self._validation() if self.pairs.validation else None
        return Stage(
            name=stage.name,
            objective=objective,
            batches=batches,
            optim=stage.optim,
            epochs=stage.epochs,
            validate=validate,
            validate_first=validate is not None,
            monitor=stage.monitor if validate else None,
            patience=stage.patience if validate else None,
            checkpoint_every=stage.checkpoint_every,
        )

    def _validation(self) -> Any:
        """Measures over every document, by exact search with the projection as it is."""
        from lodesmith.encoders.corpus import VectorCache

        judgements = self.pairs.validation
        texts = {key: self.dataset.queries[key].content for key in judgements}
        queries = VectorCache().vectors(self.encoder.base, texts.items(), "query")
        measures = [parse(name) for name in dict.fromkeys([*VALIDATION, *(s.monitor for s in self.recipe.stages)])]
        drop = self.dataset.drop_same_id

        def validate() -> Mapping[str, float]:
            index = find("indexes", "flat")(metric=self.encoder.metric)
            index.add(self.encoder.project(self.documents))
            run = index.search(self.encoder.project(queries), 100 + drop)
            return score(run, judgements, measures, drop_same_id=drop).means

        return validate


def make_pairs(dataset: Dataset, recipe: Recipe) -> Pairs:
    """Rows of all positive judgements of the training split; documents of equal text share a row.

    Where the validation split is missing, a share of the training queries (chosen by id and seed) is kept for it.

    Raises:
        InputError: the split has no positive judgement, or judges what is not there.
    """
    train = dict(dataset.split(recipe.data.train))
    validation: Judgements = {}
    if recipe.data.validation is not None:
        if recipe.data.validation in dataset.judgements:
            validation = dataset.split(recipe.data.validation)
        else:
            kept = [query for query in train if _share(query, recipe.seed) < recipe.data.hold_out]
            validation = {query: train.pop(query) for query in kept}
    rows = _document_rows(dataset)
    texts = {query: dataset.queries[query].content for query in train if query in dataset.queries}
    query_rows = {query: row for row, query in enumerate(texts)}
    pairs = [
        (query_rows[query], rows[document])
        for query, documents in train.items()
        for document, grade in documents.items()
        if grade > 0 and query in query_rows and document in rows
    ]
    if not pairs:
        raise InputError(f"{dataset.name}: the split {recipe.data.train!r} has no usable pair", "`lode data check DIR`")
    known = np.asarray(pairs, np.int64)
    return Pairs(_limited(known, recipe), known, texts, validation)


def _share(query: str, seed: int) -> float:
    """A number in [0, 1) by the query's id."""
    return int(text_key(f"{seed}\0{query}")[:13], 16) / 16**13


def _document_rows(dataset: Dataset) -> dict[str, int]:
    first: dict[str, int] = {}
    return {key: first.setdefault(text_key(d.content), row) for row, (key, d) in enumerate(dataset.documents.items())}


def _limited(pairs: NDArray[np.int64], recipe: Recipe) -> NDArray[np.int64]:
    if recipe.data.limit is None or recipe.data.limit >= len(pairs):
        return pairs
    chosen = np.random.default_rng(recipe.seed).permutation(len(pairs))[: recipe.data.limit]
    return pairs[np.sort(chosen)]


def forecast(training: Training) -> dict[str, Any]:
    """What a training will take, without training: texts, steps, disk, memory, and seconds from a timed sample."""
    dataset, pairs, base = training.dataset, training.pairs, training.encoder.base
    sample = [d.content for _, d in zip(range(64), dataset.documents.values(), strict=False)]
    base.encode(sample[:4])
    start = time.perf_counter()
    base.encode(sample)
    rate = len(sample) / (time.perf_counter() - start)
    texts = len(dataset.documents) + len(pairs.queries) + len(pairs.validation)
    stored = texts * base.dimension * 4
    steps = {s.name: s.epochs * -(-len(pairs.pairs) // s.batch_size) for s in training.recipe.stages}
    return {
        "recipe": training.recipe.name,
        "fingerprint": fingerprint(training.recipe.model_dump(mode="json"))[:12],
        "out": str(training.out),
        "pairs": len(pairs.pairs),
        "validation_queries": len(pairs.validation),
        "steps": steps,
        "trainable_parameters": sum(p.numel() for p in training.encoder.projection.parameters()),
        "encoding_seconds_at_most": round(texts / rate, 1),
        "vectors_bytes": stored,
        "memory_bytes": stored * 2 + training.encoder.parameters_total * 4,
    }
