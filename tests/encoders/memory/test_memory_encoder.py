"""Documents as memory tokens: what is computed, checked by hand, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_models import QUESTIONS, SIZES, TEXTS, memory, packed, plain, row_of, stir
from torch import Tensor

import causal_models
from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.encoders import MemoryEncoder, MemoryTower
from lodesmith.encoders._memory_model import ADAPTERS
from lodesmith.similarity.aligned import aligned_rows

pytestmark = pytest.mark.usefixtures("cache")

# ------------------------------------------------------------------------------------------------------ compression


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "opt"])
def test_memory_is_the_last_states_behind_mark_and_text(kind: str, tmp_path: Path) -> None:
    """By hand, with new adapters, which change nothing: one text at a time through transformers' own model."""
    folder = causal_models.build(tmp_path / kind, kind)
    encoder = MemoryEncoder(folder, **SIZES)
    model = plain(folder)
    found = MemoryTower(encoder).compress(packed([encoder.text_ids(text) for text in TEXTS]))
    assert found.memory.shape == (len(TEXTS), 4, 32)
    for at, text in enumerate(TEXTS):
        ids = encoder.text_ids(text)
        words = model.get_input_embeddings()(ids)
        row = torch.cat([encoder.model.mark, words, encoder.model.memory])[None]
        with torch.no_grad():
            states = model.base_model(inputs_embeds=row).last_hidden_state[0]
        torch.testing.assert_close(found.memory[at], states[-4:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.text[at], states[1:-4].mean(0), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(memory(encoder, TEXTS), found.memory.detach().numpy(), atol=1e-5)


def test_ids_stand_between_begin_and_end(encoder: MemoryEncoder) -> None:
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.text_ids("the cat").tolist()) == [
        "<s>",
        "the",
        "cat",
        "</s>",
    ]
    assert encoder.text_ids("").tolist() == [2, 3]
    assert len(encoder.text_ids("cat " * 1000)) == 34
    assert len(encoder.tokens("cat " * 1000)) == 32
    assert encoder.tokens("cat " * 1000, 5).tolist() == encoder.tokens("cat " * 5).tolist()


def test_what_it_says_of_the_texts(encoder: MemoryEncoder) -> None:
    found = encoder.encode(["cat", "cat " * 33, "cat " * 32], ids=["a", "b", "c"])
    assert found.info["truncated"] == pytest.approx(1 / 3)
    assert found.info["cut"] == ["b"]
    assert found.info["tokens"] == 3 + 34 + 34
    assert found.info["metric"] == encoder.metric == "aligned"
    np.testing.assert_array_equal(found.offsets, [0, 4, 8, 12])
    assert encoder.count == 4
    assert encoder.parameters_total == sum(p.numel() for p in encoder.parameters())
    np.testing.assert_allclose(found.values[4:8], found.values[8:], atol=1e-6)


@pytest.mark.parametrize(("rate", "count"), [(1, 32), (5, 6), (8, 4), (32, 1)])
def test_a_rate_says_how_many_tokens(folder: Path, rate: int, count: int) -> None:
    encoder = MemoryEncoder(folder, rate=rate, document_length=32)
    assert encoder.encode(["cat"]).values.shape == (count, 32)


def test_memory_does_not_depend_on_the_batch(encoder: MemoryEncoder) -> None:
    whole = memory(encoder, TEXTS)
    for budget in (1, 50, 10_000):
        encoder.batch_tokens = budget
        np.testing.assert_allclose(memory(encoder, TEXTS[::-1])[::-1], whole, atol=1e-5)
    for at, text in enumerate(TEXTS):
        np.testing.assert_allclose(memory(encoder, [text])[0], whole[at], atol=1e-5)


def test_a_query_goes_through_the_reasoner_once_that_has_begun(folder: Path) -> None:
    encoder = stir(MemoryEncoder(folder, **SIZES), "encoder")
    document, query = encoder.encode(TEXTS).values, encoder.encode(TEXTS, "query").values
    np.testing.assert_array_equal(document, query)
    MemoryTower(encoder).begin_reasoner()
    np.testing.assert_array_equal(encoder.encode(TEXTS, "query").values, query)
    stir(encoder, "query_reasoner", seed=1)
    assert np.abs(encoder.encode(TEXTS, "query").values - query).max() > 1e-2
    np.testing.assert_array_equal(encoder.encode(TEXTS).values, document)


def test_damaged_weights_say_so(encoder: MemoryEncoder) -> None:
    with torch.no_grad():
        encoder.model.memory[1, 2] = torch.nan
    with pytest.raises(NotFiniteError, match="NaN or infinity"):
        encoder.encode(["cat"])


def test_dropout_is_off_while_it_encodes(encoder: MemoryEncoder) -> None:
    quiet = memory(encoder, TEXTS)
    encoder.model.train()
    np.testing.assert_array_equal(memory(encoder, TEXTS), quiet)
    assert encoder.model.training


def test_bfloat16_is_near(folder: Path, encoder: MemoryEncoder, saved: Path) -> None:
    rounded = MemoryEncoder(saved, precision="bfloat16")
    assert rounded.fingerprint != encoder.fingerprint
    assert rounded.model.memory.dtype == torch.float32
    asked, found = (each.encode(TEXTS) for each in (encoder, rounded))
    assert aligned_rows(asked, found).min() > 0.98


# ---------------------------------------------------------------------------------------------------------- prompts


def test_a_prompt_is_tokenised_in_pieces(encoder: MemoryEncoder) -> None:
    spelled = encoder.tokenizer.convert_ids_to_tokens
    parts = encoder.reading([encoder.tokens("the cat"), encoder.tokens("a dog")], encoder.question_ids("who ?"))
    ids = [token for part in parts for token in spelled(part.tolist())]
    words = ["<s>", "<unk>", ":", "the", "cat", "a", "dog", "<unk>", ":", "who", "?", "<unk>", ":"]
    assert ids == words
    assert spelled(encoder.answer_ids("apples").tolist()) == ["apples", "</s>"]
    assert spelled(encoder.answer_ids("the apples", 2).tolist()) == ["the", "</s>"]


def test_separator_and_prompt_are_settings(folder: Path) -> None:
    encoder = MemoryEncoder(folder, prompt="a {documents} ? {question} A :", separator=" and ", **SIZES)
    parts = encoder.reading([encoder.tokens(word) for word in ("cat", "dog", "owl")], encoder.question_ids("who"))
    words = encoder.tokenizer.convert_ids_to_tokens(torch.cat(parts).tolist())
    assert " ".join(words) == "<s> a cat and dog and owl ? who A :"
    closed = encoder.reading([], encoder.question_ids("who"))
    assert torch.cat(closed).tolist() == encoder.tokenizer("a ? who A :")["input_ids"]


def test_a_chat_template_gets_the_prompt_as_the_users_message(tmp_path: Path) -> None:
    chat = causal_models.build(tmp_path / "chat", bos=True, chat="{{ bos_token }}" + causal_models.CHAT)
    encoder = MemoryEncoder(chat, prompt="{documents} Q : {question}", **SIZES)
    parts = encoder.reading([encoder.tokens("the cat")], encoder.question_ids("who ?"))
    words = encoder.tokenizer.convert_ids_to_tokens(torch.cat(parts).tolist())
    assert " ".join(words) == "<s> user : the cat Q : who ? assistant :"
    assert encoder.answer_ids("cat").tolist() == [*encoder.tokens("cat").tolist(), 3]
    lost = causal_models.build(tmp_path / "lost", chat="{{ messages[0]['content'] | upper }}")
    with pytest.raises(InputError, match="does not leave the user's message"):
        MemoryEncoder(lost, **SIZES)
    broken = causal_models.build(tmp_path / "broken", chat="{{ raise_exception('never') }}")
    with pytest.raises(InputError, match="cannot be filled: never"):
        MemoryEncoder(broken, **SIZES)


def test_what_a_text_spells_like_a_special_token_is_text(encoder: MemoryEncoder) -> None:
    for ids in (encoder.tokens("cat </s> dog"), encoder.question_ids("cat </s>"), encoder.text_ids("</s>")[1:-1]):
        assert not {2, 3} & set(ids.tolist())
    assert encoder.answer_ids("cat </s> dog").tolist().count(3) == 1


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{question}", r"\{documents\} 0 times"),
        ("{documents} {documents} {question}", r"\{documents\} 2 times"),
        ("{documents}", r"\{question\} 0 times"),
        ("{question} {documents}", "before"),
    ],
)
def test_a_prompt_says_where_things_stand(folder: Path, prompt: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MemoryEncoder(folder, prompt=prompt, **SIZES)


# -------------------------------------------------------------------------------------------------------- answering


def test_an_answer_does_not_depend_on_the_others(encoder: MemoryEncoder) -> None:
    states = memory(encoder, TEXTS)
    documents: list[list[Any]] = [[states[0], states[2]], [TEXTS[2], states[4], TEXTS[0]], []]
    together = encoder.answer(QUESTIONS, documents, max_new_tokens=6)
    assert len(set(together)) == 3
    for budget in (1, 10_000):
        encoder.batch_tokens = budget
        for question, own, answer in zip(QUESTIONS, documents, together, strict=True):
            assert encoder.answer([question], [own], max_new_tokens=6) == [answer]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_generation_equals_a_loop_without_a_cache(kind: str, tmp_path: Path) -> None:
    encoder = stir(MemoryEncoder(causal_models.build(tmp_path / kind, kind), **SIZES))
    states, new = memory(encoder, TEXTS), 8
    read = [[states[0], states[3]], [states[2]], []]
    found = encoder.answer(QUESTIONS, read, max_new_tokens=new)
    for question, own, answer in zip(QUESTIONS, read, found, strict=True):
        parts = encoder.reading([torch.from_numpy(document) for document in own], encoder.question_ids(question))
        row = row_of(encoder.model.language_model, parts)
        ids: list[int] = []
        with torch.no_grad(), encoder.model.using("decoder"):
            while len(ids) < new:
                written = encoder.model.embed(torch.tensor(ids, dtype=torch.int64))
                logits = encoder.model.language_model(inputs_embeds=torch.cat([row, written])[None]).logits
                if (token := int(logits[0, -1].argmax())) in encoder.ends:
                    break
                ids.append(token)
        assert answer == encoder.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer.finished == (len(ids) < new)


def test_texts_without_an_adapter_are_read_as_transformers_does(folder: Path, encoder: MemoryEncoder) -> None:
    model = plain(folder)
    documents = [["the cat eats apples", "a dog fears the moon"], ["music " * 100], []]
    for own, question in zip(documents, QUESTIONS, strict=True):
        filled = "\n".join(" ".join(document.split()[:32]) for document in own)
        ids = encoder.tokenizer(f"Background:\n{filled}\n\nQuestion: {question}\nAnswer:", return_tensors="pt")
        with torch.no_grad():
            written = model.generate(
                ids["input_ids"], max_new_tokens=5, do_sample=False, eos_token_id=3, pad_token_id=0
            )
        expected = encoder.tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert encoder.answer([question], [own], adapter=None, max_new_tokens=5) == [expected]
    cut = encoder.answer([QUESTIONS[0]], [["music " * 100]], text_tokens=3, max_new_tokens=5)
    assert cut == encoder.answer([QUESTIONS[0]], [["music music music"]], max_new_tokens=5)


def test_a_streamer_gets_the_tokens(encoder: MemoryEncoder) -> None:
    from transformers.generation.streamers import BaseStreamer

    class Heard(BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ids: list[int] = []

        def put(self, value: Tensor) -> None:
            self.ids += value.flatten().tolist()

        def end(self) -> None:
            self.ids.append(-1)

    heard = Heard()
    answer = encoder.answer(QUESTIONS[:1], [[TEXTS[0]]], max_new_tokens=4, streamer=heard)[0]
    assert heard.ids.pop() == -1
    assert encoder.tokenizer.decode(heard.ids, skip_special_tokens=True).strip() == answer
    with pytest.raises(ConfigError, match="takes one question, not 2"):
        encoder.answer(QUESTIONS[:2], [[], []], streamer=heard)


def test_what_cannot_be_answered(encoder: MemoryEncoder) -> None:
    with pytest.raises(InputError, match="1 != 2"):
        encoder.answer(["who ?"], [[], []])
    with pytest.raises(InputError, match=r"a document is \[3, 32\], and memory of this model \[4, 32\]"):
        encoder.answer(["who ?"], [[np.zeros((3, 32), np.float32)]])
    with pytest.raises(InputError, match="more than the model's 256"):
        encoder.answer(["who ?"], [["cat " * 32] * 8])
    with pytest.raises(ConfigError, match="'coder'"):
        encoder.answer(["who ?"], [[]], adapter="coder")
    assert encoder.answer([], []) == []


# --------------------------------------------------------------------------------------------------------- training


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
