"""Documents as memory tokens, which are searched, and from which a language model answers: CLaRa (arXiv 2511.18659)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lodesmith.core.errors import ConfigError
from lodesmith.core.hashing import fingerprint
from lodesmith.core.model_files import digests
from lodesmith.core.protocols import Generated, Metric, Side
from lodesmith.core.quantised import mixes_rows
from lodesmith.core.vectors import Vectors
from lodesmith.encoders._cores import FEWEST_TOKENS, budget_of, each_on_one_core
from lodesmith.encoders._identity import VOLATILE, digest_of, plain
from lodesmith.encoders._language_model import load_language_model
from lodesmith.encoders._loading import find_model, is_memory
from lodesmith.encoders._memory_folder import MemorySettings, Opened, base_name, open_folder, save_folder
from lodesmith.encoders._memory_model import ADAPTERS, NEARER, MemoryModel
from lodesmith.encoders._memory_texts import Document, MemoryTexts, check_adapter
from lodesmith.encoders._memory_tower import MemoryTower
from lodesmith.encoders._memory_weights import load_weights
from lodesmith.encoders._packing import batches
from lodesmith.encoders._reading import clean, named

__all__ = ["MemoryEncoder", "MemoryTower"]

Precision = Literal["auto", "float32", "bfloat16"]


class MemoryEncoder(nn.Module):
    """A causal language model with three adapters: texts → t memory tokens each, and memory tokens → answers.

    A query goes through the query reasoner once that has begun to train, until then through the compressor.

    Args:
        base_model: hub name or folder of a causal language model of transformers, which gets new adapters; or a folder
            that `save` wrote, whose settings are then its own.
        rate: tokens of a document that one memory token stands for; None for 16.
        document_length: tokens of a document that are read; None for 256.
        lora: of the adapters: `rank` (16), `alpha` (32), `dropout` (0.1), `layers` (`all-linear`).
        prompt: what the generator reads, with {documents} and {question}; the user's message where the model has a chat
            template.
        separator: between two documents in the prompt; None for a line's end.
        activation_checkpointing: while it trains, compute layers again when their gradients are due.
        precision: of the language model: `float32`, `bfloat16`, or `auto`: bfloat16 on a GPU that multiplies it.
        batch_tokens: tokens a batch, padding among them. A model whose weights bitsandbytes reads as 8 bits gets a text
            at a time: it would make something else of each beside others.
        device: torch device; None for CUDA where there is one, else the CPU.

    Raises:
        InputError: the model is not there, does not load, is no causal language model, or has no fast tokenizer.
        ConfigError: a setting is out of range, or not that of a saved model.
        IntegrityError: a saved model's files, or those of the language model under it, are not those that were written.
        MissingExtraError: peft is not installed.
    """

    trained_on: ClassVar[str] = "memory"
    metric: Metric = "aligned"

    def __init__(  # noqa: PLR0913 - what the recipes set, by name
        self,
        base_model: str | Path,
        *,
        rate: int | None = None,
        document_length: int | None = None,
        lora: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        separator: str | None = None,
        activation_checkpointing: bool = False,
        precision: Precision = "auto",
        batch_tokens: int = 4096,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if precision not in ("auto", "float32", "bfloat16") or batch_tokens < 1:
            raise ConfigError(
                f"precision {precision!r} and batch_tokens {batch_tokens} cannot be used",
                "choose auto, float32 or bfloat16, and at least 1",
            )
        given = {"rate": rate, "document_length": document_length, "lora": lora}
        self.source, self.batch_tokens = str(base_model), batch_tokens
        self.folder = find_model(base_model)
        self.opened = _opened(self.source, self.folder, given | {"prompt": prompt, "separator": separator})
        self.settings = self.opened.settings
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        half = precision == "bfloat16" or (
            precision == "auto" and place.startswith("cuda") and torch.cuda.is_bf16_supported()
        )
        self.precision = "bfloat16" if half else "float32"
        language_model, self.tokenizer, self.ends = load_language_model(self.opened.base, place, self.precision)
        self.alone = mixes_rows(language_model)
        """Whether texts are read whole and one at a time, since others beside them would change what is read."""
        if self.alone:
            self.batch_tokens = 1
        self.model = MemoryModel(language_model, self.settings.count, self.settings.lora, activation_checkpointing)
        if is_memory(self.folder):
            load_weights(self.folder, self.model)
        self._words = self.tokenizer.backend_tokenizer.to_str()
        self.room = getattr(language_model.config.get_text_config(), "max_position_embeddings", None)
        """Tokens that the model reads at most; None where it names no limit."""
        self.texts = MemoryTexts(self.tokenizer, self.ends, self.settings, self.model.dimension, self.room)
        self.pieces = self.texts.pieces
        self._known: dict[bool, tuple[list[int], str]] = {}
        self._lock = threading.RLock()  # one adapter at a time
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @property
    def dimension(self) -> int:
        """H, of a memory token."""
        return self.model.dimension

    @property
    def count(self) -> int:
        """t, memory tokens of a text."""
        return self.model.count

    @property
    def parameters_total(self) -> int:
        """Parameters of the language model, the adapters and the memory tokens."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all weights as they are now, and every setting that changes a vector or an answer."""
        return fingerprint([self.base_fingerprint, self._digest(frozen=False)])

    @property
    def base_fingerprint(self) -> str:
        """The same without the adapters and memory tokens: what they stand on."""
        own, config = self.settings, self.model.language_model.config.to_dict().items()
        return fingerprint(
            {
                "weights": self._digest(frozen=True),
                "precision": self.precision,
                "config": plain({key: value for key, value in config if key not in VOLATILE}),
                "tokenizer": fingerprint([self._words, self.tokenizer.bos_token_id, self.ends]),
                "template": str(getattr(self.tokenizer, "chat_template", None) or ""),
                "reads": ["from the words' mean", NEARER],
                "settings": plain([own.rate, own.document_length, dict(own.lora), own.prompt, own.separator]),
            }
        )

    def _digest(self, *, frozen: bool) -> str:
        """Of the language model's weights, or of those that stand on them; made anew only where they changed."""
        state = self.model.state_dict(keep_vars=True)
        mine = {name: w for name, w in state.items() if frozen == (name.startswith("model.") and "lora_" not in name)}
        versions = [weight._version for weight in mine.values()]
        if self._known.get(frozen, ([], ""))[0] != versions:
            self._known[frozen] = (versions, digest_of(mine))
        return self._known[frozen][1]

    def get_trainable_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that training may change, by group: each adapter, and `memory`."""
        groups = {name: list(self.model.weights(name).values()) for name in ADAPTERS}
        groups["memory"] = [self.model.memory, self.model.mark]
        return {name: [p for p in own if p.requires_grad] for name, own in groups.items()}

    # ------------------------------------------------------------------- token ids

    def tokens(self, text: str, most: int | None = None) -> Tensor:
        """A text's own tokens, as a prompt holds them: int64 ids [l] on the CPU.

        Args:
            text: any.
            most: ids that are kept; None for document_length.
        """
        return self.texts.tokens(text, most)

    def text_ids(self, text: str) -> Tensor:
        """What is compressed of a text: int64 ids [l], between the tokens that begin and end one, if there are such."""
        return torch.from_numpy(self.texts.read(clean([text]))[0][0])

    def question_ids(self, text: str) -> Tensor:
        """The rest of the prompt behind the documents, with a question in it: int64 ids [l]."""
        return self.texts.question(text)

    def answer_ids(self, text: str, most: int | None = None) -> Tensor:
        """An answer with its end: int64 ids [l], at most so many."""
        return self.texts.answer(text, most)

    def reading(self, documents: Sequence[Tensor], question: Tensor) -> list[Tensor]:
        """A prompt in parts, on the model's device.

        Args:
            documents: states [t, H], or int64 ids [l]; none for a closed book.
            question: of `question_ids`.
        """
        return [part.to(self.device) for part in self.texts.reading(documents, question)]

    # -------------------------------------------------------------------- encoding

    def encode(self, texts: Sequence[str], side: Side = "document", ids: Sequence[str] | None = None) -> Vectors:
        """Compress texts; long ones are cut to document_length.

        Args:
            texts: any strings; the empty one too.
            side: documents go through the compressor, queries through the query reasoner.
            ids: the items' ids; "0", "1", … where None.

        Returns:
            float32 vectors, t rows an item. `info` says what made them, the share of items of which something was cut
            off (`truncated`), their ids (`cut`), and the number of tokens that were read (`tokens`).

        Raises:
            InputError: ids and texts are not the same number.
            NotFiniteError: the weights give NaN or infinity.
        """
        texts, names = named(texts, ids)
        rows, truncated = self.texts.read(texts)
        values = self._compressed(rows, "query_reasoner" if side == "query" and self.model.reasons else "encoder")
        info = {"encoder": self.source, "model": self.fingerprint, "side": side, "metric": self.metric}
        return self.texts.vectors(values, names, rows, truncated, info)

    def _compressed(self, rows: Sequence[NDArray[np.int64]], adapter: str) -> NDArray[np.float32]:
        """The memory [n, t, H] of texts as ids, without gradients and dropout."""
        values = np.zeros((len(rows), self.count, self.dimension), np.float32)
        lengths = [self.width(len(row)) for row in rows]

        def fill(group: NDArray[np.int64]) -> None:
            with torch.inference_mode():  # it holds for one thread only
                own = [torch.from_numpy(rows[at]).to(self.device) for at in group]
                values[group] = self.model.compressed(own).memory.cpu().numpy()

        with self._evaluating(), self.model.using(adapter):
            budget = budget_of(sum(lengths), self.batch_tokens, self.device)
            groups = list(batches(lengths, budget, padded=True))
            each_on_one_core(fill, groups, self.device, short=sum(lengths) < FEWEST_TOKENS)
        return values

    def width(self, length: int) -> int:
        """Tokens that the model reads to compress so many: the mark and the memory tokens too."""
        return self.texts.width(length)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout inside the block, and alone: whoever trains holds the modules and not this encoder."""
        with self._lock:
            training = self.model.training
            if training:
                self.model.eval()
            try:
                yield
            finally:
                if training:
                    self.model.train()

    # ------------------------------------------------------------------- answering

    def answer(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[Document]],
        *,
        adapter: str | None = "decoder",
        max_new_tokens: int = 32,
        text_tokens: int | None = None,
        streamer: Any = None,
    ) -> list[Generated]:
        """Write an answer to each question, greedily, from its documents.

        Args:
            questions: texts.
            documents: of each question what is read: memory [t, H], or texts; none for a closed book.
            adapter: `decoder`; None for the language model as it was.
            max_new_tokens: of an answer.
            text_tokens: tokens that are read of a document that is a text; None for document_length.
            streamer: of transformers, for a single question: gets the tokens as they are written.

        Returns:
            Answers, `finished` False where max_new_tokens cut one off. None depends on the other questions.

        Raises:
            InputError: questions and documents are not the same number, a document is no memory of this model, or a
                prompt is longer than the model can read.
            ConfigError: a setting is out of range.
        """
        check_adapter(adapter)
        if streamer is not None and len(questions) != 1:
            raise ConfigError(f"a streamer takes one question, not {len(questions)}", "ask one by one")
        readings, widths = self.texts.readings(questions, documents, max_new_tokens, text_tokens)
        how: dict[str, Any] = {"most": max_new_tokens, "ends": self.ends, "pad": self.ends[0]}
        how |= {} if streamer is None else {"streamer": streamer}

        def write(group: Sequence[int]) -> list[list[int]]:
            read = [[part.to(self.device) for part in readings[at]] for at in group]
            return self.model.generate(read, adapter, **how)

        with self._evaluating():
            return self.texts.written(widths, self.batch_tokens, max_new_tokens, write)

    # ---------------------------------------------------------------------- saving

    def save(self, folder: Path | str) -> Path:
        """Write a folder that loads here, whole or not at all; it takes the place of one that is there.

        A language model that was a folder with at most 1 GiB of weights is copied into it; of another its name and the
        SHA-256 of its files are kept.
        """
        return save_folder(folder, self.model, self.opened)

    def __repr__(self) -> str:
        how = f"{self.count} × {self.dimension} of {self.settings.document_length} tokens, {self.precision}"
        return f"MemoryEncoder({self.source!r}, {how})"


def _opened(source: str, folder: Path, given: Mapping[str, Any]) -> Opened:
    """Settings and language model of a saved folder, or of a language model that gets new adapters."""
    if not is_memory(folder):
        return Opened(MemorySettings.of(given), folder, base_name(source, folder), digests(folder))
    opened = open_folder(folder)
    opened.settings.check_same(given)
    return opened
