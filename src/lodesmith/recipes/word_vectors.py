"""From a recipe of word vectors to a run directory: texts, vocabulary, epochs, and a bag of words as the model."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import ConfigError, ResumeError
from lodesmith.core.events import Checkpoint, Done, Event, Resumed, Step
from lodesmith.core.files import read_json, sha256_folder, write_json, write_text
from lodesmith.core.hashing import fingerprint
from lodesmith.core.records import Dataset
from lodesmith.recipes._run_folder import UNTRAINED, enter, finished, settled, versions
from lodesmith.recipes.learners._ranks import ranks
from lodesmith.recipes.recipe import WordVectorsRecipe
from lodesmith.recipes.run_report import report
from lodesmith.training import tracking

if TYPE_CHECKING:
    from lodesmith.data.plain_texts import PlainTexts
    from lodesmith.encoders import Bag, Vocabulary
    from lodesmith.encoders.word_vectors import Settings, Trainer, WordVectors

__all__ = ["WordVectorsTraining", "plan"]

STAGE = "word_vectors"
SAMPLE = 2_000
"""Texts that a forecast is timed on."""


def plan(
    recipe: WordVectorsRecipe, *, out: Path | None = None, resume: bool | str = False, reported: bool = True
) -> WordVectorsTraining:
    """Look at the texts and the run directory of a recipe; nothing heavy is loaded yet.

    Args:
        recipe: resolved.
        out: run directory; `runs/NAME-HASH` where None.
        resume: True goes on with the run in `out`; `"auto"` does so where there is one.
        reported: make the page of the run at the end, where a dataset has judgements.

    Raises:
        ConfigError: the recipe names no texts.
        MissingExtraError: gensim is not installed.
        InputError: texts are missing, or the run directory holds a run and `resume` is off.
        ResumeError: the run in `out` is of another recipe.
    """
    from lodesmith.encoders.word_vectors import require_gensim

    paths = _paths(recipe.data.path)
    if not paths:
        raise ConfigError("the recipe has no data", "add data=PATH: datasets or texts, comma-separated")
    require_gensim()
    tracking.check(recipe.tracking)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": paths})})
    corpus = Corpus.open(recipe)
    out, begun = enter(recipe, out, resume)
    return WordVectorsTraining(recipe, corpus, out, begun, reported)


def _paths(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Every path by itself; one that has a comma in its name stays whole."""
    if isinstance(given, str):
        given = (given,) if Path(given).exists() else tuple(part.strip() for part in given.split(","))
    return tuple(str(Path(part)) for part in given or () if part)


