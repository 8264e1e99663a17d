"""The memory models of a run: the final one, and the one that each stage left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodesmith.core.errors import ConfigError, InputError, IntegrityError
from lodesmith.core.files import read_object
from lodesmith.recipes._run_folder import STAGES
from lodesmith.recipes.systems import load_encoder

if TYPE_CHECKING:
    from lodesmith.encoders.memory import MemoryEncoder

__all__ = ["MemoryModels", "open_memory"]

_TRAIN = "give a run of `lode train clara`, or its model/ folder"
_AGAIN = "restore a copy, or train again"


def open_memory(name: str) -> MemoryEncoder:
    """A memory model from a run directory or a model folder.

    Raises:
        InputError: there is none, or it is no memory model.
        IntegrityError: its weights are not those that training wrote.
    """
    from lodesmith.encoders._loading import MEMORY, find_model, is_memory
    from lodesmith.encoders.memory import MemoryEncoder

    path = Path(name)
    if (path / "recipe.yaml").is_file():
        other = (path / "model").is_dir() and not (path / "model" / MEMORY).is_file()
    else:
        other = not is_memory(find_model(name))
    if other:
        raise InputError(f"{name} is no memory model, and answers are read from memory tokens", _TRAIN)
    encoder = load_encoder(name)
    assert isinstance(encoder, MemoryEncoder)
    return encoder


class MemoryModels:
    """The models of a run by what is asked of them; one is in memory at a time.

    Args:
        name: a run directory, or the folder of one model, which has no stages.
    """

    def __init__(self, name: str) -> None:
        self.spelling, path = name, Path(name)
        self.run = path if (path / "recipe.yaml").is_file() else None
        self.name = path.resolve().name if path.exists() else name
        self._open: tuple[str, MemoryEncoder] | None = None

    @property
    def stages(self) -> list[str]:
        """The stages whose models were kept: all but the last, which left `model/`.

        Raises:
            IntegrityError: the manifest is damaged.
        """
        return [*self._files]

    @property
    def _files(self) -> dict[str, Any]:
        """Stage → the SHA-256 of its files."""
        if self.run is None:
            return {}
        kept = read_object(self.run / "manifest.json").get("stage_files", {})
        if not isinstance(kept, dict) or any(Path(name).name != name for name in kept):
            raise IntegrityError(f"{self.run / 'manifest.json'}: damaged: {kept!r:.80} is no list of stages", _AGAIN)
        return kept

    def folder(self, stage: int | None) -> str:
        """Where the model lies that a stage left (1 is the first), or, of None, the final one.

        Raises:
            ConfigError: there is no such stage.
        """
        if stage is None:
            return self.spelling
        if self.run is None:
            raise ConfigError(f"{self.spelling} is one model, and its stages are not there", "give the run's directory")
        if not (self.run / "manifest.json").is_file():
            raise InputError("this run has no model yet", "finish it: lode train … --resume", path=self.run)
        names = self.stages
        if stage > len(names) + 1:
            count = "one stage" if not names else f"{len(names) + 1} stages"
            raise ConfigError(f"{self.run} has {count}, and stage {stage} is asked for", "leave it out")
        return self.spelling if stage == len(names) + 1 else str(self.run / STAGES / names[stage - 1])

    def open(self, stage: int | None) -> MemoryEncoder:
        """The model of `folder`.

        Raises:
            IntegrityError: its weights are not those that training wrote.
        """
        folder = self.folder(stage)
        if self._open is None or self._open[0] != folder:
            self._open = None  # let go of one before the next is loaded
            self._open = folder, open_memory(folder)
        return self._open[1]
