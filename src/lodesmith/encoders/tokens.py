"""Late interaction: a text as the vectors of its tokens, which MaxSim compares with each other's.

Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT",
2020, arXiv 2004.12832. The folder is one of sentence-transformers' `MultiVectorEncoder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError, InputError, NotFiniteError
from lodesmith.core.files import atomic_folder, write_text
from lodesmith.core.hashing import fingerprint
from lodesmith.core.protocols import Metric, Side
from lodesmith.core.vectors import Vectors
from lodesmith.encoders import _precision
from lodesmith.encoders._cores import FEWEST_TOKENS, budget_of, each_on_one_core, one_core
from lodesmith.encoders._finetuning import Tuning, merged, tune
from lodesmith.encoders._identity import digest, settings
from lodesmith.encoders._late_model import Asked, Interaction, late_model
from lodesmith.encoders._late_rows import TokenRows
from lodesmith.encoders._loading import find_model, is_late, quiet
from lodesmith.encoders._packing import batches
from lodesmith.encoders._reading import Reader, Reading, clean, named, prompts_of
from lodesmith.encoders.projected import card

__all__ = ["LateInteractionEncoder", "PackedTokens"]


class LateInteractionEncoder(nn.Module):
    """A transformer, a projection of its token states, and scaling to length 1; compared by MaxSim.

    Any late-interaction model that sentence-transformers reads (its own, PyLate's, ColBERT's), or a dense model's
    transformer under a new projection.

    Args:
        base_model: hub name, folder, or `minilm`.
        freeze_base: train the projection alone.
        freeze_layers: of a base that trains, leave the embeddings and so many of the first layers as they are.
        base_dropout: of a base while it trains; None for what its configuration says.
        activation_checkpointing: of a base that trains, compute the layers again when their gradients are due.
        lora: train low-rank adapters of the base instead of its weights: `rank`, `alpha`, `dropout` and `layers`.
        query_prompt: goes before each query; None for the model's own.
        document_prompt: goes before each document; None for the model's own.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the processor multiplies it in hardware.
        batch_tokens: tokens a batch.
        device: torch device; None for CUDA where there is one, else the CPU.
        interaction: the fields of `Interaction`: `dimension`, `query_length`, `document_length`, `expansion`, `attend`,
            `skip`, `pool`.

    Raises:
        InputError: the model is not there, does not load, or has no fast tokenizer.
        ConfigError: a setting does not fit the model.
    """

    trained_on: ClassVar[str] = "late"
    metric: Metric = "maxsim"

    def __init__(  # noqa: PLR0913 - what the recipes set, by name
        self,
        base_model: str | Path = "minilm",
        *,
        freeze_base: bool = False,
        freeze_layers: int = 0,
        base_dropout: float | None = None,
        activation_checkpointing: bool = False,
        lora: Mapping[str, Any] | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        precision: str = "auto",
        batch_tokens: int = 4096,
        device: str | None = None,
        **interaction: Unpack[Asked],
    ) -> None:
        super().__init__()
        self.source, self.batch_tokens = str(base_model), batch_tokens
        self.folder = find_model(base_model)
        self.is_new = not is_late(self.folder)
        """Whether the projection is a new one, of random weights."""
        self.model = late_model(self.folder, device, Interaction(**interaction))
        self.reader = Reader(self.model, prompts_of(self.model, query_prompt, document_prompt), None)
        if self.reader.tokenizer is None:
            raise InputError("the model has no fast tokenizer", "choose another model", path=self.folder)
        self.rows = TokenRows(self.model, self.reader, self.source)
        with one_core():
            reference = self.rows.set_up()
        self._weights = digest(self.model)
        self.precision = _precision.apply(self, precision, reference)
        self.freeze_base = freeze_base
        self._choose(Tuning(freeze_layers, base_dropout, activation_checkpointing, lora), freeze_base)
        self._known: tuple[list[int], str] = ([], "")
        self.eval()

    @torch.no_grad()
    def begin(self, texts: Sequence[str]) -> None:
        """Let a new projection begin at the principal components of documents' token states, about the origin: inner
        products of tokens are then kept as far as so many dimensions can.

        Args:
            texts: a sample of documents.
        """
        layer = self.model[1].linear
        sums = torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64)
        seen: list[Tensor] = []
        hook = self.model[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]["token_embeddings"]))
        ids = self.reader.read(clean(texts), "document").ids
        with self._evaluating(), one_core():  # the same weights with any number of threads
            for group in batches([len(own) for own in ids], self.batch_tokens, padded=not self.packed):
                for at in [group] if self.packed else group[:, None]:  # padding is no token
                    self.rows([torch.from_numpy(ids[text]).long().to(self.device) for text in at], "document")
                    states = seen.pop().flatten(0, -2).double().cpu()
                    sums += states.T @ states
            axes = torch.linalg.eigh(sums).eigenvectors.flip(1)[:, : layer.out_features].T
        hook.remove()
        axes = axes * torch.where(axes.sum(1, keepdim=True) < 0, -1.0, 1.0)  # of the two directions always the same
        layer.weight[: len(axes)] = axes.to(layer.weight)

    def _choose(self, how: Tuning, freeze_base: bool) -> None:
        """What of the model training may change."""
        if self.precision != "float32":
            self.model.requires_grad_(False)
            if how != Tuning():
                raise ConfigError(f"a model in {self.precision} cannot be trained", "load it with precision float32")
        elif not freeze_base:
            tune(self, how)
        elif how != Tuning():
            raise ConfigError("the base is frozen, and settings say how it trains", "set freeze_base to false")
        else:
            self.model[0].requires_grad_(False)

    def train(self, mode: bool = True) -> LateInteractionEncoder:
        """Training mode; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.freeze_base:
            self.model[0].eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.device)

    @property
    def packed(self) -> bool:
        """Whether batches are flat, without padding."""
        return self.rows.packed

    @property
    def sides_differ(self) -> bool:
        """Whether queries and documents go different ways, beyond the prompt among their tokens."""
        return self.rows.sides_differ

    @property
    def dimension(self) -> int:
        """d of a token's vector."""
        return int(self.model.get_embedding_dimension())

    @property
    def parameters_total(self) -> int:
        """Parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights as they are now and every setting that changes a vector."""
        versions = [tensor._version for tensor in self.model.state_dict(keep_vars=True).values()]
        if self._known[0] != versions:
            own = {
                "weights": digest(self.model) if self.precision == "float32" else self._weights,
                "precision": self.precision,
                "prompts": dict(self.reader.prompts),
                "limits": dict(self.reader.limits),
            }
            self._known = (versions, fingerprint(settings(self.model) | own))
        return self._known[1]

    def check_vectors(self) -> Tensor:
        """The token vectors of the check texts as they are made now, [total, d]."""
        return self.rows.check_vectors()

    def embed(self, texts: Sequence[str], side: Side = "document") -> Tensor:
        """The token vectors of texts, one text after another, [total, d], with gradients."""
        ids = self.reader.read(clean(texts), side).ids
        return self.rows([torch.from_numpy(own).long().to(self.device) for own in ids], side)[0]

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Encode texts; long ones are truncated.

        Args:
            texts: any strings; the empty one too.
            side: whose prompt they get.
            ids: the items' ids; "0", "1", … where None.

        Returns:
            float32 vectors of length 1, one row a token that counts. `info` says what made them, the share of items of
            which something was cut off (`truncated`), their ids (`cut`), and the number of tokens (`tokens`).

        Raises:
            InputError: ids and texts are not the same number.
            NotFiniteError: the weights give NaN or infinity.
        """
        texts, ids = named(texts, ids)
        reading = self.reader.read(texts, side)
        values, offsets = self.values(reading.ids, side)
        return Vectors(values, offsets, ids, self._info(side, reading, ids))

    def labels(self, text: str, side: Side) -> list[str] | None:
        """The tokens of a text that have a vector each, as the tokenizer spells them; None where vectors are pooled."""
        return self.rows.labels(torch.from_numpy(self.reader.read(clean([text]), side).ids[0]).long(), side)

    def values(self, texts: Sequence[NDArray[np.integer]], side: Side) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The vectors of texts that are token ids already, without gradients and dropout: [total, d] and [n + 1]."""
        parts: list[NDArray[np.float32]] = [np.zeros((0, self.dimension), np.float32)] * len(texts)
        lengths = self.rows.lengths([len(text) for text in texts], side)

        def fill(group: NDArray[np.int64]) -> None:
            with torch.inference_mode():  # it holds for one thread only
                rows, counts = self.rows([torch.from_numpy(texts[at]).long().to(self.device) for at in group], side)
                for at, own in zip(group, np.split(rows.float().cpu().numpy(), np.cumsum(counts)[:-1]), strict=True):
                    parts[at] = own

        with self._evaluating():
            budget = budget_of(sum(lengths), self.batch_tokens, self.device)
            groups = list(batches(lengths, budget, padded=not self.packed))
            each_on_one_core(fill, groups, self.device, short=sum(lengths) < FEWEST_TOKENS)
        values = np.concatenate([np.zeros((0, self.dimension), np.float32), *parts])
        if not np.isfinite(values).all():
            raise NotFiniteError(f"{self.source} gave vectors with NaN or infinity", "the weights are damaged")
        return values, np.cumsum([0, *map(len, parts)], dtype=np.int64)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout inside the block. Whoever trains holds the modules and not this encoder, so they are asked;
        what does not train is left alone, since other threads may be encoding too."""
        training = self.model[0].training
        if training:
            self.model.eval()
        try:
            yield
        finally:
            if training:
                self.model.train()

    def _info(self, side: Side, reading: Reading, ids: Sequence[str]) -> dict[str, Any]:
        return {
            "encoder": self.source,
            "model": self.fingerprint,
            "side": side,
            "metric": self.metric,
            "truncated": float(reading.truncated.mean()) if len(ids) else 0.0,
            "cut": [ids[at] for at in np.flatnonzero(reading.truncated).tolist()],
            "tokens": int(reading.lengths.sum()),
        }

    def get_trainable_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training may change, by group: `base` (none where it is frozen) and `projection`."""
        parts = {"base": [self.model[0]], "projection": list(self.model)[1:]}
        return {
            name: [p for module in own for p in module.parameters() if p.requires_grad] for name, own in parts.items()
        }

    def save(self, folder: Path | str) -> Path:
        """Write a model folder: `MultiVectorEncoder(folder)` gives the same vectors without this package.

        The folder takes the place of one that is there, whole or not at all.

        Raises:
            ConfigError: the weights here are rounded to bfloat16.
        """
        if self.precision != "float32":
            raise ConfigError(f"the weights are rounded to {self.precision}", "load the model with precision float32")
        model = merged(self.model)
        model.prompts = {side: prompt for side, prompt in self.reader.prompts.items() if prompt}
        model.default_prompt_name = None  # each side has its own
        with atomic_folder(folder) as new, quiet():
            model.save_pretrained(str(new), create_model_card=False, safe_serialization=True)
            write_text(new / "README.md", self._card())
        return Path(folder)

    def _card(self) -> str:
        text = f"""`{self.source}` with a vector of {self.dimension} dimensions a token, trained with lodesmith.
Texts are compared by MaxSim. {self.parameters_total:,} parameters; safetensors; it needs no code of its own."""
        return card(f"{self.source} for late interaction", text, "MultiVectorEncoder")

    def __repr__(self) -> str:
        how = f"{self.precision}, {'packed' if self.packed else 'padded'}"
        return f"LateInteractionEncoder({self.source!r}, {self.dimension} dimensions a token, {how})"


