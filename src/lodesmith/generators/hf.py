"""Any causal language model of transformers as a generator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from lodesmith.core.errors import ConfigError, InputError
from lodesmith.core.files import read_json
from lodesmith.core.hashing import fingerprint
from lodesmith.core.progress import tell
from lodesmith.core.protocols import Generated, Prompt
from lodesmith.core.quantised import mixes_rows
from lodesmith.generators._loading import digests, find_model, load_model

__all__ = ["CausalLM"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class CausalLM:
    """A causal language model: greedy, or sampled with a seed.

    A text depends on its prompt and the settings alone, not on the batch: greedy decoding up to the rounding of sums
    (in float32 a tie of two tokens to the sixth digit; in half precision more often), sampling through random numbers
    that are drawn from the seed and the prompt. The same prompt therefore gets the same text; for several texts of one
    prompt take several seeds. What the model's own folder says about sampling is not used.

    Args:
        name: a model folder or a hub name.
        temperature: 0 for greedy decoding.
        top_p: the share of probability that is sampled from.
        seed: of the sampling.
        batch_tokens: the most tokens of a batch, padding and new tokens among them; a batch has at least one prompt.
            A model whose weights bitsandbytes reads as 8 bits gets a prompt at a time: beside others it would write
            something else.
        device: such as `cpu` or `cuda:1`; None for a GPU where there is one.
        dtype: float32, bfloat16 or float16; None for float32 on a CPU and bfloat16 elsewhere.

    Raises:
        InputError: there is no such model, or it is not safe to load; weights are loaded at the first text.
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_tokens: int = 8192,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        if not (0 <= temperature < math.inf and 0 < top_p <= 1 and seed >= 0 and batch_tokens > 0):
            raise ConfigError(
                f"temperature {temperature}, top_p {top_p}, seed {seed} and batch_tokens {batch_tokens} cannot be used",
                "temperature ≥ 0, 0 < top_p ≤ 1, seed ≥ 0, batch_tokens ≥ 1",
            )
        self.name, self.folder = str(name), find_model(name)
        self.temperature, self.top_p, self.seed, self.batch_tokens = temperature, top_p, seed, batch_tokens
        self._device, self._dtype = device, dtype
        self._weights: list[tuple[Any, Any]] = []

    @cached_property
    def device(self) -> str:
        """Where the model runs."""
        import torch

        try:
            found = torch.device(self._device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.zeros(1, device=found).item()  # not all that has a name is here
            return str(found)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(f"the device {self._device!r} cannot be used: {reason}", "give cpu, or cuda:0") from None

    @cached_property
    def dtype(self) -> str:
        """The name of the weights' type."""
        return self._dtype or ("float32" if self.device == "cpu" else "bfloat16")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the model's files, the dtype and the settings of the sampling."""
        sampling = [self.temperature, self.top_p, self.seed] if self.temperature else "greedy"
        return fingerprint({"files": digests(self.folder), "dtype": self.dtype, "sampling": sampling})

    def greedy(self) -> CausalLM:
        """The same model, which takes the likeliest token; its weights are loaded once for the two."""
        if not self.temperature:
            return self
        other = copy(self)
        other.temperature = 0.0
        other.__dict__.pop("fingerprint", None)
        return other

    @property
    def _loaded(self) -> tuple[Any, Any]:
        if not self._weights:
            self._weights.append(self._load())
        return self._weights[0]

    def _load(self) -> tuple[Any, Any]:
        from transformers import GenerationConfig

        model, tokenizer = load_model(self.folder, self.device, self.dtype)
        ends = _ids(getattr(model.generation_config, "eos_token_id", None)) or _ids(model.config.eos_token_id)
        ends = ends or _ids(tokenizer.eos_token_id)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        # A configuration of our own: what the folder's says about sampling, penalties or beams is left out.
        model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, eos_token_id=ends or None, pad_token_id=tokenizer.pad_token_id
        )
        return model, tokenizer

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 256, stop: Sequence[str] = ()
    ) -> list[Generated]:
        """One text a prompt; `finished` is False where `max_new_tokens` cut it.

        Messages, and texts too, go through the tokenizer's chat template where it has one (a text as the user's
        message); without one the messages' contents are joined by empty lines.

        Raises:
            InputError: a prompt with its new tokens is longer than the model allows; both numbers are named.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {max_new_tokens} cannot be used", "give at least 1")
        tokens = self.tokens(prompts)
        self._check_lengths(tokens, max_new_tokens)
        made: list[Generated] = [Generated("")] * len(prompts)
        done = 0
        tell("generate", 0, len(prompts), "prompts")
        budget = 1 if mixes_rows(self._loaded[0]) else self.batch_tokens
        for rows in _batches([len(ids) for ids in tokens], max_new_tokens, budget):
            texts = self._batch([tokens[row] for row in rows], max_new_tokens, [text for text in stop if text])
            for row, text in zip(rows, texts, strict=True):
                made[row] = text
            done += len(rows)
            tell("generate", done, len(prompts), "prompts")
        return made

    def tokens(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The token ids of each prompt as the model reads it; at least one."""
        _, tokenizer = self._loaded
        chat = bool(getattr(tokenizer, "chat_template", None))
        texts = [_chat(tokenizer, prompt) if chat else _plain(prompt) for prompt in prompts]
        if not texts:
            return []
        # A chat template writes the special tokens itself.
        ids = tokenizer(texts, add_special_tokens=not chat, return_attention_mask=False)["input_ids"]
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.pad_token_id
        return [list(row) or [start] for row in ids]

    def _check_lengths(self, tokens: Sequence[Sequence[int]], new: int) -> None:
        model, _ = self._loaded
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        longest = max(map(len, tokens), default=0)
        if room is not None and longest + new > room:
            raise InputError(
                f"a prompt has {longest} tokens, and with {new} new ones that is more than the {room} of the model",
                "shorten the prompt or the documents, lower --max-new-tokens, or choose another model",
            )

    def _batch(self, tokens: Sequence[Sequence[int]], new: int, stop: Sequence[str]) -> list[Generated]:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        from lodesmith.generators._decoding import RowSampling, RowStops, uniforms

        model, tokenizer = self._loaded
        width = max(map(len, tokens))
        ids = torch.full((len(tokens), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(tokens):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        processors, stops = LogitsProcessorList(), StoppingCriteriaList()
        if self.temperature:
            draws = uniforms(self.seed, tokens, new)
            processors.append(RowSampling(draws, width, self.temperature, self.top_p))
        if stop:
            stops.append(RowStops(tokenizer, stop, width))
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                max_new_tokens=new,
                logits_processor=processors,
                stopping_criteria=stops,
            )
        return [self._text(row, new, stop) for row in found[:, width:].tolist()]

    def _text(self, ids: list[int], new: int, stop: Sequence[str]) -> Generated:
        """The text up to the first end, be it a token or a string."""
        model, tokenizer = self._loaded
        ends = set(_ids(model.generation_config.eos_token_id))
        length = next((at for at, token in enumerate(ids) if token in ends), len(ids))
        text = tokenizer.decode(ids[:length], skip_special_tokens=True)
        first = min((at for end in stop if (at := text.find(end)) >= 0), default=None)
        finished = first is not None or length < len(ids) or len(ids) < new
        return Generated(text[:first].strip(), finished)

    def memory(self) -> int:
        """Bytes that a full batch needs, forecast: weights, and keys and values of `batch_tokens` tokens.

        The activations of the longest prompt and the scores over the vocabulary come on top.
        """
        weights = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        config = read_json(self.folder / "config.json")
        stored = _BYTES.get(str(config.get("dtype", config.get("torch_dtype"))), 4)
        size = _BYTES[self.dtype]
        return weights * size // stored + self.batch_tokens * _cached_values(config) * size


def _cached_values(config: Mapping[str, Any]) -> int:
    """Numbers that the cache holds for a token: a key and a value for each layer and head of them."""
    width = config.get("hidden_size", config.get("n_embd", 0))
    heads = config.get("num_attention_heads", config.get("n_head", 1)) or 1
    groups = config.get("num_key_value_heads") or heads
    layers = config.get("num_hidden_layers", config.get("n_layer", 0))
    return int(2 * layers * groups * (config.get("head_dim") or width // heads))


def _ids(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _plain(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def _chat(tokenizer: Any, prompt: Prompt) -> str:
    """The prompt in the tokenizer's chat template, up to where the answer begins."""
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    # Models that can think aloud first are asked not to; other templates ignore this.
    settings = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return str(tokenizer.apply_chat_template(messages, **settings))
    except TemplateError:  # some templates know no system message, or want user and assistant to alternate
        return str(tokenizer.apply_chat_template([{"role": "user", "content": _plain(prompt)}], **settings))


def _batches(lengths: Sequence[int], new: int, budget: int) -> Iterator[list[int]]:
    """Positions by length, longest first, so that what does not fit into memory fails at once; each batch holds at
    most `budget` tokens with its padding and its new tokens, but at least one prompt."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        rows = max(1, budget // (lengths[order[0]] + new))
        yield order[:rows]
        order = order[rows:]
