"""A whole training of a memory model: three stages, what each leaves, resume to the bit, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory_worlds
import numpy as np
import pytest
import torch
from memory_worlds import same, tensors, training
from safetensors.torch import load_file

import causal_models
from lodesmith.core import events
from lodesmith.core.errors import InputError, ResumeError
from lodesmith.core.events import Event
from lodesmith.core.files import read_json, sha256_folder
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import MemoryEncoder
from lodesmith.recipes.learners import _answers
from lodesmith.recipes.train import forecast

pytestmark = pytest.mark.filterwarnings("ignore:.*")

STAGES = ("compress", "instruct", "end_to_end")
ONCE = {f"stages.{stage}.epochs": 1 for stage in range(3)}


@dataclass(frozen=True)
class Seen:
    """A finished run, its events, and which stages' folders were there at each."""

    out: Path
    events: list[Event]
    kept: list[set[str]]
    fingerprint: str
    dataset: Path


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    place = tmp_path_factory.mktemp("finished")
    dataset = memory_worlds.write(place / "beasts")
    memory_worlds.columns(dataset)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LODESMITH_CACHE", str(place / "cache"))
        planned = training(dataset, base, place / "run", reported=True)
        happened, kept = [], []
        for event in planned.events():
            happened.append(event)
            kept.append({path.name for path in (place / "run/stages").glob("*")})
        yield Seen(place / "run", happened, kept, planned.learner.encoder.fingerprint, dataset)


# ----------------------------------------------------------------------------------------------------- what is left


def test_a_run_keeps_what_each_stage_left(finished: Seen) -> None:
    out, manifest = finished.out, read_json(finished.out / "manifest.json")
    assert {path.name for path in (out / "stages").iterdir()} == {"compress", "instruct"}
    assert manifest["model_files"] == sha256_folder(out / "model")
    assert manifest["stage_files"] == {name: sha256_folder(out / "stages" / name) for name in STAGES[:2]}
    assert manifest["begun"] == MemoryEncoder(out / "untrained", precision="float32").fingerprint
    assert manifest["columns"].keys() == {"questions", "candidates", "negatives"}
    saved = MemoryEncoder(out / "model", precision="float32")
    assert saved.fingerprint == finished.fingerprint
    assert saved.model.reasons


def test_each_stage_changes_what_it_trains_and_nothing_else(finished: Seen) -> None:
    untrained, compress, instruct, whole = (
        tensors(finished.out / place) for place in ("untrained", "stages/compress", "stages/instruct", "model")
    )
    assert same(untrained["query_reasoner"], compress["query_reasoner"])
    for part in ("encoder", "decoder", "own"):
        assert not same(untrained[part], compress[part]), part
    for part in ("encoder", "query_reasoner", "own"):
        assert same(compress[part], instruct[part]), part
    assert not same(compress["decoder"], instruct["decoder"])
    for part in ("encoder", "own"):
        assert same(instruct[part], whole[part]), part
    assert not same(instruct["decoder"], whole["decoder"])
    assert not same(whole["encoder"], whole["query_reasoner"])  # it began as a copy, and was trained
    words = [load_file(finished.out / place / "base/model.safetensors") for place in ("untrained", "model")]
    assert same(*words)


def test_a_stage_is_kept_before_the_next_one_measures_or_steps(finished: Seen) -> None:
    for event, kept in zip(finished.events, finished.kept, strict=True):
        assert kept >= set(STAGES[: STAGES.index(event.stage)]), event
    assert finished.kept[0] == set()


def test_the_lowest_loss_is_the_best(finished: Seen) -> None:
    best: dict[str, float] = {}
    seen = 0
    for event in finished.events:
        if isinstance(event, events.Validation):
            seen += 1
            loss = event.measures["loss"]
            assert event.best == (loss < best.get(event.stage, np.inf))
            best[event.stage] = min(loss, best.get(event.stage, np.inf))
    assert seen == 3 * 3  # before each stage, and after each of its epochs
    done = finished.events[-1]
    assert isinstance(done, events.Done)
    assert "has not become better" not in done.reason


