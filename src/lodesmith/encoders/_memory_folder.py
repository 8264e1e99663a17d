"""The folder of a memory model: its settings with SHA-256 of every file, the adapters as PEFT folders, and the language
model under them, or its name and the SHA-256 of its files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lodesmith.core.errors import ConfigError, IntegrityError
from lodesmith.core.files import atomic_folder, read_object, sha256_file, verify_files, write_json, write_text
from lodesmith.core.model_files import digests
from lodesmith.encoders._loading import MEMORY, find_model
from lodesmith.encoders._memory_model import ADAPTERS, LORA, MemoryModel
from lodesmith.encoders._memory_prompt import PROMPT, check_prompt
from lodesmith.encoders._memory_weights import OWN, file_of

__all__ = [
    "INSIDE",
    "MemorySettings",
    "Opened",
    "Told",
    "base_name",
    "base_of",
    "open_folder",
    "read_told",
    "save_folder",
    "verify_told",
    "write_folder",
]

_FORMAT = 3
"""Memory was read in 1 as it is, in 2 at the length of words."""
_LARGEST = 1 << 30
"""Bytes of weights up to which the language model is copied beside its adapters."""
_AGAIN = "train again, or restore a copy"
INSIDE = "../../base"
"""Where an adapter finds the language model that is copied beside it."""
_UNLISTED = ("README.md", MEMORY)


@dataclass(frozen=True)
class MemorySettings:
    """What a memory model is, beside its weights.

    Args:
        rate: tokens of a document that one memory token stands for.
        document_length: tokens of a document that are read.
        lora: the adapters' settings.
        prompt: what the generator reads, with {documents} and {question}.
        separator: between two documents.

    Raises:
        ConfigError: one is out of range.
    """

    rate: int = 16
    document_length: int = 256
    lora: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = PROMPT
    separator: str = "\n"

    def __post_init__(self) -> None:
        whole = isinstance(self.rate, int) and isinstance(self.document_length, int)
        if not whole or not isinstance(self.separator, str):
            found = f"rate {self.rate!r}, document_length {self.document_length!r}, separator {self.separator!r}"
            raise ConfigError(f"these are not two whole numbers and a text: {found}", "correct them")
        if self.document_length < 1:
            raise ConfigError(f"document_length {self.document_length} is no length", "give at least 1")
        if not 1 <= self.rate <= self.document_length:
            raise ConfigError(
                f"rate {self.rate} is not between 1 and document_length, {self.document_length}", "change it"
            )
        check_prompt(self.prompt)
        object.__setattr__(self, "lora", {**LORA, **self.lora})

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> MemorySettings:
        """From what is not None."""
        return cls(**{name: value for name, value in given.items() if value is not None})

    def check_same(self, given: Mapping[str, Any]) -> None:
        """Refuse settings that are not those of a saved model.

        Raises:
            ConfigError: one is another.
        """
        for name, value in given.items():
            own = getattr(self, name)
            if value is not None and ({**LORA, **value} if name == "lora" else value) != own:
                raise ConfigError(f"the model was made with {name} {own!r}, not {value!r}", f"give {own!r}, or null")

    def check_room(self, room: int | None) -> None:
        """Refuse a document that is longer with its memory tokens than what a language model reads.

        Args:
            room: tokens that it reads at most; None where it names no limit.

        Raises:
            ConfigError: it is longer.
        """
        if room is not None and self.document_length + self.count + 3 > room:
            raise ConfigError(
                f"document_length {self.document_length} with {self.count} memory tokens and 3 others is more than "
                f"the {room} tokens of the model",
                "lower document_length, or raise rate",
            )

    @property
    def count(self) -> int:
        """t, memory tokens of a document."""
        return max(1, self.document_length // self.rate)


@dataclass(frozen=True)
class Told:
    """What a folder says of itself.

    Args:
        settings: of the model.
        files: SHA-256 of every other file.
        name: how the language model was called; None where the folder holds a copy.
        digests: SHA-256 of the language model's files when it was read.
    """

    settings: MemorySettings
    files: Mapping[str, str]
    name: str | None
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Opened:
    """A folder whose files are those that were written.

    Args:
        settings: of the model.
        base: the folder of the language model.
        name: how the language model was called; None where the folder holds a copy.
        digests: SHA-256 of the language model's files when it was read.
    """

    settings: MemorySettings
    base: Path
    name: str | None
    digests: Mapping[str, str]


def open_folder(folder: Path) -> Opened:
    """Open a folder that `save_folder` wrote.

    Raises:
        IntegrityError: a file is missing, changed, or was not there; the language model is another.
        InputError: the language model is not here.
    """
    told = read_told(folder)
    verify_told(folder, told)
    return Opened(told.settings, base_of(folder, told), told.name, told.digests)


def read_told(folder: Path) -> Told:
    """What a folder that `save_folder` wrote says of itself.

    Raises:
        IntegrityError: it is damaged, or of another version.
    """
    told = read_object(folder / MEMORY)
    try:
        if told["format"] != _FORMAT:
            older = isinstance(told["format"], int) and told["format"] < _FORMAT
            raise IntegrityError(
                f"{folder}: was written in format {told['format']!r}, and this version reads {_FORMAT}",
                _AGAIN if older else "use a newer version",
            )
        settings = MemorySettings(**told["settings"])
        files, base = dict(told["files"]), dict(told["base"])
        name = None if base["name"] is None else str(base["name"])
        return Told(settings, files, name, dict(base["digests"]))
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise IntegrityError(f"{folder / MEMORY}: damaged: {error!r}", _AGAIN) from None


def verify_told(folder: Path, told: Told) -> None:
    """Compare the files of a folder with what it says of them.

    Raises:
        IntegrityError: one is missing, changed, or was not there.
    """
    verify_files(folder, told.files)
    if strange := sorted(_files(folder) - told.files.keys()):
        raise IntegrityError(f"{folder / strange[0]}: no file of this model", "remove it, or restore a copy")


def base_of(folder: Path, told: Told, find: Callable[[str], Path] = find_model) -> Path:
    """The folder of the language model under the adapters.

    Args:
        folder: whose files are those that were written.
        told: what it says.
        find: a language model's name → its folder.

    Raises:
        IntegrityError: the language model is another.
        InputError: it is not here.
    """
    if told.name is None:
        return folder / "base"
    place, expected = find(told.name), told.digests
    if (found := digests(place)) != expected:
        other = sorted(file for file in found.keys() | expected.keys() if found.get(file) != expected.get(file))[0]
        raise IntegrityError(
            f"{folder}: the adapters were trained over {told.name}, and {place / other} is "
            f"{'another now' if other in found else 'missing'}",
            "provide the language model as it was",
        )
    return place


def _files(folder: Path) -> set[str]:
    """What must be listed: every file but the card and the list itself."""
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return {name for name in found if name not in _UNLISTED and not Path(name).name.startswith(".")}


def save_folder(folder: Path | str, model: MemoryModel, opened: Opened) -> Path:
    """Write a folder, whole or not at all; it takes the place of one that is there.

    Args:
        folder: where.
        model: whose adapters and memory tokens.
        opened: settings, and the language model: copied where it has no name.
    """
    tensors = {adapter: {name: _plain(own) for name, own in model.weights(adapter).items()} for adapter in ADAPTERS}
    own = {"memory": _plain(model.memory), "mark": _plain(model.mark)}
    base = opened.name or INSIDE
    return write_folder(folder, opened, tensors, own, {name: _config(model, name, base) for name in ADAPTERS})


def write_folder(
    folder: Path | str,
    opened: Opened,
    adapters: Mapping[str, Mapping[str, Tensor]],
    own: Mapping[str, Tensor],
    configs: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write a folder of these tensors, whole or not at all.

    Args:
        folder: where.
        opened: settings, and the language model: copied where it has no name.
        adapters: the tensors of each adapter, by peft's names.
        own: `memory` and `mark`.
        configs: of each adapter what peft reads.

    Raises:
        IntegrityError: the language model's files are others than when it was read.
    """
    from safetensors.torch import save_file

    with atomic_folder(folder) as new:
        for adapter, state in adapters.items():
            file = file_of(new, adapter)
            file.parent.mkdir(parents=True)
            save_file(dict(state), file, metadata={"format": "pt"})
            write_json(file.with_name("adapter_config.json"), configs[adapter])
        save_file(dict(own), file_of(new, OWN), metadata={"format": "pt"})
        known, now = opened.digests, digests(opened.base)
        if other := sorted(name for name in known if now.get(name) != known[name]):
            raise IntegrityError(
                f"{opened.base / other[0]}: the language model has changed since it was read", "put back what it was"
            )
        if opened.name is None:
            (new / "base").mkdir()
            for name in known:
                shutil.copyfile(opened.base / name, new / "base" / name)
        files = {name: sha256_file(new / name) for name in sorted(_files(new))}
        base = {"name": opened.name, "digests": dict(known)}
        write_json(new / MEMORY, {"format": _FORMAT, "settings": asdict(opened.settings), "base": base, "files": files})
        write_text(new / "README.md", _card(opened))
    return Path(folder)


