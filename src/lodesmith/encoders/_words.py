"""Words as tokens: the vocabulary of a corpus, and a tokenizer that gives the ids of Hugging Face's `tokenizers`.

    vocabulary = Vocabulary.build(document.content for document in dataset.documents.values())
    tokenizer = vocabulary.tokenizer(max_length=256)
    made = tokenizer(["The cat eats 3.14 apples."])

`vocabulary.backend()` is the same thing as a `tokenizers.Tokenizer` (NFKC, lower case, `PATTERN`, one id a word). Ours
reads ASCII in whole blocks, an order of magnitude faster, and asks the backend for everything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import ConfigError, IntegrityError
from lodesmith.core.hashing import fingerprint, fingerprint_texts
from lodesmith.encoders._counting import Counts, count
from lodesmith.encoders._splitting import PATTERN, WIDE, Block, blocks_of, keys_of, split

__all__ = ["PAD", "UNKNOWN", "Tokenised", "Vocabulary", "WordTokenizer", "backend_of"]

PAD, UNKNOWN = 0, 1
"""The ids that every vocabulary begins with. The pattern splits their names, so no text can spell them."""
SPECIAL = ("[PAD]", "[UNK]")

_BLOCK = 4 << 20
"""Bytes of text that are split at once."""
_MEMO = 1 << 17
"""Pieces that are not ASCII whose ids are remembered."""
_SHORT = 64
"""The longest of them, in characters."""


def backend_of(words: Sequence[str]) -> Any:
    """The `tokenizers.Tokenizer` whose ids are places in `words`, which begins with `SPECIAL`."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=SPECIAL[UNKNOWN]))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True)
    return made


