"""Documents as memory tokens: what is computed, checked by hand, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import causal_models
import lodesmith as lode
from command_line import lode as command
from lodesmith.core.errors import ConfigError, InputError, IntegrityError, NotFiniteError
from lodesmith.core.files import read_object, sha256_file, write_json
from lodesmith.core.records import Dataset, Document, Query
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import MemoryEncoder, MemoryTower, TransformerEncoder, VectorCache
from lodesmith.encoders._memory_model import ADAPTERS
from lodesmith.recipes.systems import load_encoder, resolve
from lodesmith.similarity.aligned import aligned_rows

pytestmark = pytest.mark.usefixtures("cache")
SIZES: dict[str, Any] = {"rate": 8, "document_length": 32}
TEXTS = ["the cat eats apples", "", "a dog likes music and the moon . " * 3, "owl", "the whale fears thunder"]
QUESTIONS = ["what does the cat eats ?", "who likes music and the moon in the barn ?", "owl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_models.build(tmp_path_factory.mktemp("causal") / "model", "llama", bos=True)


def stir(encoder: MemoryEncoder, *adapters: str, seed: int = 0) -> MemoryEncoder:
    """As if these adapters had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for adapter in adapters or ADAPTERS:
            for weight in encoder.model.weights(adapter).values():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return encoder


@pytest.fixture
def encoder(folder: Path) -> MemoryEncoder:
    torch.manual_seed(0)
    return stir(MemoryEncoder(folder, **SIZES))


@pytest.fixture
def saved(encoder: MemoryEncoder, tmp_path: Path) -> Path:
    return encoder.save(tmp_path / "saved")