def base_name(source: str, folder: Path) -> str | None:
    """How a language model is found again; None for one that is copied: a folder here, with weights up to 1 GiB."""
    if not Path(source).is_dir():
        return source
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return None if size <= _LARGEST else str(folder.resolve())


def _plain(weight: Tensor) -> Tensor:
    return weight.detach().cpu().contiguous()


def _config(model: MemoryModel, adapter: str, base: str) -> dict[str, Any]:
    """An adapter's settings as peft reads them."""
    told = dict(model.model.peft_config[adapter].to_dict())
    told |= {"base_model_name_or_path": base, "inference_mode": True}
    return {
        name: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for name, value in sorted(told.items())
    }


def _card(opened: Opened) -> str:
    own = opened.settings
    return _CARD.format(
        base=opened.name or "the language model in `base/`", length=own.document_length, count=own.count
    )


_CARD = """---
library_name: peft
tags: [peft, retrieval, compression, lodesmith]
---
# Documents as memory tokens, trained with lodesmith

Adapters of {base}: `encoder` reads up to {length} tokens of a document and gives {count} vectors, `query_reasoner`
does so for a query, and `decoder` answers from documents' vectors. Vectors are compared by the cosine of the flattened
vectors. Weights are safetensors, each adapter a folder that PEFT loads.

```python
from lodesmith.encoders import MemoryEncoder

model = MemoryEncoder("path/of/this/folder")
documents = model.encode(["a passage", "another passage"])
print(model.answer(["a question"], [[documents.values[: model.count]]]))
```
"""