@dataclass(frozen=True)
class Corpus:
    """What word vectors are trained on: the documents of datasets, and texts.

    Args:
        parts: in the order given.
    """

    parts: tuple[Dataset | PlainTexts, ...]

    @classmethod
    def open(cls, recipe: WordVectorsRecipe) -> Corpus:
        """The corpus of a recipe.

        Raises:
            InputError: a path holds neither a dataset nor texts.
        """
        from lodesmith.data.plain_texts import PlainTexts

        parts: list[Dataset | PlainTexts] = []
        for path in map(Path, recipe.data.path or ()):
            is_dataset = (path / "corpus.jsonl").is_file() or (path / "corpus.jsonl.gz").is_file()
            parts.append(Dataset.load(path) if is_dataset else PlainTexts(path, recipe.data.document))
        return cls(tuple(parts))

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            if isinstance(part, Dataset):
                yield from (document.content for document in part.documents.values())
            else:
                yield from part

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over datasets and files; of one dataset alone it is the dataset's own."""
        prints = [part.fingerprint for part in self.parts]
        return prints[0] if len(prints) == 1 else fingerprint(prints)

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Those of its parts that are datasets."""
        return tuple(part for part in self.parts if isinstance(part, Dataset))

    def queries(self) -> Iterator[str]:
        """The queries of its datasets: nothing is trained on them."""
        for dataset in self.datasets:
            yield from (query.content for query in dataset.queries.values())

    @property
    def skipped(self) -> dict[str, int]:
        """Suffix → files of its folders that are not read."""
        counts: dict[str, int] = {}
        for part in self.parts:
            for suffix, count in getattr(part, "skipped", {}).items():
                counts[suffix] = counts.get(suffix, 0) + count
        return counts


@dataclass
class WordVectorsTraining:
    """A planned training of word vectors. `events` runs it.

    Args:
        recipe: resolved.
        corpus: its texts.
        out: run directory.
        resume: whether a run was begun there.
        reported: whether the page of the run is made at the end.
    """

    recipe: WordVectorsRecipe
    corpus: Corpus
    out: Path
    resume: bool = False
    reported: bool = True

    def events(self) -> Iterator[Event]:
        """Train all epochs, save the model and finish the manifest. What is finished is not done again.

        Of several processes the first alone trains.

        Raises:
            BusyError: another process trains in this folder.
        """
        if ranks()[0]:
            yield Done(0, 0, STAGE, "the first process trains the word vectors")
            return
        yield from settled(self, STAGE)

    def _report(self) -> None:
        if self.reported and self.judged:
            report(self)

    def _check_data(self) -> None:
        if read_json(self.out / "manifest.json").get("dataset") != self.corpus.fingerprint:
            raise ResumeError(f"{self.out}: the texts have changed since", "start a new run in another folder")

    def _begin(self) -> None:
        if self.resume:
            self._check_data()
        write_text(self.out / "recipe.yaml", self.recipe.to_yaml())
        if self.judged and not (self.out / UNTRAINED).exists():
            self._bag("normal").save(self.out / UNTRAINED)
        write_json(self.out / "manifest.json", self._manifest())

    def _manifest(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.fingerprint,
            "dataset": self.corpus.fingerprint,
            "vocabulary": self.vocabulary.fingerprint,
            "seed": self.recipe.seed,
            "versions": versions(("gensim", "numpy", "torch", "sentence-transformers")),
            "machine": platform.machine(),
        }

    def _run(self) -> Iterator[Event]:
        from lodesmith.training import record

        watched = record(self._epochs(), self.out / "metrics.jsonl")
        name, config = self.out.resolve().name, self.recipe.model_dump(mode="json")
        yield from tracking.tracked(watched, self.recipe.tracking, self.out, name=name, config=config)

    def _epochs(self) -> Iterator[Event]:
        """The trainer's epochs as events; a step is an epoch."""
        count, state = self.recipe.word_vectors.epochs, self.trainer.checkpoint
        assert state is not None
        for epoch in self.trainer:
            place = (epoch.number, epoch.number, STAGE)
            if epoch.restored:
                yield Resumed(*place, state)
                continue
            terms = {"negative_sampling": epoch.loss}
            yield Step(*place, terms, epoch.loss, {"default": epoch.rate}, {}, epoch.throughput, count)
            yield Checkpoint(*place, state)
        yield Done(count, count, STAGE, "complete")

    def _finish(self) -> None:
        self._bag(self.trainer.result).save(self.out / "model")
        files = sha256_folder(self.out / "model")
        write_json(self.out / "manifest.json", self._manifest() | {"model_files": files, "found": self._found()})

    def _bag(self, init: str | WordVectors) -> Bag:
        from lodesmith.encoders import Bag
        from lodesmith.training.engine import seed_everything

        seed_everything(self.recipe.seed)
        return Bag(self.vocabulary, self.recipe.word_vectors.dimension, init=init)

    def _found(self) -> dict[str, Any]:
        from lodesmith.encoders import Vocabulary
        from lodesmith.encoders.word_vectors import coverage

        known = self.vocabulary.ids
        found: dict[str, Any] = {"documents": coverage(self.counted, known)}
        if self.corpus.datasets:
            found["queries"] = coverage(Vocabulary.build(self.corpus.queries(), min_count=1, max_size=None), known)
        skipped = {"skipped": self.corpus.skipped} if self.corpus.skipped else {}
        return {"words": len(known) - 2, "coverage": found, **skipped}

    @property
    def summary(self) -> dict[str, Any]:
        """What a finished run found out: `words`, `coverage` of documents and queries, `skipped` files."""
        found: dict[str, Any] = read_json(self.out / "manifest.json").get("found", {}) if finished(self.out) else {}
        return found

    # what the training is made of

    @cached_property
    def counted(self) -> Vocabulary:
        """Every word of the corpus, by falling frequency."""
        from lodesmith.encoders import Vocabulary

        return Vocabulary.build(self.corpus, min_count=1, max_size=None)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words that get vectors: those of `counted` that are frequent enough."""
        return self.counted.cut(self.recipe.word_vectors.min_count, self.recipe.word_vectors.max_size)

    @cached_property
    def trainer(self) -> Trainer:
        """The training itself, its state after each epoch in the run directory."""
        from lodesmith.encoders.word_vectors import Trainer

        return Trainer(
            lambda: self.corpus,
            self.vocabulary,
            self._settings(),
            checkpoint=self.out / "checkpoints" / "epoch",
            scratch=self.out / "checkpoints" / "corpus",
        )

    def _settings(self) -> Settings:
        from lodesmith.encoders.word_vectors import Settings

        return Settings(seed=self.recipe.seed, **self.recipe.word_vectors.model_dump())

    @property
    def judged(self) -> bool:
        """Whether a dataset of the corpus has judgements of the recipe's evaluation split."""
        return any(self.recipe.evaluation.split in dataset.judgements for dataset in self.corpus.datasets)

    @property
    def dataset(self) -> Dataset:
        """The dataset that the run is reported on: the first that is judged."""
        split = self.recipe.evaluation.split
        return next(dataset for dataset in self.corpus.datasets if split in dataset.judgements)

    def forecast(self) -> dict[str, Any]:
        """What the training will take: words, steps, memory, disk, and seconds from a timed sample."""
        from lodesmith.encoders.word_vectors import speed

        own, counted, words = self.recipe.word_vectors, self.counted, len(self.vocabulary) - 2
        rate = speed(islice(self.corpus, SAMPLE), self.vocabulary, self._settings())
        weights = words * own.dimension * 4
        return {
            "recipe": self.recipe.name,
            "fingerprint": self.recipe.fingerprint[:12],
            "out": str(self.out),
            "texts": counted.seen["texts"],
            "tokens": counted.seen["tokens"],
            "vocabulary": words,
            "steps": {STAGE: own.epochs},
            "trainable_parameters": 2 * words * own.dimension,
            "training_seconds": round(own.epochs * int(self.vocabulary.counts.sum()) / rate, 3) if rate else None,
            "memory_bytes": 2 * weights,
            "disk_bytes": 3 * weights + 4 * counted.seen["tokens"],
        }
