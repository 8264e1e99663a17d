"""Tiny random causal language models with a word-level tokenizer, as transformers folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
WORDS = [
    "the",
    "a",
    "of",
    "cat",
    "dog",
    "owl",
    "bee",
    "whale",
    "eats",
    "likes",
    "fears",
    "sleeps",
    "in",
    "apples",
    "rivers",
    "thunder",
    "moon",
    "barn",
    "music",
    "and",
    "far",
    "what",
    "does",
    "who",
    "user",
    "system",
    "assistant",
    "Q",
    "A",
    "question",
    "answer",
    ":",
    "?",
    ".",
    ",",
    "{",
    "}",
    "1",
    "2",
    "3",
]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT


def build(
    folder: Path,
    kind: str = "qwen2",
    *,
    words: Sequence[str] = WORDS,
    chat: str | None = None,
    pad: bool = True,
    bos: bool = False,
    seed: int = 0,
) -> Path:
    """Write a random model with two layers of width 32.

    Args:
        folder: where.
        kind: qwen2, llama, opt, gpt2; mistral and gpt_neo, with windows of 8 tokens; gemma, which multiplies the words'
            vectors; lfm2, with convolutions.
        words: that the tokenizer knows.
        chat: a chat template.
        pad: whether the tokenizer has a pad token.
        bos: whether it puts a token before each text.
        seed: of the weights.
    """
    import torch

    torch.manual_seed(seed)
    _model(kind, len(SPECIAL) + len(words)).save_pretrained(folder)
    tokenizer = _tokenizer(words, pad, bos)
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    return folder


def _model(kind: str, size: int) -> Any:
    import transformers as t

    ids = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    ids |= {"initializer_range": 0.5}  # large enough that attention and positions matter
    if kind == "gpt2":
        return t.GPT2LMHeadModel(t.GPT2Config(**ids, n_embd=32, n_layer=2, n_head=4, n_positions=256))
    if kind == "opt":
        own = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64}
        own |= {"max_position_embeddings": 256, "word_embed_proj_dim": 32, "init_std": 0.5}
        return t.OPTForCausalLM(t.OPTConfig(**ids, **own))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 256}
    if kind == "gpt_neo":
        own = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "window_size": 8}
        own |= {"max_position_embeddings": 256, "attention_types": [[["global", "local"], 1]]}
        return t.GPTNeoForCausalLM(t.GPTNeoConfig(**ids, **own))
    own = {
        "mistral": {"sliding_window": 8},
        "gemma": {"head_dim": 8},
        "lfm2": {"layer_types": ["conv", "full_attention"]},
    }
    name = {"mistral": "Mistral", "gemma": "Gemma", "lfm2": "Lfm2", "llama": "Llama", "qwen2": "Qwen2"}[kind]
    config = getattr(t, f"{name}Config")(**ids, **shape, **own.get(kind, {}))
    return getattr(t, f"{name}ForCausalLM")(config)


def _tokenizer(words: Sequence[str], pad: bool, bos: bool) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 2)])
    named = {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=256, **named
    )


def by_mlx(folder: Path, *, bits: int = 4, group_size: int = 32, own: dict[str, Any] | None = None) -> Path:
    """Quantise a model's folder as mlx-lm does: all maps and tables but those that `own` gives False, in its way where
    it gives one."""
    import json

    import mlx.core as mx

    own, file = own or {}, folder / "model.safetensors"
    written: dict[str, Any] = {}
    for name, weight in mx.load(str(file)).items():
        place = name.removesuffix(".weight")
        if weight.ndim < 2 or own.get(place) is False:
            written[name] = weight
            continue
        how = own.get(place, {"bits": bits, "group_size": group_size})
        parts = mx.quantize(weight.astype(mx.float16), **how)
        written |= dict(zip((name, f"{place}.scales", f"{place}.biases"), parts, strict=True))
    mx.eval(written)
    mx.save_safetensors(str(file), written, metadata={"format": "mlx"})
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told |= {"quantization": {"group_size": group_size, "bits": bits, **own}, "quantization_config": {"bits": bits}}
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def quantised(place: Path) -> dict[str, Path]:
    """A Llama of width 128, which blocks of 64 weights divide: `plain`, and by bitsandbytes with `8` and `4` bits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    plain = build(place / "plain", "llama")
    tokenizer = AutoTokenizer.from_pretrained(plain)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **ids, initializer_range=0.1)).save_pretrained(plain)
    ways = {
        "8": BitsAndBytesConfig(load_in_8bit=True),
        "4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
    }
    found = {"plain": plain}
    for bits, settings in ways.items():
        found[bits] = place / bits
        AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, device_map="cpu").save_pretrained(
            found[bits]
        )
        tokenizer.save_pretrained(found[bits])
    return found
