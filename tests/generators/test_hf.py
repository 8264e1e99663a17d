"""Causal language models: a text depends on its prompt alone; lengths, stops, templates, seeds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from causal_models import CHAT, NO_SYSTEM, build
from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.progress import Progress, listen
from lodesmith.core.protocols import Generated, Generator
from lodesmith.encoders import MemoryEncoder
from lodesmith.generators.hf import CausalLM

PROMPTS = ["the cat", "a dog fears thunder and likes the moon", "owl", "", "the whale likes rivers . " * 6, "the cat"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("causal")
    return {kind: build(root / kind, kind, seed=seed) for kind, seed in (("qwen2", 0), ("llama", 0), ("gpt2", 2))}


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_text_depends_on_its_prompt_alone(folders: dict[str, Path], kind: str, temperature: float) -> None:
    model = CausalLM(folders[kind], temperature=temperature, top_p=0.9, seed=3)

    def texts(prompts: list[str], batch_tokens: int) -> list[str]:
        model.batch_tokens = batch_tokens
        return [str(text) for text in model.generate(prompts, max_new_tokens=12)]

    together = texts(PROMPTS, 10_000)
    assert together == [texts([prompt], 1)[0] for prompt in PROMPTS]
    assert together == texts(PROMPTS[::-1], 60)[::-1]
    assert together[0] == together[5]
    assert len(set(together)) >= 4


def test_greedy_is_what_the_model_itself_says(folders: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.float32).eval()
    ours = CausalLM(folders["llama"])
    tokenizer = ours._loaded[1]
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id]
        start = len(ids)
        with torch.no_grad():
            while len(ids) < start + 8 and ids[-1] != 3:
                ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
        expected = tokenizer.decode([i for i in ids[start:] if i != 3], skip_special_tokens=True)
        assert ours.generate([prompt], max_new_tokens=8) == [expected]


def test_the_limit_cuts_and_the_end_token_finishes(folders: dict[str, Path]) -> None:
    model = CausalLM(folders["qwen2"])
    long = model.generate(PROMPTS, max_new_tokens=40)
    short = model.generate(PROMPTS, max_new_tokens=3)
    for whole, cut in zip(long, short, strict=True):
        assert whole.startswith(cut)
        assert len(cut.split()) <= 3
        assert cut.finished == (whole.finished and len(whole.split()) < 3)
    assert not all(text.finished for text in short)


def test_an_end_token_ends_a_text(folders: dict[str, Path]) -> None:
    model = CausalLM(folders["llama"])
    first = model.generate(["the cat"], max_new_tokens=6)[0]
    second = first.split()[1]
    network, tokenizer = model._loaded
    network.generation_config.eos_token_id = [3, tokenizer.convert_tokens_to_ids(second)]
    ended = model.generate(["the cat"], max_new_tokens=6)[0]
    assert str(ended) == first.split()[0]
    assert ended.finished
    assert not first.finished


def test_stop_strings_are_not_part_of_the_text(folders: dict[str, Path]) -> None:
    model = CausalLM(folders["qwen2"])
    texts = model.generate(PROMPTS, max_new_tokens=20)
    stop = texts[1].split()[2]
    stopped = model.generate(PROMPTS, max_new_tokens=20, stop=[stop, ""])
    for text, cut in zip(texts, stopped, strict=True):
        assert str(cut) == text.partition(stop)[0].strip()
        assert cut.finished or stop not in text
    assert stopped[1].finished
    asked = next(word for word in ["the", "a", "dog", "fears", "and", "likes", "moon"] if word not in texts[1])
    assert model.generate([PROMPTS[1] + f" {asked}"], max_new_tokens=20, stop=[asked]) == [
        model.generate([PROMPTS[1] + f" {asked}"], max_new_tokens=20)[0].partition(asked)[0].strip()
    ]  # in the prompt it ends nothing


def test_seeds_differ_and_repeat(folders: dict[str, Path]) -> None:
    def sample(seed: int) -> list[str]:
        return list(CausalLM(folders["qwen2"], temperature=1.0, seed=seed).generate(PROMPTS, max_new_tokens=10))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_messages_go_through_the_chat_template(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "the moon"}, {"role": "user", "content": "cat ?"}]
    model = CausalLM(build(tmp_path / "chat", chat=CHAT))
    tokenizer = model._loaded[1]
    assert [tokenizer.decode(ids) for ids in model.tokens([chat, "cat ?"])] == [
        "system : the moon user : cat ? assistant :",
        "user : cat ? assistant :",
    ]
    without = CausalLM(build(tmp_path / "none"))
    assert tokenizer.decode(without.tokens([chat])[0]) == "the moon cat ?"
    strict = CausalLM(build(tmp_path / "strict", chat=NO_SYSTEM))
    assert tokenizer.decode(strict.tokens([chat])[0]) == "user : the moon cat ? assistant :"


def test_special_tokens_come_from_the_template_or_the_tokenizer(tmp_path: Path) -> None:
    chat = CausalLM(build(tmp_path / "chat", chat="<s> " + CHAT, bos=True))
    assert chat.tokens(["cat"])[0].count(2) == 1
    plain = CausalLM(build(tmp_path / "plain", bos=True))
    assert plain.tokens(["cat", ""]) == [[2, plain.tokens(["cat"])[0][1]], [2]]


def test_a_tokenizer_without_padding_pads_all_the_same(tmp_path: Path) -> None:
    model = CausalLM(build(tmp_path / "model", "llama", pad=False))
    together = model.generate(PROMPTS, max_new_tokens=8)
    assert together == [model.generate([prompt], max_new_tokens=8)[0] for prompt in PROMPTS]


def test_what_the_folder_says_about_sampling_is_not_used(tmp_path: Path) -> None:
    plain, loud = build(tmp_path / "plain"), build(tmp_path / "loud")
    (loud / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 5.0, "repetition_penalty": 3.0, "top_k": 4, "eos_token_id": [3]}'
    )
    assert CausalLM(plain).generate(PROMPTS, max_new_tokens=9) == CausalLM(loud).generate(PROMPTS, max_new_tokens=9)


def test_fingerprints(folders: dict[str, Path], tmp_path: Path) -> None:
    def name(folder: Path = folders["qwen2"], **settings: Any) -> str:
        return CausalLM(folder, **settings).fingerprint

    assert name() == name(batch_tokens=7) == name(seed=9)  # greedy decoding has no seed
    assert name(temperature=1.0, seed=1) != name(temperature=1.0, seed=2)
    assert len({name(), name(temperature=1.0), name(dtype="bfloat16"), name(folders["llama"])}) == 4
    copy = build(tmp_path / "copy")
    assert name(copy) == name()
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert name(copy) != name()


def test_batches_hold_to_their_budget(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = CausalLM(folders["qwen2"], batch_tokens=40)
    shapes: list[tuple[int, int]] = []
    batch = model._batch

    def spy(tokens: Any, new: int, stop: Any) -> Any:
        shapes.append((len(tokens), max(map(len, tokens)) + new))
        return batch(tokens, new, stop)

    monkeypatch.setattr(model, "_batch", spy)
    told: list[Progress] = []
    with listen(told.append):
        model.generate(PROMPTS, max_new_tokens=5)
    assert all(rows * width <= 40 or rows == 1 for rows, width in shapes)
    assert sum(rows for rows, _ in shapes) == len(PROMPTS)
    assert len(shapes) < len(PROMPTS)
    assert (told[-1].done, told[-1].total) == (len(PROMPTS), len(PROMPTS))


def test_memory_counts_weights_and_cache(folders: dict[str, Path]) -> None:
    weights = (folders["qwen2"] / "model.safetensors").stat().st_size
    per_token = 2 * 2 * 2 * 8  # key and value, layers, groups, head dimension
    assert CausalLM(folders["qwen2"], batch_tokens=100).memory() == weights + 100 * per_token * 4
    assert CausalLM(folders["qwen2"], batch_tokens=100, dtype="bfloat16").memory() == weights // 2 + 100 * per_token * 2
    assert CausalLM(folders["gpt2"], batch_tokens=1).memory() > weights


def test_half_precision_runs(folders: dict[str, Path]) -> None:
    model = CausalLM(folders["qwen2"], dtype="bfloat16")
    assert next(model._loaded[0].parameters()).dtype == torch.bfloat16
    assert len(model.generate(PROMPTS, max_new_tokens=3)) == len(PROMPTS)


def test_a_prompt_that_is_too_long_names_both_numbers(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"has 250 tokens, and with 10 new ones that is more than the 256"):
        CausalLM(folders["qwen2"]).generate(["cat " * 250], max_new_tokens=10)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("inf")}, {"top_p": 0.0}, {"top_p": 1.1}, {"batch_tokens": 0}]
)
def test_settings_out_of_range(folders: dict[str, Path], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        CausalLM(folders["qwen2"], **wrong)


def test_unknown_device_dtype_and_no_tokens(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="the device 'gpu' cannot be used"):
        CausalLM(folders["qwen2"], device="gpu").generate(["cat"])
    with pytest.raises(ConfigError, match="no dtype is called 'int3'"):
        CausalLM(folders["qwen2"], dtype="int3").generate(["cat"])
    with pytest.raises(ConfigError, match="max_new_tokens 0"):
        CausalLM(folders["qwen2"]).generate(["cat"], max_new_tokens=0)


def test_it_is_a_generator_and_no_prompts_are_no_texts(folders: dict[str, Path]) -> None:
    model = CausalLM(folders["qwen2"])
    assert isinstance(model, Generator)
    assert model.generate([]) == []
    assert isinstance(model.generate(["cat"], max_new_tokens=1)[0], Generated)


def test_the_greedy_one_shares_its_weights(folders: dict[str, Path]) -> None:
    warm, cold = CausalLM(folders["qwen2"], temperature=1.0), CausalLM(folders["qwen2"])
    greedy = warm.greedy()
    assert greedy.fingerprint == cold.fingerprint != warm.fingerprint
    assert list(greedy.generate(PROMPTS, max_new_tokens=6)) == list(cold.generate(PROMPTS, max_new_tokens=6))
    assert warm._loaded[0] is greedy._loaded[0]
    assert warm.temperature == 1.0
    assert cold.greedy() is cold


def test_a_device_that_is_not_here(folders: dict[str, Path]) -> None:
    for device in ["meta"] + ([] if torch.cuda.is_available() else ["cuda:0"]):
        with pytest.raises(ConfigError, match=f"the device '{device}' cannot be used: "):
            CausalLM(folders["llama"], device=device).generate(["the cat"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folders: dict[str, Path], tmp_path: Path, value: float) -> None:
    damaged = Path(shutil.copytree(folders["llama"], tmp_path / "damaged"))
    weights = load_file(damaged / "model.safetensors")
    name = min(weights)
    weights[name].view(-1)[3] = value
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotFiniteError, match=r"damaged: the weight \S+ is NaN or infinite"):
        CausalLM(damaged).generate(["the cat"])
    with pytest.raises(NotFiniteError, match=r"damaged: the weight \S+ is NaN or infinite"):
        MemoryEncoder(damaged, rate=4, document_length=16)
