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
