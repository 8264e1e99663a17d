"""Answers from memory tokens: the terms against the formulas, and over several ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meeting import compare
from memory_towers import ANSWERS, COUNT, DOCUMENTS, QUESTIONS, ModelTower, TableTower, compressing
from torch import Tensor
from toy_towers import pack

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.objectives.compress import Compress
from lodesmith.training.engine import size


def states(tower: ModelTower, rows: Tensor, adapter: str) -> Any:
    """What the language model makes of one row of input vectors, alone and without padding."""
    with tower.inner.using(adapter):
        return tower.inner.language_model(inputs_embeds=rows[None], output_hidden_states=True)


def memory_of(tower: ModelTower, ids: list[int], adapter: str = "encoder") -> tuple[Tensor, Tensor]:
    """[t, H] and [l, H] by the formula: the last layer's states of ⟨mark, text, memory⟩."""
    inner = tower.inner
    rows = torch.cat([inner.mark, inner.embed(torch.tensor(ids)), inner.memory])
    found = states(tower, rows, adapter).hidden_states[-1][0]
    return found[-COUNT:], found[1:-COUNT]


def answered(tower: ModelTower, memory: list[Tensor], question: list[int], answer: list[int]) -> list[Tensor]:
    """−log p of each token of an answer, one forward pass each; memory is read from the words' mean."""
    found = []
    words = tower.inner.language_model.get_input_embeddings().weight.detach()
    apart = (words - words.mean(0)).norm(dim=1).mean()
    memory = [words.mean(0) + own / own.norm(dim=1, keepdim=True) * 0.3 * apart for own in memory]
    for at, token in enumerate(answer):
        read = torch.tensor([*question, *answer[:at]])
        logits = states(tower, torch.cat([*memory, tower.inner.embed(read)]), "decoder").logits[0, -1]
        found.append(-logits.log_softmax(0)[token])
    return found


def test_the_terms_are_those_of_the_formulas() -> None:
    tower = ModelTower()
    objective = Compress(tower)
    terms = objective(compressing())
    assert objective.weights == {"answer": 1.0, "mse": 0.1}
    made = [memory_of(tower, ids) for ids in DOCUMENTS]
    apart = torch.stack([(text.mean(0) - memory.mean(0)).square().mean() for memory, text in made]).mean()
    torch.testing.assert_close(terms["mse"], apart, rtol=1e-4, atol=1e-6)
    read = [[made[0][0]], [made[3][0], made[1][0]], []]
    losses = [
        loss
        for own, question, answer in zip(read, QUESTIONS, ANSWERS, strict=True)
        for loss in answered(tower, own, question, answer)
    ]
    assert len(losses) == 6
    torch.testing.assert_close(terms["answer"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def trained(objective: torch.nn.Module, batch: dict[str, Any]) -> set[str]:
    """The names of the parameters that a step's gradient reaches."""
    objective.zero_grad()
    terms = objective(batch)
    torch.stack([objective.weights[name] * value for name, value in terms.items()]).sum().backward()  # type: ignore[index,operator]
    return {name for name, own in objective.named_parameters() if own.grad is not None and own.grad.abs().sum() > 0}


def adapters(names: set[str]) -> set[str]:
    return {part for name in names for part in name.split(".") if part in ("encoder", "decoder", "query_reasoner")}


def test_the_gradient_reaches_compressor_and_generator_or_with_memory_the_generator_alone() -> None:
    tower = ModelTower()
    objective = Compress(tower)
    names = {name.removeprefix("encoder.") for name in trained(objective, compressing())}
    assert adapters(names) == {"encoder", "decoder"}
    assert {"inner.memory", "inner.mark"} <= names
    with torch.no_grad():
        memory = tower.compress(pack(DOCUMENTS)).memory
    batch = compressing(memory=memory)
    del batch["documents"]
    assert objective(batch).keys() == {"answer"}
    names = {name.removeprefix("encoder.") for name in trained(objective, batch)}
    assert adapters(names) == {"decoder"}
    assert not names & {"inner.memory", "inner.mark"}
    whole = objective(compressing())["answer"]
    torch.testing.assert_close(objective(batch)["answer"], whole, rtol=1e-4, atol=1e-5)


def test_a_weight_of_0_leaves_a_term_out() -> None:
    tower = TableTower()
    assert Compress(tower, mse=0.0)(compressing()).keys() == {"answer"}
    only = Compress(tower, answer=0.0, mse=2.0)
    tower.calls.clear()
    assert only(compressing()).keys() == {"mse"}
    assert only.weights == {"mse": 2.0}
    assert tower.calls == ["compress encoder"]


def test_a_batch_without_any_document_is_closed_book() -> None:
    tower = TableTower()
    of = torch.full((3, 1), -1)
    terms = Compress(tower)(compressing(documents=pack([]), of=of))
    assert "compress encoder" not in tower.calls
    assert terms["mse"] == 0
    assert terms["answer"] > 0


def share(rows: list[int], documents: list[int], of: list[list[int]]) -> dict[str, Any]:
    """Some questions, over the documents that they need."""
    return {
        "questions": pack([QUESTIONS[row] for row in rows]),
        "answers": pack([ANSWERS[row] for row in rows]),
        "documents": pack([DOCUMENTS[row] for row in documents]),
        "document_ids": torch.tensor(documents),
        "of": torch.tensor(of),
    }


def test_two_ranks_with_unequal_answers_are_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    whole = share([0, 1, 2], [0, 1, 3], [[0, 1], [2, 1], [0, 2]])
    shares = [share([0, 2], [0, 1, 3], [[0, 1], [0, 2]]), share([1], [3, 1], [[0, 1]])]
    compare(monkeypatch, TableTower(), whole, shares, lambda tower: Compress(tower, mse=0.5))


def test_without_their_ids_documents_of_two_ranks_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    whole = share([0, 1], [0, 1], [[0, 1], [0, 1]])
    shares = [share([0], [0], [[0, 0]]), share([1], [1], [[0, 0]])]
    for batch in (whole, *shares):
        del batch["document_ids"]
    compare(monkeypatch, TableTower(), whole, shares, lambda tower: Compress(tower, answer=0.0))


def test_the_size_of_a_batch_is_that_of_its_questions() -> None:
    assert size(compressing()) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"answer": -1.0}, "weight of answer is -1.0"),
        ({"mse": float("nan")}, "weight of mse"),
        ({"answer": 0.0, "mse": 0.0}, "no term"),
        ({"documents": 0}, "documents is 0"),
        ({"together": 0}, "together 0"),
        ({"kinds": []}, "kinds is empty"),
        ({"document_encoder": torch.nn.Identity()}, "leave document_encoder out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Compress(torch.nn.Identity(), **settings)


def test_a_batch_of_nothing_to_read_is_refused() -> None:
    batch = compressing()
    del batch["documents"]
    with pytest.raises(InputError, match="neither documents nor memory"):
        Compress(TableTower())(batch)
