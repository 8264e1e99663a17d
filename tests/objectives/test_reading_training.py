"""Compression and the choice of documents as two stages of one training, broken off and resumed to the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_towers import VOCABULARY, ModelTower
from numpy.typing import NDArray
from toy_towers import pack

from lodesmith.core import events
from lodesmith.core.events import Event
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.data.reading_batches import ReadingBatches
from lodesmith.data.supervision import examples, pools
from lodesmith.objectives.compress import Compress
from lodesmith.objectives.end_to_end import EndToEnd
from lodesmith.training import Group, OptimSettings, Stage, fit
from lodesmith.training.engine import TorchEngine

STEPS = 4
"""Of each stage; an epoch has three."""


def ids(text: str) -> torch.Tensor:
    return torch.tensor([int(word) % VOCABULARY for word in text.split()], dtype=torch.int64)


def world() -> Dataset:
    """Twelve documents of numbers, a question on each."""
    rng = np.random.default_rng(0)
    rows = [" ".join(map(str, rng.integers(4, VOCABULARY, 6))) for _ in range(12)]
    documents = [Document(f"d{i}", "", text) for i, text in enumerate(rows)]
    queries = [Query(f"q{i}", " ".join(text.split()[:2]), (text.split()[2],)) for i, text in enumerate(rows)]
    return Dataset.of(documents, queries, {"train": {f"q{i}": {f"d{i}": 1} for i in range(12)}})


def stages() -> list[Stage]:
    dataset = world()
    asked = examples(dataset, "train")
    pool = pools(dataset, asked, 4)
    tower = ModelTower(dropout=0.1)
    given: dict[str, Any] = {"text_ids": ids, "question_ids": ids, "answer_ids": ids, "batch_size": 5}

    def memory(keys: Sequence[str]) -> NDArray[np.float32]:
        packed = pack([ids(dataset.documents[key].content).tolist() for key in keys])
        tower.eval()
        with torch.no_grad():
            found: NDArray[np.float32] = tower.compress(packed).memory.numpy()
        tower.train()
        return found

    frozen = ("*.lora_*.encoder.*", "*.inner.memory", "*.inner.mark")
    first = ReadingBatches(asked, pool, dataset.documents, documents=2, **given)
    second = ReadingBatches(asked, pool, dataset.documents, documents=2, candidates=4, memory=memory, **given)
    return [
        Stage(name="compress", objective=Compress(tower), batches=first, steps=STEPS, optim=OptimSettings(lr=0.003)),
        Stage(
            name="choose",
            objective=EndToEnd(tower, documents=2, candidates=4),
            batches=second,
            steps=STEPS,
            optim=OptimSettings(lr=0.003, groups=tuple(Group(match=match, freeze=True) for match in frozen)),
            checkpoint_every=2,
        ),
    ]


def run(folder: Path, plan: list[Stage], resume: bool = False) -> Iterator[Event]:
    torch.set_num_threads(1)
    engine = TorchEngine(seed=1, device="cpu")
    return fit(plan, engine=engine, checkpoints=folder, resume=resume, recipe={}, log_every=1)


def state(plan: list[Stage]) -> dict[str, torch.Tensor]:
    return {name: own.detach().clone() for name, own in plan[1].objective.named_parameters()}


def told(happened: list[Event]) -> dict[int, Any]:
    return {event.step: dict(event.terms) for event in happened if isinstance(event, events.Step)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, Any], dict[str, torch.Tensor]]:
    plan = stages()
    before, between = state(plan), {}
    happened = []
    for event in run(tmp_path_factory.mktemp("whole"), plan):
        happened.append(event)
        if event.step == STEPS and isinstance(event, events.Checkpoint):
            between = state(plan)
    after = state(plan)
    changed = {name for name in after if not torch.equal(after[name], between[name])}
    assert any("query_reasoner" in name for name in changed)
    assert any("decoder" in name for name in changed)
    assert not any(".encoder." in name or name.endswith(("inner.memory", "inner.mark")) for name in changed)
    assert any(".lora_A.encoder." in name for name in before if not torch.equal(before[name], between[name]))
    return told(happened), after


def test_both_stages_tell_their_terms(whole: Any) -> None:
    assert [set(terms) for terms in whole[0].values()] == [{"answer", "mse"}] * STEPS + [{"answer"}] * STEPS


@pytest.mark.parametrize("step", [3, STEPS, STEPS + 1, STEPS + 3])
def test_broken_off_and_resumed_it_ends_with_the_same_bits(whole: Any, tmp_path: Path, step: int) -> None:
    wanted = events.Checkpoint if step == STEPS else events.Step
    before = []
    for event in run(tmp_path, stages()):
        before.append(event)
        if event.step >= step and isinstance(event, wanted):
            break
    plan = stages()
    later = list(run(tmp_path, plan, resume=True))
    found = state(plan)
    assert (told(before) | told(later)) == whole[0]
    assert all(torch.equal(found[name], own) for name, own in whole[1].items())