def test_a_stage_ends_with_the_weights_of_its_best_validation(dataset: Path, base: Path, tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    more = {"stages.0.monitor": "R@1", "stages.0.optim.lr": 1.0, "stages.0.epochs": 1}
    planned = training(dataset, base, tmp_path / "run", **more)
    planned = type(planned)(
        planned.recipe.model_copy(update={"stages": planned.recipe.stages[:1]}), planned.out, False, False
    )
    for event in planned.events():
        if isinstance(event, events.Validation):
            told.append(dict(event.measures))
    assert len(told) == 2
    best = max(told, key=lambda measures: measures["R@1"])  # the first of equals
    measured = planned.learner.validation(planned.recipe.stages[0])  # type: ignore[attr-defined]
    assert measured()["loss"] == pytest.approx(best["loss"], abs=1e-5)
    assert not (tmp_path / "run/stages").exists()
    assert "stage_files" not in read_json(tmp_path / "run/manifest.json")


def test_its_page_shows_it_beside_its_untrained_self(finished: Seen) -> None:
    assert (finished.out / "report.html").is_file()
    names = {path.stem for path in (finished.out / "evaluations").iterdir()}
    assert names == {"random", "bm25", "untrained", "clara"}


def test_one_memory_token_a_document_has_a_page_too(dataset: Path, base: Path, tmp_path: Path) -> None:
    more = {"encoder.rate": 16, **ONCE}
    list(training(dataset, base, tmp_path / "run", reported=True, **more).events())
    assert MemoryEncoder(tmp_path / "run/model").count == 1
    assert (tmp_path / "run/report.html").is_file()


# --------------------------------------------------------------------------------------------------- same bits, kills


def main(base: str, dataset: str, out: str, *names: str) -> None:
    """Train whole; then, for each place, train until it and die there, and go on. Children of a process that has
    computed nothing yet: imports are paid for once."""
    import peft  # noqa: F401
    import sentence_transformers  # noqa: F401

    _answers.MOST = 4

    def train(name: str, stop: Callable[[Event, int], bool] | None) -> None:
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-signal.SIGKILL if stop else 0)
            return
        torch.set_num_threads(1)
        seen: dict[tuple[str, type[Event]], int] = {}
        for number, event in enumerate(training(Path(dataset), Path(base), Path(out) / name).events()):
            kind = (event.stage, type(event))
            seen[kind] = seen.get(kind, 0) + 1
            if not number:
                print(name, "begins with", type(event).__name__, event.stage, event.step, flush=True)
            if stop and stop(event, seen[kind]):
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)

    train("whole", None)
    for name in names:
        stage, kind, count = PLACES[name]
        wanted = getattr(events, kind)
        train(name, lambda e, n, s=stage, w=wanted, c=count: isinstance(e, w) and e.stage == s and n == c)
        train(name, None)


PLACES = {
    "compress": ("compress", "Checkpoint", 1),  # in the middle of a stage
    "border": ("instruct", "Validation", 1),  # the next one has begun, without a step
    "end_to_end": ("end_to_end", "Validation", 2),  # the query reasoner has steps, and no checkpoint
    "untold": ("compress", "Checkpoint", 2),  # a stage has ended, and nothing of it is kept apart yet
    "instruct": ("instruct", "Validation", 3),
    "unsaved": ("end_to_end", "Checkpoint", 2),  # all is trained, and nothing saved
}
"""Name of a run → stage, kind and number of the event after which it is killed."""


