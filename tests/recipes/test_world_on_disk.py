"""A world on disk: a dataset that is sound, and a language model that learns to read it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lodesmith.core import events
from lodesmith.core.columns import Column
from lodesmith.core.errors import ConfigError, InputError, ResumeError
from lodesmith.core.files import sha256_folder
from lodesmith.core.records import Dataset
from lodesmith.data.check import check
from lodesmith.data.supervision import examples, pools
from lodesmith.data.world import (
    FRIEND,
    NEW_QUESTIONS,
    NEW_STATEMENTS,
    NEW_STEPS,
    OPENINGS,
    QUESTIONS,
    STATEMENTS,
    STEPS,
    World,
)
from lodesmith.encoders import MemoryEncoder
from lodesmith.recipes import quickstart_clara
from lodesmith.recipes.quickstart_clara import Scale
from lodesmith.recipes.steps import Steps
from lodesmith.recipes.world import PROMPT, Reader, Sizes, reader_events, write_world

SIZES = Sizes(documents=28, instructed=12, facts=10, about=3, relations=3, dev=6, test=12, forms=8, asked=4)
LEARNED = ("document", "train")
"""How the names of documents to train on begin."""
WORLD = World(names=32, relations=5, values=8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_world(tmp_path_factory.mktemp("world") / "world", SIZES, 3, WORLD)


def fits(text: str, forms: tuple[str, ...]) -> bool:
    """Whether a question has one of the forms."""
    told = text.split()
    for form in forms:
        wanted = form.replace("{name}", "{name} {name}").split()
        if len(wanted) == len(told) and all("{" in a or a == b for a, b in zip(wanted, told, strict=True)):
            return True
    return False


def test_nothing_is_wrong_with_it(dataset: Dataset) -> None:
    assert dataset.folder is not None
    report = check(dataset.folder)
    assert report.ok
    kinds = set(report.problems)
    assert kinds <= {"near-duplicate-query"}, kinds  # the same form, of a name that shares a word
    assert dataset.info["seed"] == 3
    assert dataset.info["world"] == asdict(WORLD)
    assert dataset.info["sizes"] == asdict(SIZES)


def test_it_has_what_its_sizes_say(dataset: Dataset) -> None:
    counts = {split: len(judged) for split, judged in dataset.judgements.items()}
    assert counts == {"train": len(dataset.split("train")), "dev": 24, "test": 48, "forms": 32}
    assert 80 < counts["train"] <= 12 * 13  # short documents have fewer questions
    assert len(dataset.documents) == 28 + 12 + 6 + 12 + 8
    assert all(len(query.answers) == 1 for query in dataset.queries.values())


def test_the_quickstart_writes_over_no_other_dataset(dataset: Dataset, tmp_path: Path) -> None:
    own = Path(shutil.copytree(str(dataset.folder), tmp_path / "dataset"))
    before = sha256_folder(own)
    for scale, seed in ((Scale(), 3), (Scale(sizes=SIZES), 4)):  # another size, another seed
        with pytest.raises(InputError, match="another dataset is here"):
            quickstart_clara.run(tmp_path, scale=scale, seed=seed)
    (own / "dataset.json").unlink()  # somebody's own
    with pytest.raises(InputError, match="another dataset is here"):
        quickstart_clara.run(tmp_path, scale=Scale(sizes=SIZES), seed=3)
    assert sha256_folder(own) == {name: bits for name, bits in before.items() if name != "dataset.json"}
    shutil.copy(Path(str(dataset.folder)) / "dataset.json", own)
    assert quickstart_clara._Job(tmp_path, Scale(sizes=SIZES), 3, Steps(tmp_path, print), print)._check(own) is None


def names_of(text: str) -> set[str]:
    told = text.split()
    firsts, lasts = set(WORLD.first), set(WORLD.last)
    return {f"{a} {b}" for a, b in pairwise(told) if a in firsts and b in lasts}


def test_a_question_has_one_answer_in_the_whole_corpus(dataset: Dataset) -> None:
    met: Counter[str] = Counter()
    for document in dataset.documents.values():
        met.update(names_of(document.content))
    assert max(met.values()) == 1
    names = {key: names_of(document.content) for key, document in dataset.documents.items()}
    trained = {name for key, own in names.items() if key.startswith(LEARNED) for name in own}
    asked = {name for key, own in names.items() if not key.startswith(LEARNED) for name in own}
    assert trained
    assert not trained & asked
    for split in ("dev", "test", "forms"):
        for query, judged in dataset.split(split).items():
            (document,) = judged
            content = dataset.documents[document].content
            assert names_of(dataset.queries[query].text) <= names_of(content)
            assert set(dataset.queries[query].answers[0].split()) <= set(content.split())
    texts = [dataset.queries[key].text for split in ("dev", "test", "forms") for key in dataset.split(split)]
    assert len(set(texts)) == len(texts)


def test_unseen_forms_are_of_one_split(dataset: Dataset) -> None:
    for split in dataset.judgements:
        own, other = ((*QUESTIONS, *STEPS), (*NEW_QUESTIONS, *NEW_STEPS))
        if split == "forms":
            own, other = other, own
        for query in dataset.split(split):
            text = dataset.queries[query].text
            assert fits(text, own)
            assert not fits(text, other)
    (new,) = NEW_STATEMENTS
    begins = [f"{opening} {new.split()[0]} its" for opening in OPENINGS]
    assert not [form for form in STATEMENTS if form.startswith(f"{new.split()[0]} ")]
    with_new = {
        key.rstrip("0123456789")
        for key, document in dataset.documents.items()
        for sentence in document.content.split(" . ")
        if any(begin in sentence for begin in begins)
    }
    assert with_new == {"forms"}


def test_the_column_asks_of_documents_that_no_query_judges(dataset: Dataset) -> None:
    assert dataset.folder is not None
    column = Column.load(dataset.folder, "questions")
    assert set(column.rows) == {key for key in dataset.documents if key.startswith("document")}
    assert len(column.rows) == SIZES.documents
    found = examples(dataset, "train")
    judged = dataset.queries_of("train")
    assert len(found) == sum(map(len, column.rows.values())) + len(judged)  # nothing is in both
    assert {example.kind for example in found} == {"qa", "simple", "complex", "paraphrase"}
    assert [example.query for example in found if example.kind == "qa"] == list(judged)
    again = {example.relevant[0]: example.answers[0] for example in found if example.kind == "paraphrase"}
    assert set(again) == set(column.rows)
    for key, text in again.items():
        assert sorted(set(text.split())) != sorted(dataset.documents[key].text.split())
        said = {*dataset.documents[key].text.split()}
        assert {word for word in text.split() if word in WORLD.first or word in WORLD.last} <= said
    ways = {"qa": "train"}  # the second stage learns from documents that the first has not met
    for example in found:
        assert all(document.startswith(ways.get(example.kind, "document")) for document in example.relevant)
    assert all(len(set(pool)) == 20 for pool in pools(dataset, found[:20], 20))


def test_a_document_has_so_many_relations(dataset: Dataset) -> None:
    for key, document in dataset.documents.items():
        told = {word for word in document.text.split() if word in WORLD.known}
        assert 1 <= len(told) <= SIZES.relations
        if not key.startswith(LEARNED):
            assert FRIEND in document.text.split()
    told = {frozenset(set(own.text.split()) & set(WORLD.known)) for own in dataset.documents.values()}
    assert len(told) > 5


def test_what_is_learned_from_is_asked_among_what_bm25_finds(dataset: Dataset) -> None:
    assert dataset.folder is not None
    rows = Column.load(dataset.folder, "candidates").rows
    assert set(rows) == {key for split in ("train", "dev") for key in dataset.queries_of(split)}
    for key, (row,) in rows.items():
        assert 0 < len(row["ids"]) <= SIZES.candidates
        if key.startswith("train"):
            assert all(document.startswith(LEARNED) for document in row["ids"])
        words = {*dataset.queries[key].text.split()[-2:]}
        assert words & {*dataset.documents[row["ids"][0]].text.split()}
    asked = examples(dataset, "dev")
    for example, pool in zip(asked, pools(dataset, asked, SIZES.candidates, 0), strict=True):
        others = [document for document in rows[example.query][0]["ids"] if document not in example.relevant]
        assert list(pool) == [*example.relevant, *others][: SIZES.candidates]


def test_the_same_seed_writes_the_same_bytes(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.folder is not None
    again, other = (write_world(tmp_path / str(seed) / "world", SIZES, seed, WORLD) for seed in (3, 4))
    assert sha256_folder(again.folder) == sha256_folder(dataset.folder)  # type: ignore[arg-type]
    assert again.fingerprint == dataset.fingerprint != other.fingerprint


def test_a_world_with_too_few_names_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="held-out names are wanted"):
        write_world(tmp_path / "world", SIZES, 0, World(names=16))
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize("sizes", [{"openings": -1}, {"openings": 99}, {"relations": 0}, {"relations": 9}])
def test_sizes_that_cannot_be(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="documents cannot have"):
        Sizes(**sizes)


def test_a_document_has_no_more_relations_than_its_world(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a document has 3 relations, and the world 2"):
        write_world(tmp_path, Sizes(relations=3), world=World(relations=2))
    with pytest.raises(ConfigError, match="a document has 3 relations, and the world 2"):
        next(reader_events(tmp_path, Sizes(relations=3), world=World(relations=2)))
    assert not list(tmp_path.iterdir())


def test_the_shipped_sizes_have_names_enough() -> None:
    sizes = Sizes()
    assert World().held_out >= (sizes.dev + sizes.test + sizes.forms) * sizes.about
    assert sizes.test * sizes.asked >= 1000


# --------------------------------------------------------------------------------------------------------- the reader

READ = Sizes(documents=4, instructed=2, facts=3, about=2, dev=1, test=1, forms=1, read=1)
TINY = Reader(width=16, layers=1, heads=2, steps=20)
FEW = World(names=8, relations=2, values=3)


def learning(out: Path) -> Iterator[events.Event]:
    torch.set_num_threads(1)
    return reader_events(out, READ, reader=TINY, seed=1, world=FEW)


def main(out: str, stage: str, step: int) -> None:
    """Learn, and die there."""
    for event in learning(Path(out)):
        if event.stage == stage and event.step >= step and isinstance(event, events.Step):
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[events.Event]]:
    out = tmp_path_factory.mktemp("reader") / "reader"
    return out, list(learning(out))


def test_a_reader_learns_level_by_level(learned: tuple[Path, list[events.Event]]) -> None:
    out, happened = learned
    stages = dict.fromkeys(event.stage for event in happened)
    assert list(stages) == ["repeat", "one form", "every form", "more facts", "friends", "documents"]
    warned = [e.stage for e in happened if isinstance(e, events.Warning) and "ended before accuracy" in e.message]
    assert warned == list(stages)[:-1]  # so small a model learns nothing in so few steps; of the last nothing is asked
    losses = [event.terms["answer"] for event in happened if isinstance(event, events.Step)]
    assert losses[-1] < 0.8 * losses[0]
    assert (out / "metrics.jsonl").is_file()


def test_a_reader_that_was_killed_ends_with_the_same_bits(
    learned: tuple[Path, list[events.Event]], tmp_path: Path
) -> None:
    code = "import sys, test_world_on_disk as own; own.main(sys.argv[1], 'every form', 130)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path / "reader")], env=environment, check=False)
    assert dead.returncode == -signal.SIGKILL
    assert not (tmp_path / "reader/model").exists()
    happened = list(learning(tmp_path / "reader"))
    assert isinstance(happened[0], events.Resumed)
    assert sha256_folder(tmp_path / "reader/model") == sha256_folder(learned[0] / "model")
    again = list(learning(tmp_path / "reader"))
    assert [type(event) for event in again] == [events.Resumed, events.Done]
    with pytest.raises(ResumeError):
        list(reader_events(tmp_path / "reader", READ, reader=TINY, seed=2, world=FEW))


@pytest.mark.filterwarnings("ignore:.*")
def test_its_folder_is_a_language_model(learned: tuple[Path, list[events.Event]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = str(learned[0] / "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(FEW.vocabulary)}
    assert model.get_input_embeddings().weight.shape == (len(FEW.vocabulary), 16)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    encoder = MemoryEncoder(place, rate=4, document_length=16, prompt=PROMPT, separator=" ", lora={"rank": 2})
    told = encoder.encode(["the colour of " + FEW.first[0]])
    assert told.values.shape == (4, 16)
    question = f"what is the colour of {FEW.first[0]} {FEW.last[0]}"
    assert tokenizer.unk_token_id not in encoder.question_ids(question).tolist()
    assert encoder.reading([], encoder.question_ids(question))[0].tolist()[0] == tokenizer.bos_token_id
    assert len(encoder.answer([question], [[told.values]])) == 1
