"""The model folder of towers: sentence-transformers' modules, our settings beside them, and SHA-256 of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import InputError, IntegrityError
from lodesmith.core.files import atomic_folder, read_json, sha256_file, verify_files, write_json, write_text
from lodesmith.core.protocols import Metric
from lodesmith.encoders._loading import quiet
from lodesmith.encoders._tower import check_metric
from lodesmith.encoders._words import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SETTINGS", "Part", "load_tensors", "open_part", "save"]

SETTINGS = "lodesmith.json"
"""The file of a model folder that says what its towers are."""
_FORMAT = 1
_AGAIN = "train again, or restore a copy"


class Part:
    """A tower as it is saved: sentence-transformers' modules, and what it takes to make it again.

    Args:
        modules: the first reads texts.
        settings: JSON: `use`, the tower's name in the family, and its arguments.
        vocabulary: of its words.
        card: a sentence about it.
    """

    def __init__(
        self, modules: Sequence[nn.Module], settings: dict[str, Any], vocabulary: Vocabulary, card: str
    ) -> None:
        self.modules, self.settings, self.vocabulary, self.card = list(modules), settings, vocabulary, card


# -------------------------------------------------------------------- model folders


def save(folder: Path | str, metric: Metric, parts: Mapping[str, Part]) -> Path:
    """Write a model folder of sentence-transformers, atomically.

    Args:
        folder: takes the place of one that is there.
        metric: how vectors are compared.
        parts: one, for both sides, or `query` and `document`.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    sides = {side: part.modules for side, part in parts.items()}
    modules = next(iter(sides.values())) if len(sides) == 1 else [Router(sides, default_route="document")]
    with atomic_folder(folder) as new, quiet():
        model = SentenceTransformer(modules=modules, device="cpu", similarity_fn_name=metric)
        model.save_pretrained(str(new), create_model_card=False, safe_serialization=True)
        described = {}
        for side, part in parts.items():
            place = _place(new, side if len(parts) > 1 else None)
            part.vocabulary.save_counts(place)
            described[side] = part.settings | {"folder": place.relative_to(new).as_posix()}
        write_json(new / SETTINGS, {"format": _FORMAT, "metric": metric, "towers": described})
        write_text(new / "README.md", _card(metric, parts))
        names = [file for file in sorted(new.rglob("*")) if file.is_file() and file.name != "README.md"]
        digests = {file.relative_to(new).as_posix(): sha256_file(file) for file in names}
        write_json(new / "manifest.json", {"files": digests})
    return Path(folder)


def _place(folder: Path, side: str | None) -> Path:
    """Where the first module of a side is."""
    return folder if side is None else next(iter(sorted(folder.glob(f"{side}_0_*"))))


def open_part(folder: Path | str) -> dict[str, tuple[dict[str, Any], Path, Metric]]:
    """The towers of a model folder: settings, folder of the first module and metric of each side.

    Raises:
        InputError: it is no folder of towers.
        IntegrityError: a file is damaged.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise InputError("holds no towers that this package saved", "give the model folder of a run", path=folder)
    if not (folder / "manifest.json").is_file():
        raise IntegrityError(f"{folder}: manifest.json is missing", _AGAIN)
    try:
        verify_files(folder, read_json(folder / "manifest.json")["files"])
        described = read_json(folder / SETTINGS)
        if described["format"] != _FORMAT:
            raise InputError(f"was written in format {described['format']}", "use a newer version", path=folder)
        metric = check_metric(described["metric"])
        towers = described["towers"].items()
        return {side: (settings, folder / settings["folder"], metric) for side, settings in towers}
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder}: {SETTINGS} is damaged: {error!r}", _AGAIN) from None


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        IntegrityError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"{file}: the weights are damaged: {error}", _AGAIN) from None


def _card(metric: Metric, parts: Mapping[str, Part]) -> str:
    """The model card."""
    lines = "\n".join(f"- {side}: {part.card}" for side, part in parts.items())
    foreign = any(
        not type(m).__module__.startswith("sentence_transformers.") for p in parts.values() for m in p.modules
    )
    note = "It needs lodesmith, whose module class it names." if foreign else "It needs no code of its own."
    flag = ", trust_remote_code=True" if foreign else ""
    return _CARD.format(lines=lines, metric=metric, note=note, flag=flag)


_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, retrieval, lodesmith]
---
# Towers over words, trained with lodesmith

{lines}

Vectors are compared by {metric}; weights are safetensors. {note}

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/of/this/folder"{flag})
queries = model.encode_query(["a question"])
documents = model.encode_document(["a passage", "another passage"])
print(model.similarity(queries, documents))
```
"""