@dataclass(frozen=True)
class Vocabulary:
    """The words of a corpus by falling frequency; a word's place is its id.

    Args:
        words: [v]; the first two are `SPECIAL`.
        counts: int64 [v], how often each word occurs.
        documents: int64 [v], in how many texts.
        seen: what it was built from: `texts`, `tokens`, `types`, and `undercount`, by how much a count may be too low
            (0: all are exact).
    """

    words: tuple[str, ...]
    counts: NDArray[np.int64]
    documents: NDArray[np.int64]
    seen: dict[str, int] = field(default_factory=dict)

    @classmethod
    def build(
        cls, texts: Iterable[str], *, min_count: int = 2, max_size: int | None = 200_000, ceiling: int = 4_000_000
    ) -> Vocabulary:
        """Count the words of a stream of texts.

        Words of equal frequency are in alphabetical order: the result does not depend on the order of the texts as long
        as `ceiling` is not reached.

        Args:
            texts: read once.
            min_count: rarer words are left out.
            max_size: words at most, the two special ones included; the most frequent stay. None for no limit.
            ceiling: different words that are counted at once; beyond it the rarest are forgotten, which is what bounds
                the memory (about 150 bytes a word).

        Raises:
            ConfigError: a limit is out of range.
        """
        if min_count < 1 or (max_size is not None and max_size < 3) or ceiling < 1:
            raise ConfigError(
                f"min_count {min_count}, max_size {max_size} or ceiling {ceiling} is out of range",
                "min_count and ceiling are at least 1, max_size is at least 3",
            )
        return cls.of(count(texts, backend_of(SPECIAL), _BLOCK, ceiling), min_count, max_size)

    @classmethod
    def of(cls, found: Counts, min_count: int = 1, max_size: int | None = None) -> Vocabulary:
        """The frequent ones of counted words."""
        kept = [(-number, word) for word, (number, _) in found.words.items() if number >= min_count]
        kept.sort()
        names = [word for _, word in kept[: None if max_size is None else max_size - len(SPECIAL)]]
        table = np.array([(0, 0)] * len(SPECIAL) + [found.words[word] for word in names], np.int64).reshape(-1, 2)
        seen = {"texts": found.texts, "tokens": found.tokens, "types": found.types, "undercount": found.undercount}
        return cls((*SPECIAL, *names), table[:, 0].copy(), table[:, 1].copy(), seen)

    def cut(self, min_count: int = 1, max_size: int | None = None) -> Vocabulary:
        """Its frequent words alone, as if it had been built so."""
        size = min(len(self), max_size or len(self))
        size = min(size, len(SPECIAL) + int((self.counts[len(SPECIAL) :] >= min_count).sum()))
        return Vocabulary(self.words[:size], self.counts[:size], self.documents[:size], self.seen)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """word → id."""
        return {word: at for at, word in enumerate(self.words)}

    @property
    def report(self) -> dict[str, Any]:
        """What of the corpus it covers: words, shares of types and of tokens that are known, and how it was counted."""
        known = len(self.words) - len(SPECIAL)
        return {
            "words": known,
            "types_known": known / max(1, self.seen.get("types", known)),
            "tokens_known": int(self.counts.sum()) / max(1, self.seen.get("tokens", int(self.counts.sum()))),
            **self.seen,
        }

    def coverage(self, texts: Iterable[str]) -> dict[str, Any]:
        """What it covers of other texts: `tokens`, `types`, and the shares of both that are known."""
        found = count(texts, backend_of(SPECIAL), _BLOCK, 4_000_000)
        known = [number for word, (number, _) in found.words.items() if word in self.ids]
        return {
            "texts": found.texts,
            "tokens": found.tokens,
            "types": found.types,
            "types_known": len(known) / max(1, found.types),
            "tokens_known": sum(known) / max(1, found.tokens),
        }

    def idf(self) -> NDArray[np.float32]:
        """ln(1 + (N − n + ½) / (n + ½)) of each word in n of N texts (Robertson & Zaragoza 2009, always positive),
        divided by its mean over all tokens, so that vectors keep their scale; 1 for the special ones. float32 [v].
        """
        n = self.documents.astype(np.float64)
        total = max(self.seen.get("texts", 0), int(n.max(initial=0)))
        idf = np.log1p((total - n + 0.5) / (n + 0.5))
        mean = float((idf * self.counts).sum() / self.counts.sum()) if self.counts.sum() else 1.0
        idf /= mean
        idf[: len(SPECIAL)] = 1.0
        return idf.astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over words, counts and rules."""
        numbers = json.dumps([self.counts.tolist(), self.documents.tolist(), self.seen], sort_keys=True)
        return fingerprint_texts([PATTERN, numbers, *self.words])

    def backend(self) -> Any:
        """The `tokenizers.Tokenizer`."""
        return backend_of(self.words)

    def tokenizer(self, max_length: int | None = None) -> WordTokenizer:
        """Texts → ids; a longer text is cut."""
        return WordTokenizer(self.words, max_length)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json (which other programs can load) and vocabulary.safetensors into a folder."""
        self.backend().save(str(folder / "tokenizer.json"))
        self.save_counts(folder)

    def save_counts(self, folder: Path) -> None:
        """Write vocabulary.safetensors beside a tokenizer.json that has the words."""
        from safetensors.numpy import save_file

        seen = {"seen": json.dumps(self.seen, sort_keys=True)}  # one key: several are written in any order
        save_file({"counts": self.counts, "documents": self.documents}, folder / "vocabulary.safetensors", seen)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            IntegrityError: a file is missing or damaged, or they do not fit each other.
        """
        from safetensors import SafetensorError, safe_open

        try:
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            words = tuple(sorted(model["vocab"], key=model["vocab"].__getitem__))
            with safe_open(folder / "vocabulary.safetensors", "np") as file:
                told = file.metadata() or {}
                told = json.loads(told["seen"]) if "seen" in told else told
                seen = {key: int(number) for key, number in told.items() if key != "format"}
                made = cls(words, file.get_tensor("counts"), file.get_tensor("documents"), seen)
            if words[:2] != SPECIAL or not len(words) == len(made.counts) == len(made.documents):
                raise ValueError(f"{len(words)} words and {len(made.counts)} counts do not fit")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise IntegrityError(
                f"{folder}: the vocabulary is damaged: {error}", "train again, or restore a copy"
            ) from None
        return made


@dataclass(frozen=True)
class Tokenised:
    """Tokens of n texts: ids int64 [total], one text after another; lengths int64 [n]; cut bool [n], whether the text
    was longer than the maximum length.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    cut: NDArray[np.bool_]

    def only(self, wanted: NDArray[np.bool_]) -> Tokenised:
        """The texts where `wanted` [n] is true."""
        return Tokenised(self.ids[np.repeat(wanted, self.lengths)], self.lengths[wanted], self.cut[wanted])


