"""The recurrent tower as a module of sentence-transformers, which has none for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from lodesmith.core.errors import InputError
from lodesmith.core.files import read_json, write_json
from lodesmith.encoders._reading import clean

if TYPE_CHECKING:
    from lodesmith.encoders.rnn import Recurrent

__all__ = ["RecurrentModule"]

_CONFIG = "recurrent.json"


class RecurrentModule(InputModule):  # type: ignore[misc]
    """Reads texts and gives `sentence_embedding`.

    Args:
        tower: what computes.
    """

    def __init__(self, tower: Recurrent) -> None:
        super().__init__()
        self.tower = tower
        self.tokenizer = tower.tokenizer.backend

    @property
    def max_seq_length(self) -> int | None:
        """Words of a text that are read."""
        return self.tower.tokenizer.max_length

    def get_embedding_dimension(self) -> int:
        """d of the result."""
        return self.tower.dimension

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Texts → ids and offsets."""
        made = self.tower.tokenizer(clean([(prompt or "") + text for text in inputs]))
        offsets = np.concatenate([[0], np.cumsum(made.lengths)]).astype(np.int64)
        return {"input_ids": torch.from_numpy(made.ids), "offsets": torch.from_numpy(offsets)}

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Adds the vectors."""
        packed = {"ids": features["input_ids"], "offsets": features["offsets"]}
        return features | {"sentence_embedding": self.tower(packed)}

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Write weights, words and settings."""
        if not safe_serialization:
            raise InputError("weights are saved as safetensors only", "leave safe_serialization as it is")
        folder = Path(output_path)
        state = {name: tensor.cpu().contiguous() for name, tensor in self.tower.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        self.tower.vocabulary.save(folder)
        write_json(folder / _CONFIG, self.tower.settings)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **others: Any) -> RecurrentModule:
        """Read what `save` wrote."""
        from lodesmith.encoders.rnn import Recurrent

        names = ("token", "cache_folder", "revision", "local_files_only")
        hub = {name: others[name] for name in names if name in others}
        place = Path(cls.load_dir_path(model_name_or_path, subfolder=subfolder, **hub))
        settings = read_json(place / _CONFIG)
        return cls(Recurrent.read(settings, place, settings["metric"]))
