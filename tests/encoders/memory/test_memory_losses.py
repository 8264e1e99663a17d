"""What memory is trained by: the losses of answers, read once or one by one, and what gradients reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from memory_models import QUESTIONS, SIZES, TEXTS, memory, packed, plain, row_of, stir
from torch import Tensor

import causal_models
from lodesmith.core.errors import InputError
from lodesmith.encoders import MemoryEncoder, MemoryTower
from lodesmith.encoders._memory_model import ADAPTERS

pytestmark = pytest.mark.usefixtures("cache")


def test_losses_are_those_of_the_answer_tokens(folder: Path) -> None:
    """By hand: with new adapters, text documents, and transformers' own model over whole prompts."""
    encoder = MemoryEncoder(folder, **SIZES)
    tower, model, states = MemoryTower(encoder), plain(folder), torch.from_numpy(memory(encoder, TEXTS))
    asked, answers = (
        [encoder.question_ids(q) for q in QUESTIONS],
        [encoder.answer_ids(a) for a in ("cat", "the dog", "")],
    )
    of = torch.tensor([[0, 1], [3, -1], [-1, -1]])
    expected = []
    for rows, question, answer in zip(of.tolist(), asked, answers, strict=True):
        parts = encoder.reading([states[row] for row in rows if row >= 0], question)
        row = row_of(model, [*parts, answer])[None]
        with torch.no_grad():
            logits = model(inputs_embeds=row).logits[0, -len(answer) - 1 : -1]
        expected.append(-logits.log_softmax(1).gather(1, answer[:, None])[:, 0])
    for budget in (1, 10_000):
        encoder.batch_tokens = budget
        found = tower.losses(states, of, packed(asked), packed(answers))
        torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=1e-5)
    own = tower.chosen_losses(states[torch.tensor([[0, 1], [2, 3]])], packed(asked[:2]), packed(answers[:2]))
    same = tower.losses(states, torch.tensor([[0, 1], [2, 3]]), packed(asked[:2]), packed(answers[:2]))
    torch.testing.assert_close(own, same)
    nothing = {"ids": torch.zeros(0, dtype=torch.int64), "offsets": torch.zeros(1, dtype=torch.int64)}
    assert tower.losses(states, of[:0], nothing, nothing).shape == (0,)
    assert tower.compress(nothing).memory.shape == (0, 4, 32)
    empty = packed([torch.zeros(0, dtype=torch.int64)])
    with pytest.raises(InputError, match="an answer has no token"):
        tower.losses(states, of[:1], packed(asked[:1]), empty)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_losses_do_not_depend_on_what_else_is_padded(kind: str, tmp_path: Path) -> None:
    encoder = stir(MemoryEncoder(causal_models.build(tmp_path / "model", kind, bos=True), **SIZES))
    states = torch.from_numpy(memory(encoder, TEXTS))
    readings = [
        encoder.reading([*states[:count]], encoder.question_ids(question))
        for count, question in enumerate(QUESTIONS, start=1)
    ]
    answers = [encoder.answer_ids(text) for text in ("owl", "the whale fears thunder", "music and")]
    with torch.no_grad():
        alone = [
            encoder.model.answer_losses([one], [answer], "decoder")
            for one, answer in zip(readings, answers, strict=True)
        ]
        together = encoder.model.answer_losses(readings, answers, "decoder")
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "opt", "mistral", "gpt_neo", "gemma", "lfm2"])
@pytest.mark.parametrize("budget", [1, 80, 10_000])
def test_what_several_questions_read_is_read_once(kind: str, budget: int, tmp_path: Path) -> None:
    encoder = stir(MemoryEncoder(causal_models.build(tmp_path / "model", kind, bos=True), **SIZES))
    encoder.batch_tokens = budget
    tower, calls = MemoryTower(encoder), []
    asked = packed([encoder.question_ids(text) for text in (*QUESTIONS, *QUESTIONS)])
    answers = packed(
        [encoder.answer_ids(text) for text in ("owl", "the whale fears thunder", "", "a", "cat", "music and")]
    )
    of = torch.tensor([[1, 2], [0, -1], [1, 2], [-1, -1], [0, -1], [2, 1]])
    once = encoder.model.answer_losses_of

    def noted(*given: Any) -> Tensor | None:
        beginnings, numbers, questions, own, _ = given
        tokens = sum(map(len, beginnings[0])) + max(len(a) + len(b) for a, b in zip(questions, own, strict=True))
        calls.append((len(beginnings), len(numbers) * tokens))
        return once(*given)

    encoder.model.answer_losses_of = noted  # type: ignore[method-assign]
    found = {}
    for how in ("once", "each"):
        states = torch.from_numpy(memory(encoder, TEXTS)).requires_grad_()
        losses = tower.losses(states, of, asked, answers)
        (losses * torch.linspace(1, 2, len(losses))).sum().backward()
        weights = {name: weight.grad.clone() for name, weight in encoder.model.weights("decoder").items()}
        found[how] = (losses.detach(), states.grad, weights)
        encoder.model.zero_grad()
        encoder.model.answer_losses_of = lambda *given: None  # type: ignore[method-assign]
    torch.testing.assert_close(found["once"], found["each"], atol=1e-3, rtol=1e-3)
    if kind == "lfm2":  # which keeps more than keys and values
        assert len(calls) == 1
        assert encoder.model.answer_losses_of(None, None, None, None, None) is None
    elif budget == 1:
        assert [count for count, _ in calls] == [1] * 6
    else:
        assert all(tokens <= budget or count == 1 for count, tokens in calls)
        assert sum(count for count, _ in calls) < 6


