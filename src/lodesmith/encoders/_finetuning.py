"""A base that is trained itself: from packed token ids to vectors, with gradients; and what of the base may change."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lodesmith.core.errors import ConfigError, InputError, MissingExtraError, NotFiniteError
from lodesmith.core.protocols import Side
from lodesmith.encoders._cores import FEWEST_TOKENS, budget_of, each_on_one_core
from lodesmith.encoders._dropout import quicken
from lodesmith.encoders._packing import batches

if TYPE_CHECKING:
    from lodesmith.encoders.projected import IsotropicGaussianEncoder
    from lodesmith.encoders.transformer import TransformerEncoder

__all__ = ["PackedEncoder", "Tuning", "layers_of", "merged", "sides_differ", "tune"]

_LORA = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "layers": "target_modules"}
"""Our names of the settings of low-rank adapters, and those of peft."""
_DEFAULTS: Mapping[str, Any] = {"rank": 8, "alpha": 16, "dropout": 0.0, "layers": "all-linear"}
_CHECK = "Which weights does a text go through?"


@dataclass(frozen=True)
class Tuning:
    """How a base is trained.

    Args:
        freeze_layers: the embeddings and so many of the first layers stay as they are; 0 trains all.
        dropout: of every dropout in the base while it trains; None for what its configuration says.
        checkpointing: keep a layer's input only, and compute the layer again in the backward pass.
        lora: train low-rank adapters (Hu et al. 2021, arXiv 2106.09685) instead of the weights: `rank` (8), `alpha`
            (16), `dropout` (0), `layers` (`all-linear`, or names of the linear layers).
    """

    freeze_layers: int = 0
    dropout: float | None = None
    checkpointing: bool = False
    lora: Mapping[str, Any] | None = None


class Tuned(Protocol):
    """An encoder around a sentence-transformers model, whose weights may train."""

    source: str
    model: Any

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Vectors with gradients, [n, d]."""
        ...


def tune(base: Tuned, how: Tuning) -> None:
    """Set up a base for training, in place. Weights that no vector depends on, such as an unused pooler's, are frozen:
    several processes would wait for their gradients.

    Raises:
        ConfigError: the settings do not fit each other or the base.
    """
    transformer = base.model.transformers_model
    if transformer is None and how != Tuning():
        raise ConfigError(f"{base.source} is no transformer: it has no layers to choose from", "leave the settings out")
    quicken(base.model)
    if how.dropout is not None:
        _set_dropout(base.model, how.dropout)
    if how.lora is not None:
        adapt(transformer, how)
    if how.freeze_layers:
        _freeze(transformer, how.freeze_layers)
    if how.checkpointing:
        if not getattr(transformer, "supports_gradient_checkpointing", False):
            raise ConfigError(f"{base.source} cannot compute its layers again", "set activation_checkpointing to false")
        # The first is the name of later versions of transformers 5.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(getattr(transformer, name) for name in names if hasattr(transformer, name))
        enable({"use_reentrant": False})
    _freeze_unused(base)


def _set_dropout(model: nn.Module, share: float) -> None:
    if not 0 <= share < 1:
        raise ConfigError(f"base_dropout must be at least 0 and below 1, not {share}", "null is the base's own")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.__dict__["attention_dropout"] = share


def _freeze(transformer: Any, count: int) -> None:
    """The embeddings and the first layers."""
    layers = layers_of(transformer)
    if not 0 < count <= len(layers):
        raise ConfigError(f"freeze_layers is {count}, and the base has {len(layers)} layers", "choose fewer")
    for name, parameter in transformer.named_parameters():
        if "embed" in name and "lora_" not in name:
            parameter.requires_grad_(False)
    for layer in layers[:count]:
        layer.requires_grad_(False)


def layers_of(transformer: Any) -> nn.ModuleList:
    """The blocks of a transformer, one on top of the other.

    Raises:
        ConfigError: they are not found.
    """
    wanted = getattr(transformer.config, "num_hidden_layers", None)
    for module in transformer.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise ConfigError(
        f"the layers of {type(transformer).__name__} are not where they are looked for", "use all, freeze none"
    )