class PackedTokens(nn.Module):
    """Packed texts → packed token vectors, for training.

    `ids` int64 [total] and `offsets` int64 [n + 1] of token ids become `values` [total', d] and `offsets` [n + 1].

    Args:
        encoder: whose modules these are; shared, not copied.
        side: of the texts.
    """

    def __init__(self, encoder: LateInteractionEncoder, side: Side = "document") -> None:
        super().__init__()
        self.base, self.projection = encoder.model[0], nn.ModuleList(list(encoder.model)[1:])
        self._encoder, self.side = (encoder,), side  # no child: its parameters would have two names

    def train(self, mode: bool = True) -> PackedTokens:
        """Training mode; a frozen base stays in evaluation mode, without dropout."""
        super().train(mode)
        if self._encoder[0].freeze_base:
            self.base.eval()
        return self

    def forward(self, packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The token vectors of texts as token ids."""
        encoder = self._encoder[0]
        texts = [packed["ids"][start:end] for start, end in pairwise(packed["offsets"].tolist())]
        parts: list[Tensor] = [torch.empty(0)] * len(texts)
        sizes = encoder.rows.lengths([len(text) for text in texts], self.side)
        for group in batches(sizes, encoder.batch_tokens, padded=not encoder.packed):
            rows, counts = encoder.rows([texts[at] for at in group], self.side)
            for at, own in zip(group, torch.split(rows, counts), strict=True):  # type: ignore[no-untyped-call]
                parts[at] = own
        lengths = torch.tensor([len(part) for part in parts], dtype=torch.int64, device=packed["ids"].device)
        values = torch.cat(parts) if parts else torch.zeros(0, encoder.dimension, device=packed["ids"].device)
        return {"values": values, "offsets": nn.functional.pad(lengths.cumsum(0), (1, 0))}