class WordTokenizer:
    """Texts → ids of words, as a token store takes it. Lone surrogates become question marks.

    Args:
        words: of a `Vocabulary`.
        max_length: words of a text that are read; None for all.

    Raises:
        ConfigError: `max_length` is below 1.
    """

    pad = PAD
    """The id that fills padded batches."""

    def __init__(self, words: Sequence[str], max_length: int | None = None) -> None:
        if max_length is not None and max_length < 1:
            raise ConfigError(f"max_length must be at least 1, not {max_length}", "leave it out for no limit")
        self.vocabulary = len(words)
        self.max_length = max_length
        self._words = tuple(words)
        self._table = _Table(self._words)
        self._memo: dict[str, list[int]] = {}

    @cached_property
    def backend(self) -> Any:
        """The `tokenizers.Tokenizer` that gives the same ids, the cut included."""
        made = backend_of(self._words)
        if self.max_length is not None:
            made.enable_truncation(self.max_length)
        return made

    @cached_property
    def _whole(self) -> Any:
        return backend_of(self._words)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over words, rules and maximum length."""
        return fingerprint({"words": fingerprint_texts([PATTERN, *self._words]), "max_length": self.max_length})

    def __call__(self, texts: Sequence[str]) -> Tokenised:
        """Tokenise."""
        raw = [text.encode("utf-8", "replace") for text in texts]
        heads = [self._head(text) for text in raw]
        parts = [self._block(heads[first:end]) for first, end in blocks_of(heads, _BLOCK)]
        made = _joined(parts)
        again = [
            at
            for at in np.flatnonzero(made.lengths <= (self.max_length or 0)).tolist()
            if len(heads[at]) < len(raw[at])
        ]
        if again:  # their beginning had too few words
            return _replaced(made, self._limit, [(at, self._block([raw[at]])) for at in again])
        return self._limit(made)

    def _head(self, text: bytes) -> bytes:
        """The beginning of a very long text, up to a white space: usually it has all the words that are read."""
        limit = None if self.max_length is None else 64 * self.max_length
        if limit is None or len(text) <= limit:
            return text
        space = max(text.rfind(b" ", 0, limit), text.rfind(b"\n", 0, limit))
        return text[:space] if space > 0 else text

    def _block(self, texts: Sequence[bytes]) -> Tokenised:
        """All words of some texts."""
        block = split(texts)
        ids, places = self._table.find(block), block.starts
        if block.foreign:
            lists = self._foreign(block.foreign)
            behind = np.repeat(np.searchsorted(places, block.pieces), [len(found) for found in lists])
            ids = np.insert(ids, behind, np.fromiter((i for found in lists for i in found), np.int64))
            places = np.insert(places, behind, np.repeat(block.pieces, [len(found) for found in lists]))
        bounds = np.searchsorted(places, block.bounds)
        return Tokenised(ids, np.diff(bounds), np.zeros(len(texts), np.bool_))

    def _foreign(self, pieces: Sequence[str]) -> list[list[int]]:
        """Ids of pieces that are not ASCII."""
        missing = list(dict.fromkeys(piece for piece in pieces if piece not in self._memo))
        found = {piece: code.ids for piece, code in zip(missing, self._whole.encode_batch_fast(missing), strict=True)}
        lists = [self._memo[piece] if piece in self._memo else found[piece] for piece in pieces]
        if len(self._memo) < _MEMO:
            self._memo |= {piece: ids for piece, ids in found.items() if len(piece) <= _SHORT}
        return lists

    def _limit(self, made: Tokenised) -> Tokenised:
        """Cut every text at the maximum length."""
        if self.max_length is None or not (cut := made.lengths > self.max_length).any():
            return made
        first = np.cumsum(made.lengths) - made.lengths
        kept = np.arange(len(made.ids)) - np.repeat(first, made.lengths) < self.max_length
        return Tokenised(made.ids[kept], np.minimum(made.lengths, self.max_length), cut)


def _joined(parts: Sequence[Tokenised]) -> Tokenised:
    if not parts:
        return Tokenised(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    ids, lengths, cut = zip(*((part.ids, part.lengths, part.cut) for part in parts), strict=True)
    return Tokenised(np.concatenate(ids), np.concatenate(lengths), np.concatenate(cut))


def _replaced(made: Tokenised, limit: Any, others: Sequence[tuple[int, Tokenised]]) -> Tokenised:
    """The same texts, some of them tokenised anew, each cut by `limit`."""
    pieces: list[Tokenised] = []
    start = 0
    for at, other in [*others, (len(made.lengths), None)]:
        between = np.zeros(len(made.lengths), np.bool_)
        between[start:at] = True
        pieces.append(limit(made.only(between)))
        if other is not None:
            pieces.append(limit(other))
        start = at + 1
    return _joined(pieces)


class _Table:
    """Words → ids: an open-addressed hash table over the keys of the short ASCII words, a dictionary for the others."""

    def __init__(self, words: Sequence[str]) -> None:
        short = [(at, word.encode()) for at, word in enumerate(words) if word.isascii() and len(word) <= WIDE]
        self._long = {word.encode(): at for at, word in enumerate(words) if word.isascii() and len(word) > WIDE}
        keys = np.frombuffer(b"".join(word.ljust(WIDE, b"\0") for _, word in short), "<u8").reshape(-1, 2)
        self._bits = max(4, int(2 * len(short)).bit_length())
        self._low, self._high = np.zeros(1 << self._bits, np.uint64), np.zeros(1 << self._bits, np.uint64)
        self._ids = np.full(1 << self._bits, -1, np.int32)
        self._steps = 1
        self._fill(keys[:, 0].copy(), keys[:, 1].copy(), np.array([at for at, _ in short], np.int32))

    def _fill(self, low: NDArray[np.uint64], high: NDArray[np.uint64], ids: NDArray[np.int32]) -> None:
        slots = self._slots(low, high)
        while len(ids):  # of those that want one free slot, the first gets it; the others go on to the next
            free = self._ids[slots] < 0
            _, first = np.unique(slots, return_index=True)
            wins = np.zeros(len(ids), np.bool_)
            wins[first] = free[first]
            at = slots[wins]
            self._low[at], self._high[at], self._ids[at] = low[wins], high[wins], ids[wins]
            low, high, ids = low[~wins], high[~wins], ids[~wins]
            slots = (slots[~wins] + 1) & (len(self._ids) - 1)
            self._steps += 1

    def _slots(self, low: NDArray[np.uint64], high: NDArray[np.uint64]) -> NDArray[np.int64]:
        mixed = low * np.uint64(0x9E3779B97F4A7C15) ^ (high * np.uint64(0xC2B2AE3D27D4EB4F) + (low >> np.uint64(29)))
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)

    def find(self, block: Block) -> NDArray[np.int64]:
        """The id of each word of a block, int64 [w]."""
        low, high = keys_of(block)
        slots = self._slots(low, high)
        ids = self._ids[slots].astype(np.int64)
        open_ = np.flatnonzero((ids >= 0) & ((self._low[slots] != low) | (self._high[slots] != high)))
        for _ in range(self._steps):
            if not len(open_):
                break
            slots[open_] = (slots[open_] + 1) & (len(self._ids) - 1)
            ids[open_] = self._ids[slots[open_]]
            other = (self._low[slots[open_]] != low[open_]) | (self._high[slots[open_]] != high[open_])
            open_ = open_[(ids[open_] >= 0) & other]
        ids[open_] = UNKNOWN
        ids[ids < 0] = UNKNOWN
        for at in np.flatnonzero(block.lengths > WIDE).tolist():
            ids[at] = self._long.get(block.word(at), UNKNOWN)
        return ids
