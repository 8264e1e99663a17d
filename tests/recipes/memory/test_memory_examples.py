"""Which questions and answers a memory model is trained on, from datasets of every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import memory_worlds
import numpy as np
import pytest
from memory_worlds import FACTS, answer, same, tensors, training

from lodesmith.core import events
from lodesmith.core.errors import InputError
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


def _pooled(place: Path) -> list[dict[str, Any]]:
    """CLaRa's rows of the last stages: a question, its pool, an answer, and nothing that says where it stands."""
    place.mkdir()
    bodies = [f"the {who} {does} {answer(at)} in the barn ." for at, (who, does) in enumerate(FACTS)]
    rows = [
        {"question": f"what does the {who} {does} ?", "docs": bodies[at : at + 4], "gold_answer": answer(at)}
        for at, (who, does) in enumerate(FACTS[:9])
    ]
    (place / "pooled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def test_pools_that_nothing_judges_are_learned_from(base: Path, tmp_path: Path) -> None:
    """The last stages learn from them; the first reads one document, and nothing says which."""
    rows = _pooled(tmp_path / "from")
    import_paths([tmp_path / "from"], tmp_path / "pooled")
    with pytest.raises(InputError, match="the stage 'compress' has no example: 9 questions do not say which one"):
        list(training(tmp_path / "pooled", base, tmp_path / "alone", **ONCE).events())
    place = memory_worlds.write(tmp_path / "beasts", ())
    memory_worlds.columns(place)
    planned = training(f"{place},{tmp_path / 'pooled'}", base, tmp_path / "run", **ONCE)  # type: ignore[arg-type]
    learner: Any = planned.learner
    first, second, third = ([e for e in learner._examples(stage) if e.query] for stage in planned.recipe.stages)
    assert first == []
    assert [e.question for e in second] == [e.question for e in third] == [row["question"] for row in rows]
    assert {e.relevant for e in second} == {()}
    pools = learner.batches(planned.recipe.stages[2]).pools
    named = {e.query: pool for e, pool in zip(learner.batches(planned.recipe.stages[2]).examples, pools, strict=True)}
    for example, row in zip(third, rows, strict=True):
        assert [planned.dataset.documents[key].content for key in named[example.query]] == row["docs"]
    happened = list(planned.events())
    assert happened[-1].step == sum(forecast(planned)["steps"].values())
    assert all(np.isfinite(event.total) for event in happened if isinstance(event, events.Step))
    assert not same(*(tensors(tmp_path / "run" / name)["query_reasoner"] for name in ("untrained", "model")))


def test_a_joint_loss_goes_over_questions_that_nothing_judges(base: Path, tmp_path: Path) -> None:
    _pooled(tmp_path / "from")
    import_paths([tmp_path / "from"], tmp_path / "pooled")
    place = memory_worlds.write(tmp_path / "beasts", ())
    memory_worlds.columns(place)
    both: Any = f"{place},{tmp_path / 'pooled'}"
    planned = training(both, base, tmp_path / "run", **ONCE, **{"stages.2.objective.retrieval": 1.0})
    assert all(np.isfinite(event.total) for event in planned.events() if isinstance(event, events.Step))


def test_validation_that_can_ask_nothing_is_told(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = memory_worlds.write(tmp_path / "beasts")
    memory_worlds.columns(place)
    rows = [json.loads(line) for line in (place / "queries.jsonl").read_text().splitlines()]
    for row in rows:
        row["answers"] = ["the"] if int(row["_id"][1:]) in memory_worlds.SPLITS["dev"] else row["answers"]
    (place / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "run"
    for left in (out / ".model.abcdefgh.tmp", out / "stages" / ".compress.abcdefgh.tmp"):
        left.mkdir(parents=True)  # as a process that was killed left it
    happened = list(training(place, base, out, **ONCE).events())
    assert not any(isinstance(event, events.Validation) for event in happened)
    assert "nothing to validate the stage 'compress' on: no judged query of dev can be asked" in caplog.text
    assert not list(out.rglob("*.tmp"))
