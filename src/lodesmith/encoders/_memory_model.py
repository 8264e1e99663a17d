"""A causal language model that compresses documents into memory tokens, and reads them: CLaRa (arXiv 2511.18659).

One model with three low-rank adapters: `encoder` compresses, `query_reasoner` makes of a query what its documents'
memory tokens should be, `decoder` answers from memory tokens.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lodesmith.core.errors import ConfigError, InputError, MissingExtraError
from lodesmith.core.quantised import quiet_products

__all__ = ["ADAPTERS", "LORA", "NEARER", "Compressed", "MemoryModel", "Reading"]

ADAPTERS = ("encoder", "decoder", "query_reasoner")
_LORA = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "layers": "target_modules"}
LORA: Mapping[str, Any] = {"rank": 16, "alpha": 32, "dropout": 0.1, "layers": "all-linear"}
"""The adapters' settings where none are given."""
_WEIGHT = re.compile(r"(?P<place>.*\.lora_\w+)\.(?P<adapter>\w+)(?P<rest>\.\w+)?")
"""A weight of an adapter. The model's own modules may be called `encoder` and `decoder` too."""

_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""Of a cache that holds keys and values alone."""
_SLICE = 4096
"""Words whose vectors are measured at once."""

NEARER = 0.3
"""How far from the words' mean memory is read, where words are 1 from it (docs/log.md, 2026-11-22)."""

Reading = Sequence[Tensor]
"""A prompt, part by part: int64 token ids [l], or states [t, H] that stand in their place."""


class Compressed:
    """Documents as memory.

    Args:
        memory: [n, t, H], the last layer's states at the memory tokens.
        text: [n, H], the mean of those at the text's own tokens.
    """

    def __init__(self, memory: Tensor, text: Tensor) -> None:
        self.memory, self.text = memory, text