def _freeze_unused(base: Tuned) -> None:
    trained = [parameter for parameter in base.model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        vectors = base.embed([_CHECK])
    if not trained or not vectors.requires_grad:
        raise ConfigError("nothing of the base is left to train", "freeze fewer layers, or set freeze_base to true")
    for parameter, gradient in zip(
        trained, torch.autograd.grad(vectors.sum(), trained, allow_unused=True), strict=True
    ):
        if gradient is None:
            parameter.requires_grad_(False)


# ------------------------------------------------------------------------ LoRA


def adapt(transformer: Any, how: Tuning) -> None:
    """Put low-rank adapters into the linear layers, in place; everything else is frozen."""
    if how.freeze_layers:
        raise ConfigError("freeze_layers and lora both say what of the base trains", "give one of them")
    settings = {**_DEFAULTS, **(how.lora or {})}
    if unknown := sorted(settings.keys() - _LORA.keys()):
        raise ConfigError(f"lora has no setting {unknown[0]!r}", f"it has: {', '.join(_LORA)}")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingExtraError("peft", "lora") from None
    try:
        config = LoraConfig(**{_LORA[name]: value for name, value in settings.items()})
        inject_adapter_in_model(config, transformer)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ConfigError(f"lora does not fit the base: {error}", "leave `layers` out, or correct it") from None


def merged(model: Any) -> Any:
    """A model without adapters: itself where it has none, else a copy whose weights have them added."""
    if not any(_is_adapted(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if _is_adapted(module):
            module.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())
    return model


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


# --------------------------------------------------------------------- encoding


def sides_differ(base: TransformerEncoder) -> bool:
    """Whether the two sides go through the base in different ways, beyond the prompt among their tokens."""
    prompts = [base.reader.prompt_tokens(side) for side in ("query", "document")]
    pooled = all(getattr(module, "include_prompt", True) for module in base.model)
    return (prompts[0] != prompts[1] and not pooled) or not hasattr(base.model[0], "auto_model")


class PackedEncoder(nn.Module):
    """Base and projection over packed texts: `ids` int64 [total], `offsets` int64 [n + 1] → vectors [n, d].

    The texts are cut into batches of at most the base's `batch_tokens` tokens, the shortest first, and go through it
    without padding where it can do that.

    Args:
        encoder: whose base and projection these are; shared, not copied.
        side: of the texts, for bases that treat the two sides differently.

    Raises:
        InputError: the base has no fast tokenizer, so that texts are not token ids.
    """

    def __init__(self, encoder: IsotropicGaussianEncoder, side: Side = "document") -> None:
        super().__init__()
        if encoder.base.reader.tokenizer is None:
            raise InputError(f"{encoder.base.source} has no fast tokenizer", "freeze it, or choose another base")
        self.base, self.projection = encoder.base_module, encoder.projection
        self._transformer, self.side = encoder.base, side
        self._pad = int(getattr(encoder.base.model[0].tokenizer, "pad_token_id", None) or 0)
        self._prompt = encoder.base.reader.prompt_tokens(side)

    def forward(self, packed: Mapping[str, Tensor]) -> Tensor:
        """The vectors [n, d] of texts as token ids."""
        bounds = packed["offsets"].tolist()
        texts = [packed["ids"][start:end] for start, end in pairwise(bounds)]
        if not texts:
            return self.projection(packed["ids"].new_zeros((0, self.projection.input), dtype=torch.float32))  # type: ignore[no-any-return]
        order: list[int] = []
        vectors = []
        for group in self.groups([len(text) for text in texts]):
            order.extend(group)
            vectors.append(self._run([texts[at] for at in group]))
        places = torch.empty(len(order), dtype=torch.int64)
        places[torch.tensor(order)] = torch.arange(len(order))
        return self.projection(torch.cat(vectors)[places.to(vectors[0].device)])  # type: ignore[no-any-return]

    def groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Positions of the texts that go through the base together."""
        for group in batches(lengths, self._transformer.batch_tokens, padded=not self._transformer.packed):
            yield group.tolist()

    @property
    def base_encoder(self) -> TransformerEncoder:
        """The base with its reader and settings."""
        return self._transformer

    def vectors(self, ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors [n, d] of texts without gradients and dropout, as many batches at a time as there are cores."""
        values = np.empty((len(offsets) - 1, self.projection.output), np.float32)
        budget = budget_of(len(ids), self._transformer.batch_tokens, self._transformer.device)
        groups = list(batches(np.diff(offsets), budget, padded=not self._transformer.packed))

        def fill(group: NDArray[np.int64]) -> None:
            texts = [torch.from_numpy(ids[offsets[at] : offsets[at + 1]]).to(self._transformer.device) for at in group]
            with torch.inference_mode():  # it holds for one thread only
                values[group] = self.projection(self._run(texts)).float().cpu().numpy()

        training = self.training
        self.eval()
        try:
            each_on_one_core(fill, groups, self._transformer.device, short=len(ids) < FEWEST_TOKENS)
        finally:
            self.train(training)
        if not np.isfinite(values).all():
            raise NotFiniteError("vectors are NaN or infinite", "the weights are damaged: lower the learning rates")
        return values

    def _run(self, texts: Sequence[Tensor]) -> Tensor:
        features = self._packed(texts) if self._transformer.packed else self._padded(texts)
        if self._prompt:
            features["prompt_length"] = self._prompt
        return self._transformer._run(features | {"modality": "text"}, self.side)

    def _packed(self, texts: Sequence[Tensor]) -> dict[str, Any]:
        lengths, device = [len(text) for text in texts], texts[0].device
        first = self._transformer._first_position
        bounds = nn.functional.pad(torch.tensor(lengths, device=device).cumsum(0), (1, 0))
        return {
            "input_ids": torch.cat(list(texts))[None],
            "position_ids": torch.cat([torch.arange(first, first + n, device=device) for n in lengths])[None],
            "cu_seq_lens_q": bounds.int(),
        }

    def _padded(self, texts: Sequence[Tensor]) -> dict[str, Any]:
        mask = [torch.ones_like(text) for text in texts]
        return {
            "input_ids": pad_sequence(list(texts), batch_first=True, padding_value=self._pad),
            "attention_mask": pad_sequence(mask, batch_first=True),
        }
