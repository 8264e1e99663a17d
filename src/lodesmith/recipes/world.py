"""A world to learn in, on disk: documents and questions as a dataset, and a small language model that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lodesmith.core.columns import ColumnWriter
from lodesmith.core.errors import ConfigError
from lodesmith.core.events import Event
from lodesmith.core.files import atomic_folder
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.lessons import Lessons, levels
from lodesmith.data.supervision import PARAPHRASE
from lodesmith.data.world import (
    NEW_QUESTIONS,
    NEW_STATEMENTS,
    NEW_STEPS,
    OPENINGS,
    QUESTIONS,
    RELATIONS,
    STATEMENTS,
    STEPS,
    Fact,
    World,
)
from lodesmith.encoders._small_llama import small_llama, word_tokenizer
from lodesmith.recipes.learners._ranks import ranks

if TYPE_CHECKING:
    from lodesmith.training import Stage

__all__ = ["SOURCE", "Sizes", "reader_events", "write_world"]

SOURCE = "lodesmith.data.world"
"""What a world's `dataset.json` names as its source."""
_SHARES = (1.0, 1.0, 0.5)
"""How long training documents are, beside the others."""
_ALONE = "document"
"""What documents are called that no query judges."""
ENOUGH = 0.85
"""Accuracy from which a reader goes on to the next level, where it learns the rest."""
AGAIN = "tell what is what"
"""What is asked where the answer is a paraphrase."""
PROMPT = "{documents} {question}"
"""How the reader is asked: documents, then the question, whose last word the answer follows."""


@dataclass(frozen=True)
class Sizes:
    """How large a world is.

    Args:
        documents: to learn to compress, with all their questions in the column `questions`; no query judges them.
        instructed: other documents to train on, whose questions are the queries of the split train. The later stages
            learn from documents that the first has not met.
        facts: of a document.
        about: names of a document.
        relations: of a document beside friends, drawn for each. Where they are few, a relation has many values, and
            only who is told from whom gives the right one.
        openings: of each sentence, which tell nothing.
        dev: documents of held-out names for validation, and `test` to measure; `forms` have sentences and questions of
            forms that training does not meet, too.
        test: see `dev`.
        forms: see `dev`.
        asked: questions on each of these documents; on those to train on all are asked.
        read: documents that a question is answered from.
        candidates: documents that a question of train or dev is asked among.

    Raises:
        ConfigError: more openings or relations than there are, or no relation.
    """

    documents: int = 9000
    instructed: int = 6000
    facts: int = 8
    about: int = 4
    relations: int = 1
    openings: int = 2
    dev: int = 64
    test: int = 300
    forms: int = 100
    asked: int = 4
    read: int = 1
    candidates: int = 20

    def __post_init__(self) -> None:
        if not (0 <= self.openings <= len(OPENINGS) and 1 <= self.relations <= len(RELATIONS)):
            raise ConfigError(
                f"documents cannot have {self.openings} openings a sentence and {self.relations} relations",
                f"0 to {len(OPENINGS)} openings, 1 to {len(RELATIONS)} relations",
            )