class MemoryModel(nn.Module):
    """The model with its adapters, memory tokens, and the mark that stands before what is compressed.

    Args:
        language_model: any causal one of transformers, which is changed in place; its own weights are frozen.
        count: t, memory tokens of a document, distinct and learned.
        lora: of each adapter: `rank` (16), `alpha` (32), `dropout` (0.1), `layers` (`all-linear`).
        checkpointing: while it trains, keep a layer's input only, and compute the layer again in the backward pass.

    Raises:
        ConfigError: a setting of lora is unknown or does not fit the model.
        MissingExtraError: peft is not installed.
    """

    word_mean: Tensor
    """Of what the model reads of words: float32 [H]."""

    def __init__(
        self, language_model: Any, count: int, lora: Mapping[str, Any] | None = None, checkpointing: bool = False
    ) -> None:
        super().__init__()
        if unknown := sorted((lora or {}).keys() - _LORA.keys()):
            raise ConfigError(f"lora has no setting {unknown[0]!r}", f"it has: {', '.join(_LORA)}")
        settings = {_LORA[name]: value for name, value in {**LORA, **(lora or {})}.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # peft asks by the older name
            warnings.filterwarnings("ignore", "fan_in_fan_out", UserWarning)  # which it then sets right by itself
            self.model: Any = self._adapted(language_model, settings)
        self._active: str | None = ADAPTERS[0]
        self.checkpointing = checkpointing
        if checkpointing:
            self._checkpoint()
        words = language_model.get_input_embeddings().weight
        self.dimension = int(words.shape[1])
        self._measure_words(len(words))
        self._caches = True
        self.memory = nn.Parameter(self._new(count, words.device))
        self.mark = nn.Parameter(self._new(1, words.device))
        self.train_adapters()

    @torch.no_grad()
    def _measure_words(self, count: int) -> None:
        """Mean length of the words' vectors, their mean, and how far they are from it on average. Measured is what the
        model reads of a word: some multiply their vectors."""
        parts = [torch.arange(start, min(start + _SLICE, count)) for start in range(0, count, _SLICE)]

        def read(ids: Tensor) -> Tensor:
            return self.embed(ids.to(device)).float()

        device = self.language_model.device
        if device.type == "meta":  # shapes alone are asked for
            self.word_norm = self.word_spread = 0.0
            self.register_buffer("word_mean", torch.zeros(self.dimension, device=device), persistent=False)
            return
        self.word_norm = sum(float(read(ids).norm(dim=1).sum()) for ids in parts) / count
        mean = torch.stack([read(ids).sum(0) for ids in parts]).sum(0) / count
        self.register_buffer("word_mean", mean, persistent=False)
        self.word_spread = sum(float((read(ids) - mean).norm(dim=1).sum()) for ids in parts) / count

    def _new(self, count: int, device: torch.device) -> Tensor:
        """New token vectors, as long as a word's: [count, H], float32."""
        return nn.functional.normalize(torch.randn(count, self.dimension), dim=1).to(device) * self.word_norm

    @staticmethod
    def _adapted(language_model: Any, settings: Mapping[str, Any]) -> Any:
        """The model with its adapters, as peft wraps it."""
        quiet_products()  # peft imports bitsandbytes
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise MissingExtraError("peft", "lora") from None
        try:
            rank, alpha, dropout = (settings[name] for name in ("r", "lora_alpha", "lora_dropout"))
            numbers = type(rank) is int and all(type(value) in (int, float) for value in (alpha, dropout))
            if not numbers or not (0 <= dropout < 1 and 0 < alpha < math.inf):  # which peft lets pass
                raise ValueError("rank is a whole number, alpha one above 0, and dropout at least 0 and below 1")
            made = [LoraConfig(**settings, task_type="CAUSAL_LM") for _ in ADAPTERS]
            model: Any = get_peft_model(language_model, made[0], adapter_name=ADAPTERS[0])
            for name, config in zip(ADAPTERS[1:], made[1:], strict=True):
                model.add_adapter(name, config)
        except (ValueError, TypeError, AttributeError, re.error) as error:
            raise ConfigError(f"lora does not fit the model: {error}", "leave `layers` out, or correct it") from None
        return model

    def _checkpoint(self) -> None:
        """A layer is computed again with the adapter of its first time, whichever is active by then."""

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), self.using(self._active)

        model, settings = self.language_model, {"use_reentrant": False, "context_fn": contexts}
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next((found for name in names if (found := getattr(model, name, None)) is not None), None)
        if enable is None or not getattr(model, "supports_gradient_checkpointing", False):
            raise ConfigError(f"{type(model).__name__} cannot compute its layers again", "leave checkpointing out")
        enable(settings)

    def train_adapters(self) -> None:
        """Let every adapter and memory token train; the weights under them stay frozen."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)

    @property
    def language_model(self) -> Any:
        """The model of transformers under the adapters."""
        return self.model.get_base_model()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.memory.device

    @property
    def count(self) -> int:
        """t, memory tokens of a document."""
        return len(self.memory)

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Inside the block the model goes through one adapter, or through none. What trains stays as it was."""
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        before, self._active = self._active, adapter
        try:
            with self.model.disable_adapter() if adapter is None else nullcontext():
                if adapter is not None:
                    self.model.set_adapter(adapter)
                for parameter, flag in flags:
                    parameter.requires_grad_(flag)
                yield
        finally:
            self._active = before
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def weights(self, adapter: str) -> dict[str, nn.Parameter]:
        """The weights of an adapter by name, as peft writes them: without the adapter's own name."""
        found = {}
        for name, weight in self.model.named_parameters():
            if (match := _WEIGHT.fullmatch(name)) and match["adapter"] == adapter:
                found[match["place"] + (match["rest"] or "")] = weight
        return found

    @torch.no_grad()
    def copy_adapter(self, source: str, target: str) -> None:
        """Give an adapter the weights of another, in place."""
        given = self.weights(source)
        for name, weight in self.weights(target).items():
            weight.copy_(given[name])

    @property
    def reasons(self) -> bool:
        """Whether the query reasoner has begun: a new adapter changes nothing, since its second factors are 0."""
        return any(bool(w.detach().any()) for name, w in self.weights("query_reasoner").items() if "lora_B" in name)

    # -------------------------------------------------------------- compression

    def compress(self, texts: Sequence[Tensor], adapter: str = "encoder") -> Compressed:
        """Texts as memory.

        The model reads mark, text, memory tokens; padding stands behind, where causal attention leaves it unseen.

        Args:
            texts: int64 ids [l] each, with whatever begins and ends a text.
            adapter: `encoder` or `query_reasoner`.
        """
        with self.using(adapter):
            return self.compressed(texts)

    def compressed(self, texts: Sequence[Tensor]) -> Compressed:
        """`compress` with the adapter that is in use."""
        if not texts:
            empty = self.memory.new_zeros(0, self.dimension)
            return Compressed(empty.reshape(0, self.count, self.dimension), empty)
        words = torch.split(self.embed(torch.cat(list(texts))), [len(text) for text in texts])  # type: ignore[no-untyped-call]
        mark, memory = self.mark.to(self.dtype), self.memory.to(self.dtype)
        rows = [torch.cat([mark, own, memory]) for own in words]
        inputs = pad_sequence(rows, batch_first=True)
        sizes = torch.tensor([len(row) for row in rows], device=inputs.device)
        places = torch.arange(inputs.shape[1], device=inputs.device)
        states = self._states(inputs, places < sizes[:, None])
        at = sizes[:, None] - self.count + torch.arange(self.count, device=inputs.device)
        found = states.gather(1, at[..., None].expand(-1, -1, states.shape[2]))
        own = (places >= 1) & (places < (sizes - self.count)[:, None])
        total = (states * own[..., None]).sum(1) / own.sum(1, keepdim=True).clamp(min=1)
        return Compressed(found.float(), total.float())

    def _states(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """[n, l, H], the last layer's states."""
        body = self.language_model.base_model
        found = body(inputs_embeds=inputs, attention_mask=mask.long(), use_cache=False)
        states: Tensor = found.last_hidden_state
        return states

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model's own weights."""
        found: torch.dtype = self.language_model.get_input_embeddings().weight.dtype
        return found

    def embed(self, ids: Tensor) -> Tensor:
        """The input vectors [l, H] of token ids [l]."""
        found: Tensor = self.language_model.get_input_embeddings()(ids)
        return found

    # ------------------------------------------------------------------ reading

    def answer_losses(self, readings: Sequence[Reading], answers: Sequence[Tensor], adapter: str | None) -> Tensor:
        """−log p of every token of the answers, one answer after another: float32 [total].

        Args:
            readings: of each prompt its parts.
            answers: int64 ids [l] each, at least one.
            adapter: `decoder`; None for the model as it was.
        """
        if not answers:
            return self.memory.new_zeros(0)
        pairs = zip(readings, answers, strict=True)
        inputs, mask = _left([torch.cat([self._row(parts), self.embed(own[:-1])]) for parts, own in pairs])
        longest = max(len(own) for own in answers)
        with self.using(adapter):
            found = self.language_model(
                inputs_embeds=inputs,
                attention_mask=mask,
                position_ids=_positions(mask),
                logits_to_keep=longest,
                use_cache=False,
            )
        kept = [own[longest - len(ids) :] for own, ids in zip(found.logits, answers, strict=True)]
        return _losses(torch.cat(kept), answers)

    def answer_losses_of(
        self,
        beginnings: Sequence[Reading],
        of: Sequence[int],
        questions: Sequence[Tensor],
        answers: Sequence[Tensor],
        adapter: str | None,
    ) -> Tensor | None:
        """`answer_losses` of prompts that begin alike: what they begin with is read once, into the key-value cache.

        Padding stands behind, where neither causal attention nor a window over the last tokens sees it.

        Args:
            beginnings: of prompts, all of one length.
            of: the beginning of each question.
            questions: int64 ids [l], the rest of each prompt, at least one.
            answers: int64 ids [l] each, at least one.
            adapter: `decoder`; None for the model as it was.

        Returns:
            The losses; None where the model keeps more than keys and values.
        """
        if not self._caches:
            return None
        rows = torch.stack([self._row(parts) for parts in beginnings])
        with self.using(adapter):
            found = self.language_model.base_model(inputs_embeds=rows, use_cache=True)
            read = getattr(found, "past_key_values", None)
            self._caches = all(type(layer).__name__ in _LAYERS for layer in getattr(read, "layers", [None]))
            if read is None or not self._caches:
                return None
            read.batch_select_indices(torch.tensor(of, device=rows.device))
            pairs = list(zip(questions, answers, strict=True))
            inputs = pad_sequence([self.embed(torch.cat([asked, own[:-1]])) for asked, own in pairs], batch_first=True)
            sizes = torch.tensor([len(asked) + len(own) - 1 for asked, own in pairs], device=rows.device)
            places = torch.arange(inputs.shape[1], device=rows.device)
            there = torch.cat([sizes.new_ones(len(pairs), rows.shape[1]), (places < sizes[:, None]).long()], 1)
            first = min(len(asked) for asked in questions) - 1
            logits = self.language_model(
                inputs_embeds=inputs,
                attention_mask=there,
                position_ids=(rows.shape[1] + places).expand(len(pairs), -1),
                past_key_values=read,
                logits_to_keep=inputs.shape[1] - first,
                use_cache=True,
            ).logits
        starts = [len(asked) - 1 - first for asked in questions]
        kept = [own[start : start + len(ids)] for own, start, ids in zip(logits, starts, answers, strict=True)]
        return _losses(torch.cat(kept), answers)

    def _row(self, parts: Reading) -> Tensor:
        return torch.cat([self._as_words(part) if part.is_floating_point() else self.embed(part) for part in parts])

    def _as_words(self, states: Tensor) -> Tensor:
        """States [t, H] as a language model can read them: the words' mean vector, and from there in the state's
        direction by a part of the distance that words have. The last layer's states are many times longer than words,
        and far from their mean: read as they are, little is learned from them (docs/log.md)."""
        step = nn.functional.normalize(states.float(), dim=1) * (NEARER * self.word_spread)
        return (self.word_mean + step).to(self.dtype)

    def generate(
        self, readings: Sequence[Reading], adapter: str | None, *, most: int, ends: Sequence[int], pad: int, **more: Any
    ) -> list[list[int]]:
        """The ids that the model writes after each prompt, greedily, without what ends them.

        Args:
            readings: of each prompt its parts.
            adapter: `decoder`; None for the model as it was.
            most: the most new tokens.
            ends: ids that end a text.
            pad: an id for what stands behind a text that has ended.
            more: of transformers' `generate`, such as a streamer.
        """
        from transformers import GenerationConfig

        inputs, mask = _left([self._row(parts) for parts in readings])
        how = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=most, eos_token_id=list(ends) or None, pad_token_id=pad
        )
        with torch.inference_mode(), self.using(adapter):
            found = self.language_model.generate(
                inputs_embeds=inputs, attention_mask=mask, generation_config=how, **more
            )
        stops = set(ends)
        rows = found.tolist()
        return [row[: next((at for at, token in enumerate(row) if token in stops), len(row))] for row in rows]


def _left(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows [l, H] behind their padding: [n, longest, H], and int64 1 where there is a token."""
    longest = max(len(row) for row in rows)
    inputs = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=inputs.device)
    return inputs, (torch.arange(longest, device=inputs.device) >= longest - lengths[:, None]).long()


def _losses(logits: Tensor, answers: Sequence[Tensor]) -> Tensor:
    """−log p of the answers' tokens: float32 [total], of their logits [total, words]."""
    if any(not len(answer) for answer in answers):
        raise InputError("an answer has no token", "leave its question out")
    losses: Tensor = nn.functional.cross_entropy(logits.float(), torch.cat(list(answers)), reduction="none")
    return losses


def _positions(mask: Tensor) -> Tensor:
    counted: Tensor = (mask.cumsum(1) - 1).clamp(min=0)
    return counted
