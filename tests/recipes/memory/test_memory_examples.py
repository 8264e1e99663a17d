"""Which questions and answers a memory model is trained on, from datasets of every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import memory_worlds
import numpy as np
import pytest
from memory_worlds import same, tensors, training

from lodesmith.core import events
from lodesmith.core.files import read_json
from lodesmith.data.importing import import_paths
from lodesmith.encoders import MemoryEncoder
from lodesmith.recipes.train import forecast

pytestmark = pytest.mark.filterwarnings("ignore:.*")

ONCE = {f"stages.{stage}.epochs": 1 for stage in range(3)}


def test_a_limit_is_of_examples(dataset: Path, base: Path, tmp_path: Path) -> None:
    planned = training(dataset, base, tmp_path / "run", **{"data.limit": 5, "data.validation": None, **ONCE})
    counts = [planned.learner.examples_of(stage) for stage in planned.recipe.stages]  # type: ignore[attr-defined]
    assert counts == [5, 5, 5]
    assert forecast(planned)["steps"] == {"compress": 2, "instruct": 2, "end_to_end": 2}
    last = list(planned.events())[-1]
    assert last.step == 6
    whole = training(dataset, base, tmp_path / "x")
    counts = [whole.learner.examples_of(stage) for stage in whole.recipe.stages]  # type: ignore[attr-defined]
    assert counts == [18, 9, 9]  # paraphrases are of documents that are given


def test_what_is_held_out_of_the_training_split_is_not_trained_on(base: Path, tmp_path: Path) -> None:
    place = memory_worlds.write(tmp_path / "beasts", ("train", "test"))
    memory_worlds.columns(place)
    planned = training(place, base, tmp_path / "run", **{"data.hold_out": 0.4, **ONCE})
    held = set(planned.pairs.validation)
    assert 0 < len(held) < 9
    texts = {planned.dataset.queries[key].text for key in held}
    for stage in planned.recipe.stages:
        examples = planned.learner._examples(stage)  # type: ignore[attr-defined]
        assert not texts & {example.question for example in examples}
        assert len({example.question for example in examples if example.kind == "simple"}) == 9 - len(held)
    assert sum(isinstance(event, events.Validation) for event in planned.events()) == 6


def test_questions_alone_are_enough(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = memory_worlds.write(tmp_path / "beasts", ())
    memory_worlds.columns(place)
    planned = training(place, base, tmp_path / "run", reported=True, **ONCE)
    happened = list(planned.events())
    assert "no judgements to validate on" in caplog.text
    assert not any(isinstance(event, events.Validation) for event in happened)
    assert not (tmp_path / "run/report.html").exists()  # nothing is judged
    assert not same(*(tensors(tmp_path / "run" / name)["decoder"] for name in ("untrained", "model")))
    assert read_json(tmp_path / "run/manifest.json")["stage_files"].keys() == {"compress", "instruct"}


def test_examples_as_the_public_code_spells_them_train(base: Path, tmp_path: Path) -> None:
    texts = [f"the {who} {does} {memory_worlds.answer(at)}" for at, (who, does) in enumerate(memory_worlds.FACTS)]
    lines: list[dict[str, Any]] = [
        {
            "data_type": "qa",
            "question": ["who ?", f"what {at} ?"],
            "answers": ["the cat", "moon"],
            "docs": [own],
        }
        for at, own in enumerate(texts[:8])
    ]
    lines += [{"data_type": "paraphrase", "answer": f"so {own}", "docs": own} for own in texts[8:]]
    (tmp_path / "sample.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    import_paths([tmp_path / "sample.jsonl"], tmp_path / "sample")
    planned = training(tmp_path / "sample", base, tmp_path / "run", **{"data.validation": None, **ONCE})
    kinds = [example.kind for example in planned.learner._examples(planned.recipe.stages[0])]  # type: ignore[attr-defined]
    assert {kind: kinds.count(kind) for kind in kinds} == {"qa": 16, "paraphrase": 7}
    list(planned.events())
    assert MemoryEncoder(tmp_path / "run/model").count == 4


def test_answers_that_cannot_be_compared_are_not_asked(base: Path, tmp_path: Path) -> None:
    place = memory_worlds.write(tmp_path / "beasts")
    lines = [json.loads(line) for line in (place / "queries.jsonl").read_text().splitlines()]
    golds = {"q9": ["The"], "q10": ["", "moon", "?"], "q11": []}
    for line in lines:
        line["answers"] = golds.get(line["_id"], line.get("answers"))
    (place / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    planned = training(place, base, tmp_path / "run")
    measured = planned.learner.validation(planned.recipe.stages[0])  # type: ignore[attr-defined]
    assert measured.keys == ["q10"]
    assert np.isfinite(list(measured().values())).all()