def write_world(folder: Path, sizes: Sizes | None = None, seed: int = 0, world: World | None = None) -> Dataset:
    """Write the dataset: documents to learn to compress, with questions and a paraphrase of each in the column
    `questions`, and documents with judged queries that have answers, in the splits train, dev, test and forms. A
    paraphrase has the same facts in sentences of one form, and nothing else. A name is in one document alone, so that a
    question on it has one answer in the whole corpus.

    Args:
        folder: of the dataset.
        sizes: how large.
        seed: of what is said.
        world: of what there is to say.

    Raises:
        ConfigError: the world has too few names, or fewer relations than a document.
    """
    sizes, world = _together(sizes, world)
    documents, queries = [], []
    taken: dict[bool, set[str]] = {True: set(), False: set()}
    judged: dict[str, dict[str, dict[str, int]]] = {}
    column: dict[str, list[dict[str, Any]]] = {}
    counts = {_ALONE: sizes.documents, "train": sizes.instructed}
    counts |= {"dev": sizes.dev, "test": sizes.test, "forms": sizes.forms}
    for split, count in counts.items():
        new = split == "forms"
        said = (*STATEMENTS, *NEW_STATEMENTS) if new else STATEMENTS
        forms, steps = (NEW_QUESTIONS, NEW_STEPS) if new else (QUESTIONS, STEPS)
        own = judged.setdefault(split, {}) if split != _ALONE else {}
        for number in range(count):
            draw = Random(f"{seed} {split} {number}")
            facts = _facts(world, draw, sizes, split, taken)
            name = f"{split}{number}"
            documents.append(Document(name, "", world.story(draw, facts, forms=said, openings=sizes.openings).text))
            asked = list(world.questions(draw, facts, forms=forms, steps=steps))
            draw.shuffle(asked)
            if split == _ALONE:
                rows = [{"question": q.text, "answers": [q.answer], "kind": q.kind} for q in asked]
                other = Random(f"{seed} paraphrase {number}")
                again = world.story(other, facts, forms=(other.choice(STATEMENTS),)).text
                column[name] = [*rows, {"question": AGAIN, "answers": [again], "kind": PARAPHRASE}]
                continue
            for at, question in enumerate(asked if split == "train" else asked[: sizes.asked]):
                queries.append(Query(f"{name}.{at}", question.text, (question.answer,)))
                own[f"{name}.{at}"] = {name: 1}
    info = {"source": SOURCE, "seed": seed, "sizes": asdict(sizes), "world": asdict(world)}
    Dataset.of(documents, queries, judged, name="world", **info).save(folder)
    with ColumnWriter(folder, "questions", "document", made_by=info) as writer:
        for name in writer.missing(column):
            writer.add(name, column[name], {"kept": len(column[name])})
        writer.finish()
    return _with_candidates(Dataset.load(folder), folder, sizes.candidates)


def _together(sizes: Sizes | None, world: World | None) -> tuple[Sizes, World]:
    """Sizes and a world that has so many relations."""
    sizes, world = sizes or Sizes(), world or World()
    if sizes.relations > world.relations:
        raise ConfigError(f"a document has {sizes.relations} relations, and the world {world.relations}")
    return sizes, world


def _with_candidates(dataset: Dataset, folder: Path, count: int) -> Dataset:
    """The documents that BM25 finds for the questions of train and dev, in the column `candidates`: these are learned
    from, and validated, among documents like those that others are measured among. Those of train are asked among
    documents to train on."""
    from lodesmith.retrieval.bm25 import BM25

    learned = {document for document in dataset.documents if document.startswith((_ALONE, "train"))}
    found: dict[str, list[str]] = {}
    for split, among in (("train", learned), ("dev", set(dataset.documents))):
        lexical = BM25().build((key, own.content) for key, own in dataset.documents.items() if key in among)
        run = lexical.search({key: query.text for key, query in dataset.queries_of(split).items()}, count)
        found |= {query: [document for document, _ in ranked] for query, ranked in run.items()}
    made_by = {"with": "BM25", "count": count, "texts": dataset.fingerprint}
    with ColumnWriter(folder, "candidates", "query", made_by=made_by) as writer:
        for key in writer.missing(found):
            writer.add(key, [{"ids": found[key]}], {})
        writer.finish()
    return Dataset.load(folder)


def _facts(world: World, draw: Random, sizes: Sizes, split: str, taken: Mapping[bool, set[str]]) -> list[Fact]:
    """Those of a document, whose names are taken then. Some that are trained on are shorter."""
    held_out = split not in (_ALONE, "train")
    share = 1.0 if held_out else draw.choice(_SHARES)
    facts = world.facts(
        draw,
        max(1, round(share * sizes.facts)),
        max(1, round(share * sizes.about)),
        held_out=held_out,
        taken=taken[held_out],
        relations=sizes.relations,
    )
    taken[held_out].update(fact.name for fact in facts)
    return facts


