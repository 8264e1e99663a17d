"""`WordVectors`: a vector for each of some words, and the folders that hold such."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import atomic_folder, read_json, sha256_folder, verify_files, write_json
from lodesmith.core.hashing import fingerprint
from lodesmith.encoders._words import UNKNOWN, Vocabulary

__all__ = ["WordVectors", "of_folder"]


@dataclass(frozen=True, eq=False)
class WordVectors:
    """A vector for each of some words.

    Args:
        words: [n], different from each other.
        values: float32 [n, d].
        info: what made them.
    """

    words: tuple[str, ...]
    values: NDArray[np.float32]
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.words) != len(self.values):
            raise InputError(
                f"words and vectors are not the same number: {len(self.words)} != {list(self.values.shape)}"
            )
        if len(self.ids) != len(self.words):
            raise InputError("a word occurs twice", "keep one vector of each word")
        if not np.isfinite(self.values).all():
            raise InputError("a word vector has NaN or infinity", "correct the file, or fetch it again")

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.values.shape[1])

    @cached_property
    def ids(self) -> dict[str, int]:
        """word → row."""
        return {word: at for at, word in enumerate(self.words)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over words and values."""
        import hashlib

        raw = hashlib.sha256(np.ascontiguousarray(self.values, "<f4").tobytes()).hexdigest()
        return fingerprint({"words": list(self.words), "values": raw})

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """The k words of largest cosine to a word, with the cosine.

        Raises:
            InputError: the word has no vector.
        """
        if word not in self.ids:
            raise InputError(f"there is no vector of {word!r}", "ask for a word of the vocabulary")
        lengths = np.linalg.norm(self.values, axis=1)
        own = self.values[self.ids[word]]
        scores = self.values @ own / np.maximum(lengths * np.linalg.norm(own), 1e-30)
        scores[self.ids[word]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self.words[at], float(scores[at])) for at in best if np.isfinite(scores[at])]

    def save(self, folder: Path | str) -> Path:
        """Write a folder of word_vectors.safetensors, words.json and manifest.json; it takes the place of an old one,
        whole or not at all.

        Raises:
            InputError: the folder holds something else, which would be lost.
        """
        from safetensors.numpy import save_file

        folder = Path(folder)
        ours = (folder / "words.json").exists()
        if folder.exists() and not (folder.is_dir() and (ours or not any(folder.iterdir()))):
            raise InputError("exists and holds no word vectors", "choose another folder, or delete it", path=folder)
        with atomic_folder(folder) as new:
            write_json(new / "words.json", list(self.words), indent=None)
            save_file({"vectors": np.ascontiguousarray(self.values, np.float32)}, new / "word_vectors.safetensors")
            shape = {"words": len(self.words), "dimension": self.dimension}
            write_json(new / "manifest.json", {"info": self.info, **shape, "files": sha256_folder(new)})
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> WordVectors:
        """Read what `save` wrote, every byte compared with its SHA-256.

        Raises:
            InputError: it is no such folder.
            IntegrityError: a file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        if not (folder / "manifest.json").is_file() or not (folder / "words.json").is_file():
            raise InputError("holds no word vectors", "`lode train word_vectors` writes such a folder", path=folder)
        manifest = read_json(folder / "manifest.json")
        try:
            verify_files(folder, manifest["files"])
            values = load_file(folder / "word_vectors.safetensors")["vectors"]
            return cls(tuple(read_json(folder / "words.json")), values, manifest["info"])
        except (SafetensorError, KeyError, TypeError, InputError) as error:
            raise IntegrityError(f"{folder}: damaged: {error}", "train again, or restore a copy") from None

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"WordVectors({len(self)} words × {self.dimension})"


def of_folder(folder: Path) -> WordVectors:
    """The vectors of a folder of ours, of a bag's model folder, or of the run that trained one.

    Raises:
        InputError: it holds none.
        IntegrityError: a file is damaged.
    """
    if (folder / "recipe.yaml").is_file():
        if not (folder / "model").is_dir():
            raise InputError("this run has no model yet", "finish it: lode train … --resume", path=folder)
        folder = folder / "model"
    return _of_bag(folder) if (folder / "lodesmith.json").is_file() else WordVectors.load(folder)


def _of_bag(folder: Path) -> WordVectors:
    """The rows of a bag, its term weights in them."""
    from lodesmith.encoders._tower_folder import load_tensors, open_part

    parts = open_part(folder)
    if set(parts) != {"both"} or parts["both"][0].get("use") != "bag":
        raise InputError("holds no word vectors: it is no bag of words for both sides", "choose another", path=folder)
    place = parts["both"][1]
    words, tensors = Vocabulary.load(place).words, load_tensors(place / "model.safetensors")
    rows = tensors.get("embedding.weight")
    if rows is None or len(rows) != len(words):
        raise IntegrityError(f"{folder}: {len(words)} words do not fit the weights", "train again, or restore a copy")
    return WordVectors(words[UNKNOWN + 1 :], rows.numpy()[UNKNOWN + 1 :], {"source": folder.name})