def test_what_is_read_once_drops_out_and_is_rounded_as_the_rest(folder: Path) -> None:
    encoder = stir(MemoryEncoder(folder, lora={"dropout": 0.3}, **SIZES))
    tower = MemoryTower(encoder)
    states = torch.from_numpy(memory(encoder, TEXTS))
    asked = packed([encoder.question_ids(text) for text in QUESTIONS])
    answers, of = packed([encoder.answer_ids("owl")] * 3), torch.tensor([[1], [1], [2]])
    plain = tower.losses(states, of, asked, answers)
    tower.train()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(tower.losses(states, of, asked, answers))
    assert torch.equal(*found)
    assert not torch.allclose(found[0], plain)
    tower.eval()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = tower.losses(states, of, asked, answers)
    torch.testing.assert_close(rounded.float(), plain, atol=0.3, rtol=0.1)


def test_layers_that_are_computed_again_read_nothing_once(folder: Path) -> None:
    encoder = MemoryEncoder(folder, activation_checkpointing=True, **SIZES)
    encoder.model.answer_losses_of = None  # type: ignore[assignment, method-assign]
    states = torch.from_numpy(memory(encoder, TEXTS))
    asked, answers = packed([encoder.question_ids(QUESTIONS[0])] * 2), packed([encoder.answer_ids("owl")] * 2)
    assert len(MemoryTower(encoder).losses(states, torch.tensor([[1], [1]]), asked, answers)) == 4


def gradients(encoder: MemoryEncoder) -> dict[str, Tensor]:
    """Of a loss through the decoder, the compressor and the reasoner, with what has none left out."""
    tower = MemoryTower(encoder).train()
    own, asked = packed([encoder.text_ids(t) for t in TEXTS]), packed([encoder.text_ids(q) for q in QUESTIONS])
    made, wanted = tower.compress(own), tower.compress(asked, "query_reasoner")
    of = torch.tensor([[0, 1], [3, -1], [-1, -1]])
    questions, answers = [encoder.question_ids(q) for q in QUESTIONS], [encoder.answer_ids(t) for t in TEXTS[2:]]
    losses = tower.losses(made.memory, of, packed(questions), packed(answers))
    plain = tower.losses(made.memory, of, packed(questions), packed(answers), None)
    total = losses.mean() + plain.mean() + (made.memory[:3] - wanted.memory).square().mean() + made.text.square().mean()
    total.backward()
    return {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}


def test_gradients_reach_adapters_and_memory_alone(folder: Path) -> None:
    """And are the same where layers are computed again, though other adapters were active since."""
    made = []
    for again in (False, True):
        torch.manual_seed(0)
        how: dict[str, Any] = {"activation_checkpointing": again, "lora": {"dropout": 0.0}}
        encoder = stir(MemoryEncoder(folder, **how, **SIZES))
        made.append(gradients(encoder))
    assert made[0].keys() == made[1].keys()
    for name, gradient in made[0].items():
        torch.testing.assert_close(made[1][name], gradient, atol=1e-5, rtol=1e-4)
    parts = {next((a for a in ADAPTERS if f".{a}." in name), name) for name in made[0]}
    assert parts == {*ADAPTERS, "model.memory", "model.mark"}
    assert len(made[0]) == 2 + 3 * 2 * 7 * 2
    assert all(gradient.any() for gradient in made[0].values())
    groups = encoder.get_trainable_parameters()
    assert {name: len(own) for name, own in groups.items()} == dict.fromkeys(ADAPTERS, 28) | {"memory": 2}


def test_what_is_frozen_stays_so(encoder: MemoryEncoder) -> None:
    for weight in encoder.model.weights("encoder").values():
        weight.requires_grad_(False)
    encoder.encode(TEXTS)
    encoder.encode(TEXTS, "query")
    encoder.answer(QUESTIONS[:1], [[]], adapter=None, max_new_tokens=1)
    assert {name: len(own) for name, own in encoder.get_trainable_parameters().items()} == {
        "encoder": 0,
        "decoder": 28,
        "query_reasoner": 28,
        "memory": 2,
    }


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_the_reasoner_begins_as_the_compressor(kind: str, tmp_path: Path) -> None:
    """Also of a model whose own modules are called decoder."""
    encoder = stir(MemoryEncoder(causal_models.build(tmp_path / kind, kind), **SIZES))
    before = {name: weight.clone() for name, weight in encoder.model.weights("decoder").items()}
    tower = MemoryTower(encoder)
    for _ in range(2):
        tower.begin_reasoner()
    for name, weight in encoder.model.weights("encoder").items():
        torch.testing.assert_close(encoder.model.weights("query_reasoner")[name], weight, atol=0, rtol=0)
        torch.testing.assert_close(encoder.model.weights("decoder")[name], before[name], atol=0, rtol=0)
    assert len(before) == len(encoder.model.weights("encoder")) > 0