def plain(folder: Path) -> Any:
    """The language model of transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def packed(parts: list[Tensor]) -> dict[str, Tensor]:
    offsets = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)
    return {"ids": torch.cat(parts), "offsets": offsets}


def memory(encoder: MemoryEncoder, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return encoder.encode(texts).values.reshape(len(texts), encoder.count, encoder.dimension)


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
        row = torch.cat([part if part.is_floating_point() else encoder.model.embed(part) for part in parts])
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
        prompt = [part if part.is_floating_point() else model.get_input_embeddings()(part) for part in parts]
        row = torch.cat([*prompt, model.get_input_embeddings()(answer)])[None]
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


# ---------------------------------------------------------------------------------------------------------- folders


def test_what_is_loaded_is_what_was_saved(encoder: MemoryEncoder, saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "moved")
    found = MemoryEncoder(tmp_path / "moved")
    assert found.fingerprint == encoder.fingerprint
    assert found.settings == encoder.settings
    for side in ("document", "query"):
        np.testing.assert_array_equal(found.encode(TEXTS, side).values, encoder.encode(TEXTS, side).values)  # type: ignore[arg-type]
    states = memory(encoder, TEXTS)
    assert found.answer(QUESTIONS[:1], [[states[0]]]) == encoder.answer(QUESTIONS[:1], [[states[0]]])
    again = found.save(tmp_path / "again")
    assert read_object(again / "memory.json") == read_object(tmp_path / "moved" / "memory.json")
    assert MemoryEncoder(again, rate=8, lora={"rank": 16}).fingerprint == encoder.fingerprint
    for name, value in (("rate", 16), ("document_length", 33), ("lora", {"rank": 8}), ("separator", " ")):
        given: dict[str, Any] = {name: value}
        with pytest.raises(ConfigError, match=f"made with {name}"):
            MemoryEncoder(again, **given)


def test_a_large_language_model_is_kept_by_name(
    encoder: MemoryEncoder, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    monkeypatch.setattr("lodesmith.encoders._memory_folder._LARGEST", 10)
    saved = stir(MemoryEncoder(base, **SIZES)).save(tmp_path / "named")
    assert not (saved / "base").exists()
    assert read_object(saved / "memory.json")["base"]["name"] == str(base)
    assert MemoryEncoder(saved).save(tmp_path / "again")
    assert read_object(tmp_path / "again" / "memory.json") == read_object(saved / "memory.json")
    causal_models.build(base, "llama", bos=True, seed=1)
    with pytest.raises(IntegrityError, match=r"model\.safetensors is another now"):
        MemoryEncoder(saved)
    shutil.rmtree(base)
    with pytest.raises(InputError, match="no such model folder"):
        MemoryEncoder(saved)


def signed(folder: Path) -> None:
    """As if the files had been written so."""
    told = read_object(folder / "memory.json")
    told["files"] = {name: sha256_file(folder / name) for name in told["files"]}
    write_json(folder / "memory.json", told)


def test_a_changed_file_is_refused(saved: Path) -> None:
    for name in ("adapters/decoder/adapter_model.safetensors", "base/config.json", "memory.safetensors"):
        file = saved / name
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(IntegrityError, match="SHA-256"):
            MemoryEncoder(saved)
        file.unlink()
        with pytest.raises(IntegrityError, match="missing"):
            MemoryEncoder(saved)
        file.write_bytes(before)
    extra = saved / "base" / "adapter_config.json"
    extra.write_text("{}")
    with pytest.raises(IntegrityError, match="no file of this model"):
        MemoryEncoder(saved)
    extra.unlink()
    for damage in ({"format": 2}, {"settings": {"pace": 1}}, {"settings": {"rate": 0}}, {"base": None}, {"files": 3}):
        told = read_object(saved / "memory.json")
        write_json(saved / "memory.json", told | damage)
        with pytest.raises(IntegrityError):
            MemoryEncoder(saved)
        write_json(saved / "memory.json", told)
    MemoryEncoder(saved)


@pytest.mark.parametrize("which", ["adapters/query_reasoner/adapter_model.safetensors", "memory.safetensors"])
def test_every_tensor_is_there_with_its_shape(saved: Path, which: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(saved / which)
    first = sorted(state)[0]
    missing = {name: tensor for name, tensor in state.items() if name != first}
    for damaged, said in (
        (missing, f"{first} is missing"),
        (state | {"more": state[first].clone()}, "more has no place in the model"),
        (state | {first: state[first][:-1].contiguous()}, r"has the shape \["),
    ):
        save_file(damaged, saved / which)
        signed(saved)
        with pytest.raises(IntegrityError, match=said):
            MemoryEncoder(saved)
    (saved / which).write_bytes(b"no tensors")
    signed(saved)
    with pytest.raises(IntegrityError, match="damaged"):
        MemoryEncoder(saved)


def test_an_adapter_is_a_folder_of_peft(encoder: MemoryEncoder, saved: Path) -> None:
    from peft import PeftModel

    ids = encoder.text_ids("the cat eats apples")[None]
    with torch.no_grad():
        for name in ADAPTERS:
            adapted: Any = encoder.model.language_model
            with encoder.model.using(name):
                expected = adapted(ids).logits
            with pytest.warns(FutureWarning, match="checkpointing"):
                found: Any = PeftModel.from_pretrained(plain(saved / "base"), str(saved / "adapters" / name))
            torch.testing.assert_close(found.eval()(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_every_setting_is_in_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    def made(**settings: Any) -> str:
        torch.manual_seed(0)
        return MemoryEncoder(settings.pop("base", folder), **{**SIZES, **settings}).fingerprint

    other = causal_models.build(tmp_path / "other", "llama", bos=False)
    swapped = causal_models.build(tmp_path / "swapped", "llama", words=causal_models.WORDS[::-1], bos=True)
    seen = {
        made(),
        made(rate=7),
        made(document_length=39),
        made(lora={"alpha": 16}),
        made(prompt="{documents} {question}"),
        made(separator=" "),
        made(base=other),
        made(base=swapped),
    }
    assert len(seen) == 8
    assert made() in seen
    encoder = MemoryEncoder(folder, **SIZES)
    before, base = encoder.fingerprint, encoder.base_fingerprint
    stir(encoder, "decoder")
    assert encoder.fingerprint != before
    assert encoder.base_fingerprint == base
    with torch.no_grad():
        encoder.model.language_model.get_input_embeddings().weight[3] += 1
    assert encoder.base_fingerprint != base


# ---------------------------------------------------------------------------------------------------------- refusals


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    write_json(folder / name, change(json.loads((folder / name).read_text())))


def test_a_language_model_that_changed_since_it_was_read_is_not_saved(folder: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    encoder = MemoryEncoder(own, **SIZES)
    kept = encoder.save(tmp_path / "kept")
    (own / "notes.txt").write_text("not there when it was read")
    assert not (encoder.save(kept) / "base" / "notes.txt").exists()
    other = causal_models.build(tmp_path / "other", "llama", bos=True, seed=1)
    (other / "model.safetensors").replace(own / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"model\.safetensors: the language model has changed since it was read"):
        encoder.save(kept)
    assert MemoryEncoder(kept).fingerprint == encoder.fingerprint


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"document_length": 0}, "document_length 0"),
        ({"rate": 0, "document_length": 8}, "rate 0"),
        ({"rate": 9, "document_length": 8}, "rate 9 is not between 1 and document_length, 8"),
        ({"precision": "float8"}, "float8"),
        ({"batch_tokens": 0}, "batch_tokens 0"),
        ({"lora": {"rnk": 2}}, "no setting 'rnk'"),
        ({"lora": {"layers": ["nowhere"]}}, "does not fit the model"),
        ({"lora": {"rank": -1}}, "does not fit the model"),
        ({"lora": {"dropout": -0.1}}, "dropout is at least 0 and below 1"),
        ({"lora": {"dropout": 1}}, "dropout is at least 0 and below 1"),
        ({"lora": {"alpha": 0}}, "alpha above 0"),
        ({"rate": 2.5, "document_length": 8}, "not two whole numbers and a text"),
        ({"document_length": 8.0}, "not two whole numbers and a text"),
        ({"separator": 5, "document_length": 8}, "not two whole numbers and a text"),
        ({}, "document_length 256 with 16 memory tokens and 3 others is more than the 256"),
    ],
)
def test_settings_that_cannot_be(folder: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MemoryEncoder(folder, **(settings if not settings or "document_length" in settings else SIZES | settings))


def test_what_is_no_causal_language_model(folder: Path, tmp_path: Path, tiny: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no causal language model: BertModel"):
        MemoryEncoder(tiny())

    def refused(said: str, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        edited(copy, name, change)
        with pytest.raises(InputError, match=said):
            MemoryEncoder(copy, **SIZES)
        shutil.rmtree(copy)

    refused("LlamaModel", "config.json", lambda own: own | {"architectures": ["LlamaModel"]})
    refused("code of its own", "config.json", lambda own: own | {"auto_map": {"AutoModelForCausalLM": "own.Model"}})
    refused("no causal language model", "config.json", lambda own: own | {"model_type": ["x"]})
    refused("missing or misshapen", "config.json", lambda own: own | {"num_hidden_layers": 3})
    refused("does not load", "config.json", lambda own: own | {"vocab_size": 40})

    def with_a_word(own: dict[str, Any]) -> dict[str, Any]:
        return own | {"model": own["model"] | {"vocab": own["model"]["vocab"] | {"newt": 44}}}

    refused("tokenizer knows 45 tokens, and the model 44", "tokenizer.json", with_a_word)
    endless = shutil.copytree(folder, tmp_path / "endless")
    for name in ("config.json", "generation_config.json"):
        edited(endless, name, lambda own: own | {"eos_token_id": None})
    edited(endless, "tokenizer_config.json", lambda own: {k: v for k, v in own.items() if k != "eos_token"})
    with pytest.raises(InputError, match="no token ends a text"):
        MemoryEncoder(endless, **SIZES)


def test_files_that_are_missing_or_not_safe(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter"):
        MemoryEncoder(base, **SIZES)
    (base / "adapter_config.json").unlink()
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        MemoryEncoder(base, **SIZES)
    torch.save({}, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match="pickles can run code"):
        MemoryEncoder(base, **SIZES)


def test_a_saved_model_is_no_other_kind(saved: Path) -> None:
    with pytest.raises(InputError, match="several vectors a text"):
        TransformerEncoder(saved)
    with pytest.raises(InputError, match="leave --passages out"):
        load_encoder(str(saved), 64)


# ---------------------------------------------------------------------------------------------------------- the verbs


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    documents = [Document(f"d{n}", "", text) for n, text in enumerate(TEXTS) if text]
    judged = {"test": {"q0": {"d0": 1}, "q1": {"d2": 1}, "q2": {"d3": 1}}}
    queries = [Query(f"q{n}", text) for n, text in enumerate(QUESTIONS)]
    return Dataset.of(documents, queries, judged, name="small").save(tmp_path / "small")


def test_it_is_searched_by_the_cosine_of_all_its_vectors(
    encoder: MemoryEncoder, saved: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(lode.load(saved), MemoryEncoder)
    loaded = Dataset.load(dataset)
    system = resolve(str(saved), loaded)
    texts = [document.content for document in loaded.documents.values()]
    found = encoder.encode(texts, ids=list(loaded.documents))
    half = Vectors(found.values.astype(np.float16), found.offsets, found.ids)
    asked = encoder.encode([QUESTIONS[0]] * len(texts), "query")
    scores = dict(zip(found.ids, aligned_rows(asked, half).tolist(), strict=True))
    run = system.retriever.search({"q": QUESTIONS[0]}, 9)
    assert list(run["q"]) == sorted(scores.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
    evaluation = lode.evaluate(str(saved), loaded)
    assert 0 < evaluation.measures["nDCG@10"].mean <= 1
    assert evaluation.cost["parameters"] == encoder.parameters_total
    code, out, _ = command(capsys, "encode", saved, dataset, "--out", tmp_path / "vectors", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 4 * len(texts))
    np.testing.assert_allclose(Vectors.load(tmp_path / "vectors").values, found.values, atol=1e-5)
    assert command(capsys, "index", "build", saved, dataset, "--out", tmp_path / "index")[0] == 0
    code, out, _ = command(capsys, "search", tmp_path / "index", QUESTIONS[0], "-k", 1, "--json")
    assert code == 0
    assert next(iter(run["q"]))[0] in out


def test_vectors_are_kept_in_half_the_room(encoder: MemoryEncoder) -> None:
    items = [(f"d{n}", text) for n, text in enumerate(TEXTS)]
    kept = VectorCache(dtype="float16").vectors(encoder, items, "document")
    assert kept.values.dtype == np.float16
    whole = encoder.encode(TEXTS)
    np.testing.assert_array_equal(kept.offsets, whole.offsets)
    np.testing.assert_allclose(kept.values, whole.values, rtol=1e-3, atol=1e-4)
    stored = Vectors(kept.values.astype(np.float32), kept.offsets, kept.ids)
    assert aligned_rows(stored, whole).min() > 1 - 1e-6
    read = [[stored.values[4 * n : 4 * n + 4]] for n in range(3)]
    assert encoder.answer(QUESTIONS, read, max_new_tokens=4)


def test_a_run_folder_gives_its_model(encoder: MemoryEncoder, saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    with pytest.raises(InputError, match="no model yet"):
        load_encoder(str(run))
    shutil.copytree(saved, run / "model")
    files = {file.relative_to(run / "model").as_posix(): sha256_file(file) for file in (run / "model").rglob("*.*")}
    write_json(run / "manifest.json", {"model_files": files})
    assert load_encoder(str(run)).fingerprint == encoder.fingerprint
    stir(encoder, seed=5).save(run / "model")
    with pytest.raises(IntegrityError, match="SHA-256"):
        load_encoder(str(run))