@pytest.mark.parametrize(
    "names",
    [
        ("compress", "border", "end_to_end"),
        pytest.param(("untold", "instruct", "unsaved"), marks=pytest.mark.slow),
    ],
)
def test_the_same_bits_after_a_kill_in_each_stage(
    names: tuple[str, ...], dataset: Path, base: Path, tmp_path: Path
) -> None:
    paths = os.pathsep.join([str(Path(causal_models.__file__).parent), str(Path(__file__).parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    told = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(base), str(dataset), str(tmp_path / "runs"), *names],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert told.count("begins with Resumed") == len(names)
    whole = sha256_folder(tmp_path / "runs/whole/model")
    for folder in (tmp_path / "runs").iterdir():
        assert sha256_folder(folder / "model") == whole, folder.name
        for stage in STAGES[:2]:
            kept = sha256_folder(folder / "stages" / stage)
            assert kept == sha256_folder(tmp_path / "runs/whole/stages" / stage), folder.name
    assert len(list((tmp_path / "runs").iterdir())) == 1 + len(names)


def test_other_questions_or_candidates_are_other_data(finished: Seen, base: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished.out, tmp_path / "run")
    other = shutil.copytree(finished.dataset, tmp_path / "beasts")
    more = {"data": str(finished.dataset)}
    happened = list(training(other, base, tmp_path / "run", **more).events())
    assert isinstance(happened[0], events.Done)  # it was finished, over the same data
    column = finished.dataset / "columns/questions.jsonl"
    before = column.read_text()
    try:
        column.write_text(before.replace("and the cat", "or the cat"))
        with pytest.raises(ResumeError, match="the column questions has changed"):
            list(training(other, base, tmp_path / "run", **more).events())
    finally:
        column.write_text(before)


# --------------------------------------------------------------------------------------------------------- the memory


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The documents that were compressed without gradients, one after another."""
    found: list[str] = []
    real = MemoryEncoder.encode

    def encode(self: MemoryEncoder, texts: Sequence[str], side: Any = "document", ids: Any = None) -> Vectors:
        found.extend(texts if side == "document" else [])
        return real(self, texts, side, ids)

    monkeypatch.setattr(MemoryEncoder, "encode", encode)
    return found


def test_a_frozen_compressor_reads_each_document_once(
    dataset: Path, base: Path, tmp_path: Path, encoded: list[str]
) -> None:
    contents = {document.content for document in Dataset.load(dataset).documents.values()}
    list(training(dataset, base, tmp_path / "run", **{"data.validation": None, **ONCE}).events())
    assert len(encoded) == len(contents)  # in both stages together
    assert set(encoded) == contents
    encoded.clear()
    list(training(dataset, base, tmp_path / "again", **{"data.validation": None, **ONCE}).events())
    assert encoded == []  # the same weights, and what they made is there
    assert sha256_folder(tmp_path / "run/model") == sha256_folder(tmp_path / "again/model")


def test_validation_reads_the_kept_memory(dataset: Path, base: Path, tmp_path: Path, encoded: list[str]) -> None:
    read: dict[str, int] = {}
    for event in training(dataset, base, tmp_path / "run", **ONCE).events():
        if isinstance(event, events.Validation):
            read[event.stage] = read.get(event.stage, 0) + len(encoded)
            encoded.clear()
    assert read == {"compress": 2 * 15, "instruct": 15, "end_to_end": 0}


def test_a_compressor_that_an_earlier_group_trains_is_not_frozen(dataset: Path, base: Path, tmp_path: Path) -> None:
    planned = training(dataset, base, tmp_path / "run")
    frozen = planned.recipe.stages[1]
    assert "memory" in next(iter(planned.learner.batches(frozen)))
    for match in ("*.0.*.lora_*.encoder.*", "*memory"):
        own = [{"match": match, "lr": 1e-4}, *(group.model_dump() for group in frozen.optim.groups)]
        optim = type(frozen.optim).model_validate(frozen.optim.model_dump() | {"groups": own})
        batch = next(iter(planned.learner.batches(frozen.model_copy(update={"optim": optim}))))
        assert "documents" in batch


def test_an_answer_is_cut_where_its_document_is(dataset: Path, base: Path, tmp_path: Path) -> None:
    told = " ".join(["the cat likes thunder ."] * 30)
    Dataset.of([Document("d", "", told)], [Query("q", "what ?", ("music",))], {"train": {"q": {"d": 1}}}).save(
        tmp_path / "long"
    )
    kinds = {"stages.0.objective.kinds": ["autoencode"], "data.validation": None}
    planned = training(tmp_path / "long", base, tmp_path / "run", **kinds)
    batch = next(iter(planned.learner.batches(planned.recipe.stages[0])))
    assert len(batch["answers"]["ids"]) == 16 + 1
    assert batch["answers"]["ids"][-1] == planned.learner.encoder.tokenizer.eos_token_id  # type: ignore[attr-defined]


@pytest.mark.parametrize("read", [1, 2])
def test_the_validation_loss_is_that_of_each_answer_alone(
    read: int, dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (dataset / "queries.jsonl").open("a") as queries, (dataset / "qrels" / "dev.tsv").open("a") as judged:
        for number in (9, 10):  # what is asked twice is read once
            asked = {"_id": f"again{number}", "text": f"once more , d{number} ?", "answers": ["apples and music"]}
            queries.write(json.dumps(asked) + "\n")
            judged.write(f"again{number}\td{number}\t1\n")
    planned = training(dataset, base, tmp_path / "run", **{"stages.1.objective.documents": read})
    encoder = planned.learner.encoder  # type: ignore[attr-defined]
    encoder.model.eval()
    shared = list[int]()
    of = encoder.model.answer_losses_of
    monkeypatch.setattr(encoder.model, "answer_losses_of", lambda b, o, *more: shared.append(len(o)) or of(b, o, *more))
    measured = planned.learner.validation(planned.recipe.stages[1])  # type: ignore[attr-defined]
    found = measured()["loss"]
    assert len(measured._examples) == 5
    assert sum(shared) == (5 if read == 1 else 0)  # of two documents each, no two are the same
    documents = planned.learner.dataset.documents  # type: ignore[attr-defined]
    texts = [documents[key].content for pool in measured._pools for key in pool[:read]]
    memory = torch.from_numpy(encoder.encode(texts).values).reshape(-1, read, encoder.count, encoder.dimension)
    losses = []
    for own, example in zip(memory, measured._examples, strict=True):
        reading = encoder.reading(list(own), encoder.question_ids(example.question))
        gold = encoder.answer_ids(example.answers[0])
        with torch.no_grad():
            losses += encoder.model.answer_losses([reading], [gold], "decoder").tolist()
    assert found == pytest.approx(np.mean(losses), rel=2e-4)  # the frozen compressor's memory is kept in 16 bits
    together = []
    real = encoder.model.answer_losses
    monkeypatch.setattr(encoder.model, "answer_losses", lambda r, *more: together.append(len(r)) or real(r, *more))
    monkeypatch.setattr(encoder, "alone", True)
    monkeypatch.setattr(encoder, "batch_tokens", 1)  # as where a batch decides what a text becomes
    assert measured()["loss"] == pytest.approx(found, rel=1e-6)
    assert together == [1] * 5
    assert sum(shared) == (5 if read == 1 else 0)


def test_so_is_a_gold_answer_that_is_validated(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in (dataset / "queries.jsonl").read_text().splitlines()]
    for line in lines:
        line["answers"] = ["the cat likes thunder . " * 200]  # as a batch it would be as wide as the longest
    (dataset / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    planned = training(dataset, base, tmp_path / "run")
    model = planned.learner.encoder.model  # type: ignore[attr-defined]
    asked, losses = list[int](), model.answer_losses
    monkeypatch.setattr(
        model, "answer_losses", lambda read, own, how: asked.extend(map(len, own)) or losses(read, own, how)
    )
    assert np.isfinite(planned.learner.validation(planned.recipe.stages[0])()["loss"])  # type: ignore[attr-defined]
    assert set(asked) == {16 + 1}


def test_a_forecast_counts_the_steps_and_compresses_a_few_documents(
    finished: Seen, dataset: Path, base: Path, tmp_path: Path, encoded: list[str]
) -> None:
    steps: dict[str, int] = {}
    for event in finished.events:
        steps[event.stage] = max(steps.get(event.stage, 0), event.step)
    told = forecast(training(dataset, base, tmp_path / "run"))
    borders = [0, *(steps[name] for name in STAGES)]
    assert list(told["steps"].values()) == np.diff(borders).tolist()
    assert told["steps"].keys() == set(STAGES)
    assert told["validation_queries"] == 3
    assert min(told[name] for name in ("training_seconds", "validation_seconds", "encoding_seconds_at_most")) > 0
    assert told["vectors_bytes"] == 15 * 4 * 32 * 2
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "cache").rglob("*.npy"))  # nothing is stored


# ----------------------------------------------------------------------------------------------- folders


def test_a_run_has_a_folder_of_its_own(finished: Seen, dataset: Path, base: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(finished.out / "model", tmp_path / "copy"))
    adapter = Path(shutil.copytree(model / "adapters" / "decoder", tmp_path / "adapter"))
    for place in (model, adapter):
        with pytest.raises(InputError, match="a model is here"):
            training(dataset, base, place)
    assert MemoryEncoder(model).fingerprint == finished.fingerprint


if __name__ == "__main__":
    main(*sys.argv[1:])