@dataclass(frozen=True)
class Reader:
    """The language model of a world.

    Args:
        width: of its states.
        layers: of the transformer.
        heads: of attention.
        lr: learning rate.
        batch: lessons of a step.
        steps: optimiser steps of the last level; each one before it has three times as many at most.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    lr: float = 2e-3
    batch: int = 32
    steps: int = 700


def _new_reader(world: World, reader: Reader, seed: int) -> tuple[Any, Any]:
    """A model of random weights and its tokenizer."""
    import torch

    words = {word: number for number, word in enumerate(world.vocabulary)}
    tokenizer = word_tokenizer(words, "<unk>")
    torch.manual_seed(seed)
    model = small_llama(tokenizer, width=reader.width, layers=reader.layers, heads=reader.heads)
    return model, tokenizer


def reader_events(
    out: Path, sizes: Sizes | None = None, *, reader: Reader | None = None, seed: int = 0, world: World | None = None
) -> Iterator[Event]:
    """Train the reader, level by level, each until it answers; `out/model` is the language model's folder.

    Killed, it goes on where it was. A level that is not learned in its steps is left with a warning.
    """
    from lodesmith.training import fit, record
    from lodesmith.training.engine import TorchEngine

    reader, (sizes, world) = reader or Reader(), _together(sizes, world)
    model, tokenizer = _new_reader(world, reader, seed)
    stages = list(_stages(model, tokenizer.get_vocab(), sizes, reader, seed, world))
    happenings = fit(
        stages,
        engine=TorchEngine(seed=seed),
        checkpoints=out / "checkpoints",
        resume=True,
        recipe={"sizes": asdict(sizes), "reader": asdict(reader), "world": asdict(world)},
    )
    if ranks()[0]:
        yield from happenings
        return
    yield from record(happenings, out / "metrics.jsonl")
    with atomic_folder(out / "model") as new:
        model.save_pretrained(str(new))
        tokenizer.save_pretrained(str(new))


def _stages(
    model: Any, words: Mapping[str, int], sizes: Sizes, reader: Reader, seed: int, world: World
) -> Iterator[Stage]:
    from lodesmith.objectives.language import Language
    from lodesmith.training import Stage
    from lodesmith.training.optim import OptimSettings

    plan = levels(sizes.facts, sizes.read)
    words = dict(sorted(words.items(), key=lambda word: word[1]))
    for number, level in enumerate(plan):
        last = number == len(plan) - 1
        settings = {"vocabulary": words, "batch_size": reader.batch, "seed": seed}
        settings |= {"about": sizes.about, "openings": sizes.openings, "relations": sizes.relations}
        new = settings | {"seed": seed + 1}  # lessons like these, and none of them
        lessons = Lessons(world, plan, number, length=50, shard=ranks(), **settings)  # type: ignore[arg-type]
        optim = {"lr": reader.lr, "betas": (0.9, 0.98), "schedule": "cosine" if last else "constant", "warmup": 50}
        yield Stage(
            name=level.name,
            objective=Language(model),
            batches=lessons,
            optim=OptimSettings.model_validate(optim),
            steps=reader.steps if last else 3 * reader.steps,
            validate=_measured(model, Lessons(world, plan, number, held_out=last, **new)),  # type: ignore[arg-type]
            validate_every=50,
            monitor="accuracy",
            enough=None if last else ENOUGH,
            checkpoint_every=200,
        )


def _measured(model: Any, lessons: Lessons) -> Callable[[], Mapping[str, float]]:
    """The share of the answers' tokens that the model would write."""
    from lodesmith.objectives.language import Language

    batches = [lessons.batch(0, number) for number in range(4)]

    def measure() -> Mapping[str, float]:
        objective = Language(model).eval()
        found = []
        for batch in batches:
            objective({name: v.to(model.device) if hasattr(v, "to") else v for name, v in batch.items()})
            found.append(float(objective.evidence["accuracy"]))
        return {"accuracy": sum(found) / len(found)}

    return measure
